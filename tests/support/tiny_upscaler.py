"""A narrow upscaler with random weights, and one in a file."""

from __future__ import annotations

from pathlib import Path

import torch

from denoise_ext.models import save_model
from denoise_ext.models.srnet import SRNet


def tiny_upscaler(scale: int = 2, channels: int = 3) -> SRNet:
    network = SRNet(channels, scale, width=8, blocks=1)
    network.initialise(torch.Generator().manual_seed(3))
    return network.eval()


def upscaler_file(folder: Path, scale: int = 2) -> Path:
    path = folder / f"x{scale}.safetensors"
    save_model(tiny_upscaler(scale), path, dtype=torch.float32)
    return path
