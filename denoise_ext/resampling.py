"""Bicubic resampling as MATLAB's ``imresize`` does it: the protocol of published upscalers."""

from __future__ import annotations

import math
import numbers
from fractions import Fraction

import torch
from torch import Tensor

_REACH = 2  # pixels of the coarser grid: half the width of the kernel
_LARGEST_DENOMINATOR = 1 << 20  # of a factor that is given as a float: 0.1 means a tenth


def imresize(x: Tensor, scale: float | Fraction) -> Tensor:
    """Resize images by a factor, with a cubic kernel and antialiasing.

    The kernel is Keys' with a = -0.5 (IEEE TASSP 1981). Below factor 1 it is 1 / ``scale`` times as
    wide, so that nothing aliases. The image is mirrored at its edges, the last pixel repeated.
    This is MATLAB's ``imresize(x, scale, "bicubic")``. PyTorch's ``interpolate`` and Pillow differ:
    at the edges, or by their kernel, or without antialiasing.

    Args:
        x: (..., H, W), floating point; differentiable.
        scale: new size over old size, > 0. A float counts as the nearest fraction with a
            denominator of at most 2^20.

    Returns:
        (..., ceil(H * scale), ceil(W * scale)), of x's dtype, not clipped.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.

    Example:
        >>> x = torch.rand(1, 3, 30, 40)
        >>> denoise_ext.resampling.imresize(x, 0.5).shape
        torch.Size([1, 3, 15, 20])
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {got}")
    if x.dim() < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"x must have shape (..., H, W) with H, W >= 1, got {tuple(x.shape)}")
    factor = _checked(scale)
    for dim in (-2, -1):
        x = _resized(x, factor, dim)
    return x


def _checked(scale: object) -> Fraction:
    if isinstance(scale, bool) or not isinstance(scale, numbers.Real):
        raise TypeError(f"scale must be a number, got {type(scale).__name__}")
    if not 0 < float(scale) < math.inf:
        raise ValueError(f"scale must be finite and > 0, got {scale}")
    if isinstance(scale, numbers.Rational):
        factor = Fraction(scale)
    else:
        factor = Fraction(float(scale)).limit_denominator(_LARGEST_DENOMINATOR)
    if factor <= 0:
        raise ValueError(f"scale must be at least 2^-20, got {scale}")
    return factor


def _resized(x: Tensor, factor: Fraction, dim: int) -> Tensor:
    """Resize one axis."""
    size = x.shape[dim]
    places, weights = contributions(size, factor)
    shape = [1] * x.dim()
    shape[dim] = len(weights)
    total: Tensor | None = None
    for place, weight in zip(places.to(x.device).T, weights.to(x).T, strict=True):
        term = x.index_select(dim, place) * weight.reshape(shape)
        total = term if total is None else total + term
    assert total is not None  # every row of weights sums to 1
    return total


def contributions(size: int, factor: Fraction) -> tuple[Tensor, Tensor]:
    """Which values of an axis make each new value, and their weights.

    Returns:
        places (new size, taps) int64 and weights (new size, taps) float64, of sum 1.

    Example:
        >>> from fractions import Fraction
        >>> places, weights = denoise_ext.resampling.contributions(8, Fraction(2))
        >>> places.shape, float(weights.sum())
        (torch.Size([16, 4]), 16.0)
    """
    new = math.ceil(size * factor)
    stretch = min(float(factor), 1.0)
    # Pixels are squares: the centre of new pixel i is at (i + 0.5) / factor - 0.5.
    centre = (torch.arange(new, dtype=torch.float64) + 0.5) / float(factor) - 0.5
    reach = _REACH / stretch
    first = (centre - reach).floor().long()
    places = first[:, None] + torch.arange(math.ceil(2 * reach) + 2)
    weights = _cubic((centre[:, None] - places) * stretch)
    weights = weights / weights.sum(1, keepdim=True)
    used = (weights != 0).any(0)
    mirrored = places % (2 * size)
    mirrored = torch.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    return mirrored[:, used], weights[:, used]


def enlargement(size: int, factor: int) -> Tensor:
    """The matrix that reduces an axis by ``factor`` and enlarges it again, both by `imresize`.

    Args:
        size: a multiple of ``factor``.

    Returns:
        (size, size) float64: ``matrix @ x`` for a column of an image.

    Example:
        >>> matrix = denoise_ext.resampling.enlargement(16, 4)
        >>> matrix.shape, bool(torch.allclose(matrix.sum(1), torch.ones(16, dtype=torch.float64)))
        (torch.Size([16, 16]), True)
    """
    down = _dense(size, Fraction(1, factor))
    return _dense(size // factor, Fraction(factor)) @ down


def _dense(size: int, factor: Fraction) -> Tensor:
    """(new size, size), the weights of `contributions` at their places."""
    places, weights = contributions(size, factor)
    matrix = torch.zeros(len(weights), size, dtype=weights.dtype)
    return matrix.scatter_add_(1, places, weights)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))
