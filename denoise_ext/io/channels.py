"""Meaning of the channels of pixels: 1 gray, 2 gray + alpha, 3 RGB, 4 RGB + alpha."""

from __future__ import annotations

import numpy as np
from PIL import Image


def colour_channels(channels: int) -> int:
    """How many of `channels` are not alpha: the last of 2 or 4 is.

    >>> [colour_channels(channels) for channels in (1, 2, 3, 4)]
    [1, 1, 3, 3]
    """
    return channels - (channels in (2, 4))


def without_alpha(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) pixels without their alpha; gray ones are (H, W)."""
    if pixels.ndim == 2:
        return pixels
    pixels = pixels[..., : colour_channels(pixels.shape[2])]
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) as (H, W): ITU-R 601 luma, (299 R + 587 G + 114 B) / 1000; uint8 or uint16."""
    if pixels.dtype == np.uint16:  # Pillow has no such colour images
        weighted = pixels.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
        return ((weighted + 500) // 1000).astype(np.uint16)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
