"""The blur kernel of one blurred image, whose sharp one nobody has.

From coarse to fine, two steps alternate.  The first finds an image of few edges that explains the
blurred one: the least ``|k * x - y|^2 + w |gradients of x|_0``, by splitting.  The second finds the
kernel between the gradients of both, in closed form.  The image of edges is no result.  `deblur`
takes the kernel.

Sources: Xu, Zheng, Jia, "Unnatural L0 sparse representation for natural image deblurring" (CVPR
2013); Cho, Lee, "Fast motion deblurring" (SIGGRAPH Asia 2009).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext._choices import check_choice
from denoise_ext.restore.fit import check_fit_size, unit_pixels
from denoise_ext.restore.operators import BORDERS

SMALLEST = 3
"""Fewest pixels on a side of a kernel at the coarsest scale."""
_ROUNDS = 5  # at each scale
_EDGES = 8e-3, 3e-4  # weight of an edge: first and least, for black 0 and white 1
_FALL = 0.9  # of that weight from round to round
_LAST_SPLIT = 1e3  # weight of the splitting
_RIDGE = 2e-3  # of the kernel's squares, relative to the mean energy of gradients
_FAINT = 0.05  # of the largest number of a kernel: less is noise


def estimate_kernel(blurred: Any, size: int, border: str = "free") -> np.ndarray:
    """Find the kernel that blurred an image.

    Works for shaken and defocused photographs with strong edges in several directions, and for
    weak noise.  The kernel's place is not determined: it is put in the middle of its mass.

    Args:
        blurred: an image of any kind that `deblur` takes.  Colours share one kernel.
        size: side of the kernel in pixels, odd, 3 to 63, not less than the blur.
        border: beyond the edge: "free", or "circular" for the opposite edge.

    Returns:
        (size, size) float64, no negative numbers, sum 1.

    Raises:
        TypeError, ValueError: a wrong size, an image that is flat or smaller than twice the kernel.
    """
    check_fit_size(size)
    check_choice("border", border, BORDERS)
    if size < SMALLEST:
        raise ValueError(f"size must be at least {SMALLEST}, got {size}")
    y = unit_pixels("blurred", blurred).mean(dim=0)[None, None].float()
    if min(y.shape[-2:]) < 2 * size:
        raise ValueError(
            f"size: a kernel of {size} pixels needs an image of {2 * size} x {2 * size} at least,"
            f" got {y.shape[-2]} x {y.shape[-1]}"
        )
    if float(y.max() - y.min()) == 0:
        raise ValueError("blurred is flat: it fits every kernel")
    sizes = _scales(size)
    kernel = _first(sizes[0])
    edges, least = _EDGES
    for side in sizes:
        share = side / size
        shape = [max(1, round(n * share)) for n in y.shape[-2:]]
        small = y if side == size else F.interpolate(y, shape, mode="bilinear", antialias=True)
        if border == "free":
            small = _wrapped(small, side)
        kernel = _resized(kernel, side)
        for _ in range(_ROUNDS):
            x = _few_edges(small, kernel, edges)
            kernel = _between(x, small, side)
            edges = max(_FALL * edges, least)
    return _centred(kernel).double().numpy()


def _scales(size: int) -> list[int]:
    """Sides of the kernel from the coarsest to the finest scale, odd."""
    sizes = [size]
    while sizes[-1] > SMALLEST:
        smaller = max(SMALLEST, int(sizes[-1] / math.sqrt(2)) // 2 * 2 + 1)
        sizes.append(min(smaller, sizes[-1] - 2))
    return sizes[::-1]


def _first(side: int) -> Tensor:
    """A small blur without a direction, at which alternation can begin."""
    line = torch.ones(side) / 2
    line[side // 2] = 1
    kernel = line[:, None] * line
    return kernel / kernel.sum()


def _wrapped(y: Tensor, reach: int) -> Tensor:
    """y with rows and columns after its last ones that lead to its first ones."""
    for dim in (2, 3):
        last, first = y.narrow(dim, y.shape[dim] - 1, 1), y.narrow(dim, 0, 1)
        share = torch.arange(1, reach + 1, dtype=y.dtype) / (reach + 1)
        share = share[:, None] if dim == 2 else share
        y = torch.cat([y, last + share * (first - last)], dim)
    return y


def _resized(kernel: Tensor, side: int) -> Tensor:
    if len(kernel) == side:
        return kernel
    larger = F.interpolate(kernel[None, None], (side, side), mode="bicubic")[0, 0].clamp_min(0)
    return larger / larger.sum()


def _few_edges(y: Tensor, kernel: Tensor, edges: float) -> Tensor:
    """The x with the least |k * x - y|^2 + edges |gradients|_0, nearly (circular)."""
    size = y.shape[-2:]
    down, right = _differences(y)
    spectrum = _spectrum(kernel, size)
    data, power = spectrum.conj() * torch.fft.rfft2(y), spectrum.abs().square()
    gradients = down.abs().square() + right.abs().square()
    x, split = y, 2 * edges
    while split < _LAST_SPLIT:
        wave = torch.fft.rfft2(x)
        rows, columns = (torch.fft.irfft2(wave * d, s=size) for d in (down, right))
        weak = rows.square() + columns.square() < edges / split
        rows, columns = rows.masked_fill(weak, 0), columns.masked_fill(weak, 0)
        wanted = down.conj() * torch.fft.rfft2(rows) + right.conj() * torch.fft.rfft2(columns)
        wave = (data + split * wanted) / (power + split * gradients).clamp_min(1e-12)
        x = torch.fft.irfft2(wave, s=size)
        split *= 2
    return x


def _between(x: Tensor, y: Tensor, side: int) -> Tensor:
    """The kernel from x to y by their gradients, without noise and negative numbers."""
    size = y.shape[-2:]
    differences = torch.cat(_differences(y), dim=1)
    sharp, blurred = torch.fft.rfft2(x) * differences, torch.fft.rfft2(y) * differences
    power = sharp.abs().square().sum(dim=1)
    ridge = _RIDGE * power.mean()
    found = (sharp.conj() * blurred).sum(dim=1) / (power + ridge).clamp_min(1e-20)
    placed = torch.fft.irfft2(found, s=size)[0]
    kernel = placed.roll((side // 2, side // 2), (0, 1))[:side, :side].clamp_min(0)
    kernel = torch.where(kernel < _FAINT * kernel.max(), 0, kernel)
    total = float(kernel.sum())
    return kernel / total if total > 0 else _first(side)


def _centred(kernel: Tensor) -> Tensor:
    """The kernel with the middle of its mass at its middle pixel, as near as whole pixels go."""
    side = len(kernel)
    places = torch.arange(side, dtype=kernel.dtype)
    shifts = [side // 2 - round(float((kernel.sum(1 - dim) * places).sum())) for dim in (0, 1)]
    padded = F.pad(kernel, (side,) * 4).roll(shifts, (0, 1))
    middle = padded[side : 2 * side, side : 2 * side]
    return middle / middle.sum()


def _differences(y: Tensor) -> tuple[Tensor, Tensor]:
    """Spectra of differences to the pixel below and to the right."""
    height, width = y.shape[-2:]
    rows = torch.fft.fftfreq(height)[:, None].expand(height, width // 2 + 1)
    columns = torch.fft.rfftfreq(width).expand(height, width // 2 + 1)
    down, right = (torch.exp(2j * torch.pi * angle) - 1 for angle in (rows, columns))
    return down[None, None], right[None, None]


def _spectrum(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    placed = F.pad(kernel, (0, size[1] - kernel.shape[1], 0, size[0] - kernel.shape[0]))
    return torch.fft.rfft2(placed.roll([-(n // 2) for n in kernel.shape], (0, 1)))
