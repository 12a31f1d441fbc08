"""Blur kernels (point spread functions): made from a formula, read from a file, checked.

A kernel blurs by convolution: ``y[p] = sum_q kernel[q] x[p - q]``, where q is counted from the
kernel's middle pixel.  `scipy.ndimage.convolve` has the same meaning.
"""

from __future__ import annotations

import logging
import math
import numbers
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_ext.io import ImageError, read_picture
from denoise_ext.io.channels import without_alpha
from denoise_ext.io.errors import shown
from denoise_ext.io.read import as_shown

logger: logging.Logger = logging.getLogger("denoise_ext.restore")

LARGEST = 1023
"""Most pixels on a side of a kernel."""
_CUT = 4  # a Gaussian ends so many sigmas from its middle
_TINY = 1e-9
_FINE = 32  # samples on a side of a pixel that a disk's edge crosses
_FORMS = "a file, gaussian:SIGMA, motion:LENGTH,ANGLE or disk:RADIUS"

Kernel = np.ndarray | Tensor | str | os.PathLike[str]


def gaussian_kernel(sigma: float) -> Tensor:
    """A Gaussian of this standard deviation in pixels, cut at 4 sigma: (n, n) float64, sum 1.

    Example:
        >>> kernel = denoise_ext.restore.gaussian_kernel(1.0)
        >>> kernel.shape, round(float(kernel.sum()), 6)
        (torch.Size([9, 9]), 1.0)
    """
    sigma = _size("gaussian: sigma", sigma, LARGEST / (2 * _CUT + 2))
    reach = math.ceil(_CUT * sigma)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    line = torch.exp(-0.5 * (x / sigma) ** 2)
    return _normalised(line[:, None] * line)


def motion_kernel(length: float, angle: float = 0.0) -> Tensor:
    """A straight motion of `length` pixels: (n, n) float64, sum 1.

    Args:
        length: of the line, in pixels.
        angle: in degrees, counter-clockwise from a motion to the right.

    Example:
        >>> kernel = denoise_ext.restore.motion_kernel(3)
        >>> kernel.shape, round(float(kernel.sum()), 6)
        (torch.Size([1, 5]), 1.0)
    """
    length = _size("motion: length", length, LARGEST - 3)
    if not isinstance(angle, numbers.Real) or not math.isfinite(angle):
        raise ValueError(f"motion: angle must be a finite number of degrees, got {angle!r}")
    reach = math.ceil(length / 2)
    steps = 8 * math.ceil(length) + 1
    along = (torch.arange(steps, dtype=torch.float64) / (steps - 1) - 0.5) * length
    radians = math.radians(angle)
    kernel = torch.zeros(2 * reach + 3, 2 * reach + 3, dtype=torch.float64)
    # Each point of the line is shared by the four pixels around it.
    rows, columns = reach + 1 - along * math.sin(radians), reach + 1 + along * math.cos(radians)
    top, left = rows.floor(), columns.floor()
    for down in (0, 1):
        for right in (0, 1):
            share = (1 - (rows - top - down).abs()) * (1 - (columns - left - right).abs())
            kernel.index_put_(((top + down).long(), (left + right).long()), share, accumulate=True)
    return _trimmed(_normalised(kernel))


def disk_kernel(radius: float) -> Tensor:
    """A disk, as a lens out of focus makes it: (n, n) float64, sum 1; pixels by their area.

    Example:
        >>> kernel = denoise_ext.restore.disk_kernel(2.0)
        >>> kernel.shape, round(float(kernel.sum()), 6)
        (torch.Size([5, 5]), 1.0)
    """
    radius = _size("disk: radius", radius, (LARGEST - 1) / 2)
    reach = math.ceil(radius)
    rows = []
    fine = (torch.arange(_FINE, dtype=torch.float64) + 0.5) / _FINE - 0.5
    x = (torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None] + fine).flatten()
    for y in range(-reach, reach + 1):
        inside = (y + fine)[:, None] ** 2 + x**2 <= radius**2
        rows.append(inside.double().reshape(_FINE, -1, _FINE).mean(dim=(0, 2)))
    kernel = torch.stack(rows)
    kernel[reach, reach].clamp_(min=_TINY)  # a disk that no sample lies in is one pixel
    return _trimmed(_normalised(kernel))


