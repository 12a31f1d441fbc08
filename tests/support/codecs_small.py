"""Small codecs with random weights, sealed, and pictures for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from denoise_ext.models import save_model
from denoise_ext.models.dxcodec import DXCodec
from denoise_ext.training.sealing import sealed_network

SMALL = {"widths": [16, 24, 32], "blocks": [1, 1, 1], "latents": 32, "rates": 3}


def untrained(seed: int = 0, **options: object) -> DXCodec:
    """A codec as training starts, with contexts that are not only its own channel."""
    network = DXCodec(**{**SMALL, **options})
    generator = torch.Generator().manual_seed(seed)
    network.initialise(generator)
    with torch.no_grad():
        for weights in (network.prior.mean, network.prior.scale, network.prior.inside):
            weights.add_(0.02 * torch.randn(weights.shape, generator=generator))
    return network.eval()


def sealed_file(path: Path, seed: int = 0, **options: object) -> Path:
    """The file of a sealed, untrained codec."""
    save_model(sealed_network(untrained(seed, **options)), path)
    return path


def picture(height: int, width: int, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    """(H, W) or (H, W, C): soft colours, some edges, a little noise."""
    rng = np.random.default_rng(height * width + channels)
    y, x = np.mgrid[:height, :width] / 40
    planes = [0.5 + 0.3 * np.sin(x * (c + 1) + y) + 0.15 * (x % 1 > y % 1) for c in range(channels)]
    image = np.stack(planes, -1) + 0.02 * rng.normal(size=(height, width, channels))
    white = np.iinfo(dtype).max
    image = (image.clip(0, 1) * white).round().astype(dtype)
    return image[..., 0] if channels == 1 else image
