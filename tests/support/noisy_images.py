"""A picture made here, and noise of known kinds."""

from __future__ import annotations

import numpy as np
import torch

from denoise_ext.data.noise import add_jpeg_artefacts
from denoise_ext.data.noise.mosaic import demosaic_malvar

SIDE = 192


def scene(channels: int = 3) -> np.ndarray:
    """(SIDE, SIDE, channels) in [0.1, 0.9]: slopes, soft waves and an edge, all levels of gray."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    planes = [
        0.15 + 0.6 * x + 0.08 * np.sin(5 * y + k) + 0.1 * (y > 0.6 + 0.1 * k) for k in range(3)
    ]
    return np.stack(planes[:channels], axis=-1)


def gaussian(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def eight_bits(x: np.ndarray) -> np.ndarray:
    return (x.clip(0, 1) * 255).round().astype(np.uint8)


def as_tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(2, 0, 1)[None].float()


def as_array(x: torch.Tensor) -> np.ndarray:
    return x[0].permute(1, 2, 0).numpy()


def impulses(pixels: np.ndarray, share: float) -> np.ndarray:
    draw = np.random.default_rng(7).random(pixels.shape[:2])
    pixels = pixels.copy()
    pixels[draw < share / 2] = 0
    pixels[draw > 1 - share / 2] = 255
    return pixels


def coloured_noise(kind: str) -> np.ndarray:
    """The scene with noise that is not white."""
    clean = scene()
    if kind == "luma":
        return eight_bits(clean + gaussian((SIDE, SIDE, 1)) * 15 / 255)
    if kind == "bayer":
        sites = as_tensor(gaussian((SIDE, SIDE, 1)) * 15 / 255)
        return eight_bits(clean + as_array(demosaic_malvar(sites)))
    if kind == "jpeg":
        noisy = as_tensor(clean + gaussian(clean.shape) * 15 / 255)
        return eight_bits(as_array(add_jpeg_artefacts(noisy, 75)))
    small = as_tensor(gaussian((SIDE // 2, SIDE // 2, 3)) * 15 / 255)
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bicubic")
    return eight_bits(clean + as_array(large))
