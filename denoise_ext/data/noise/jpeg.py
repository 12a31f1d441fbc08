"""JPEG compression."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_ext.data.noise._draw import Strength, checked_image, per_image


def add_jpeg_artefacts(x: Tensor, quality: Strength, half_colour: bool | Tensor = True) -> Tensor:
    """``x`` after one turn through a JPEG file: **clipped to [0, 1]** and rounded to 8 bits first.

    Nothing random, no gradient.

    Args:
        x: (N, 1 or 3, H, W).
        quality: 1 to 100, libjpeg's scale, rounded to whole numbers; a number or (N,).
        half_colour: store colour at half the resolution (4:2:0), as most files do, or at the full
            one (4:4:4); one choice, or (N,) of them.

    Example:
        >>> x = torch.rand(1, 3, 32, 32)
        >>> stored = [denoise_ext.data.noise.add_jpeg_artefacts(x, quality) for quality in (30, 95)]
        >>> worse, better = (float((y - x).square().mean()) for y in stored)
        >>> worse > better
        True
    """
    image = checked_image(x)
    if image.shape[1] not in (1, 3):
        raise ValueError(f"x must have 1 or 3 channels, got shape {tuple(x.shape)}")
    levels = per_image("quality", quality, image, 1.0, 100.0).round().flatten().int().tolist()
    levels *= len(image) // len(levels)
    halved = torch.as_tensor(half_colour, dtype=torch.bool).expand(len(image)).tolist()
    pixels = (image.detach().clamp(0, 1) * 255.0).round().to(torch.uint8).cpu()
    arrays = [_through_a_file(p.numpy(), q, h) for p, q, h in zip(pixels, levels, halved)]
    decoded = torch.from_numpy(np.stack(arrays)).to(image.device)
    return (decoded.to(image.dtype) / 255.0).to(x.dtype)


def _through_a_file(pixels: np.ndarray, quality: int, half_colour: bool) -> np.ndarray:
    """(C, H, W) uint8 -> the same, compressed and decoded."""
    gray = len(pixels) == 1
    picture = Image.fromarray(
        np.ascontiguousarray(pixels[0] if gray else pixels.transpose(1, 2, 0))
    )
    stream = io.BytesIO()
    subsampling = -1 if gray else (2 if half_colour else 0)
    picture.save(stream, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(stream) as file:
        decoded = np.asarray(file)
    return decoded[None] if gray else decoded.transpose(2, 0, 1)
