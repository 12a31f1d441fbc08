"""What upscalers have in common: their result, sizes, alpha, and how a network is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoise_ext.resampling import imresize
from denoise_ext.runtime.model_names import Model, open_network
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.value_range import Range, from_unit, to_unit

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


def check_scale(scale: object, largest: int | None = None) -> None:
    """TypeError, ValueError unless it is None or a whole number from 2 on, to `largest`."""
    if scale is None:
        return
    if isinstance(scale, bool) or not isinstance(scale, int):
        raise TypeError(f"scale must be an int or None, got {scale!r}")
    if scale < 2 or (largest is not None and scale > largest):
        allowed = ">= 2" if largest is None else f"2 to {largest}"
        raise ValueError(f"scale must be {allowed}, got {scale}")


def upscaling_session(
    model: Model, options: RunOptions, check: Callable[[object], None]
) -> Session:
    """The network of an upscaler, ready to run.

    Args:
        model: a network, its name or checkpoint file.
        options: device, backend and precision count.
        check: called with the network; raises for one of another kind.
    """
    network = open_network(model, options.device, None, options.backend, channels=3)
    check(network)
    return Session(network, options.precision, options.backend == "native")


def enlarged_alpha(alpha: Tensor, scale: int, value_range: Range | None) -> Tensor:
    """Alpha (N, 1, H, W) of any dtype by bicubic interpolation, not beyond black and white."""
    unit = imresize(to_unit(alpha, torch.float32, value_range), scale)
    return from_unit(unit.clamp(0, 1), alpha.dtype, value_range)
