"""What upscalers give back, and the sizes that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SMALLEST = 8
"""Rows and columns of an image, at least."""


@dataclass(frozen=True)
class Upscaled:
    """An enlarged image, with what is known beside it.

    Example:
        >>> network = denoise_ext.models.create_model("srnet_s_x2").eval()  # not trained
        >>> upscaled = denoise_ext.restore.Upscaler(network, sigma=0).run("photo.png")
        >>> upscaled.image.shape
        (96, 128, 3)
    """

    image: Any
    """The result, of the kind of the given image."""
    scale: int
    sigma: Any
    """The noise level that the network was conditioned on, on the 0-255 scale; None for networks
    that take none; for a picture of several frames their mean."""
    sigma_estimated: bool
    seconds: float
    tiles: int


def check_sizes(sizes: Sequence[tuple[int, ...]], scale: int, max_pixels: int) -> None:
    """ValueError for images (rows, columns) that are too small, or too large when enlarged."""
    for height, width in sizes:
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"image must have at least {SMALLEST} x {SMALLEST} pixels, got {width} x {height}"
            )
    total = sum(height * width for height, width in sizes) * scale**2
    if total > max_pixels:
        height, width = sizes[0]
        several = f" x {len(sizes)} frames" if len(sizes) > 1 else ""
        raise ValueError(
            f"image of {width} x {height} pixels{several} makes {total} pixels at scale {scale},"
            f" more than the limit of {max_pixels} (max_pixels)"
        )


def checked_pixels(max_pixels: object) -> int:
    """`max_pixels`, or a ValueError."""
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"max_pixels must be an int >= 1, got {max_pixels!r}")
    return max_pixels