def open_kernel(kernel: Kernel) -> Tensor:
    """A kernel of any form as (h, w) float64, h and w odd, with sum 1.

    Args:
        kernel: array or tensor (h, w); an image file, gray; or a text: "gaussian:2.0" (sigma in
            pixels), "motion:15,30" (length in pixels, degrees), "disk:4" (radius in pixels).
            One that does not sum to 1 is divided by its sum, which is logged.

    Raises:
        TypeError: no array, tensor or text of real numbers.
        ValueError: numbers that are not finite, a sum that is not positive, even sides, more than
            1023 pixels on a side, a text that means nothing.
        ImageError: (a ValueError) a file that cannot be read.

    Example:
        >>> denoise_ext.restore.open_kernel(np.ones((1, 5)))[0]
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000], dtype=torch.float64)
    """
    name = "kernel"
    if isinstance(kernel, (str, os.PathLike)):
        name, kernel = _named(os.fspath(kernel))
    if isinstance(kernel, np.ndarray):
        if kernel.dtype.kind not in "uif":
            raise TypeError(f"kernel must hold real numbers, got {kernel.dtype}")
        kernel = torch.from_numpy(np.ascontiguousarray(kernel, dtype=np.float64))
    if not isinstance(kernel, Tensor):
        raise TypeError(f"kernel must be an array, a tensor, {_FORMS}, got {type(kernel).__name__}")
    if kernel.is_complex() or kernel.dtype == torch.bool:
        raise TypeError(f"kernel must hold real numbers, got {kernel.dtype}")
    kernel = kernel.detach().to("cpu", torch.float64)
    if kernel.dim() != 2 or kernel.numel() == 0:
        raise ValueError(f"{name} must be (h, w), h and w >= 1, got shape {tuple(kernel.shape)}")
    if max(kernel.shape) > LARGEST:
        raise ValueError(f"{name} must have at most {LARGEST} pixels on a side, got {_by(kernel)}")
    if not bool(torch.isfinite(kernel).all()):
        raise ValueError(f"{name} must hold finite numbers, got NaN or infinity")
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(
            f"{name} must have odd sides, so that one pixel is its middle, got {_by(kernel)}; add"
            " a row or a column of zeros"
        )
    total = float(kernel.sum())
    if not total > 1e-12 * float(kernel.abs().sum()):
        raise ValueError(f"{name} must have a sum > 0, got {total:g}")
    if abs(total - 1) > 1e-6:
        logger.info("%s of %s pixels: divided by its sum, %g", name, _by(kernel), total)
    return _normalised(kernel)


def _named(text: str) -> tuple[str, Any]:
    """A kernel by a text, and a name for errors."""
    form = re.fullmatch(r"(gaussian|motion|disk):(.*)", text)
    if form is None:
        if not os.path.exists(text):
            raise ValueError(f"kernel must be {_FORMS}, got {text!r}, and there is no such file")
        return shown(text), _from_file(text)
    try:
        numbers = [float(part) for part in form[2].split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in ((1, 2) if form[1] == "motion" else (1,)):
        raise ValueError(f"kernel must be {_FORMS}, with numbers, got {text!r}")
    forms: dict[str, Callable[..., Tensor]] = {
        "gaussian": gaussian_kernel, "motion": motion_kernel, "disk": disk_kernel,
    }  # fmt: skip
    return text, forms[form[1]](*numbers)


def _from_file(path: str) -> np.ndarray:
    picture = read_picture(path, max_pixels=LARGEST**2)
    if len(picture.frames) > 1:
        raise ImageError(f"{shown(path)}: a kernel must be one image, got {len(picture.frames)}")
    pixels = without_alpha(as_shown(picture)[0])
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise ImageError(f"{shown(path)}: a kernel must be a gray image, got colours")
        pixels = pixels[..., 0]
    return pixels.astype(np.float64)


def _size(name: str, value: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of pixels, got {value!r}")
    if not 0 < value <= most:
        raise ValueError(f"{name} must be > 0 and at most {most:g} pixels, got {value!r}")
    return float(value)


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _trimmed(kernel: Tensor) -> Tensor:
    """Without rows and columns of nothing at the border; the middle stays the middle."""
    rows, columns = (_border(kernel.amax(dim=1)), _border(kernel.amax(dim=0)))
    kernel = kernel[rows : kernel.shape[0] - rows, columns : kernel.shape[1] - columns]
    return kernel.contiguous()


def _border(largest: Tensor) -> int:
    """How many numbers at either end are nothing but rounding."""
    something = (torch.maximum(largest, largest.flip(0)) > 1e-12).nonzero()
    return int(something[0, 0])


def _by(kernel: Tensor) -> str:
    return f"{kernel.shape[0]} x {kernel.shape[1]}"
