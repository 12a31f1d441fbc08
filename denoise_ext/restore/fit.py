"""Kernels by least squares from pairs of images: of a blur, and of its inverse.

Both minimise ``|target - kernel * source|^2`` over all pixels that the edge does not reach.  The
normal equations are summed exactly, in float64, and solved once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext import nn
from denoise_ext.io.channels import colour_channels
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.value_range import Range, check_range, to_unit

LARGEST = 63
"""Most pixels on a side: the equations of 63 x 63 unknowns take 126 MB."""
_CHUNK = 1 << 22  # numbers of a matrix of patches
_RIDGE = 1e-10  # relative to the mean of the diagonal: for sources without some frequency
_CHANCES = 3  # rounds in which all wrong signs change, without fewer of them
_NEARLY = 1e-12


def fit_kernel(sharp: Any, blurred: Any, size: int) -> np.ndarray:
    """Find the blur kernel (point spread function) between two images of one scene.

    The kernel has the least squared error among those without negative values, and is divided by
    its sum.  Noise of the blurred image is averaged out.  The sharp one should have none: a
    target that was drawn, or a photograph with fine detail in all directions.

    Args:
        sharp, blurred: images of one size that are aligned, of any kind that `deblur` takes.
        size: side of the kernel in pixels, odd, 1 to 63.  Larger than the blur is better than
            smaller.

    Returns:
        (size, size) float64, sum 1.

    Raises:
        TypeError, ValueError: images of different sizes or smaller than the kernel, a flat sharp
            image, a wrong size; the message names the argument.

    Example:
        >>> sharp = np.random.default_rng(0).random((48, 64))
        >>> blurred = (sharp + np.roll(sharp, 1, axis=1)) / 2
        >>> denoise_ext.restore.fit_kernel(sharp, blurred, 3).round(2)[1]
        array([0. , 0.5, 0.5])
    """
    check_fit_size(size)
    x, y = pixels_of("sharp", sharp), pixels_of("blurred", blurred)
    _check_pair("sharp", x, "blurred", y, size)
    gram, right = normal_equations([(x, y)], size)
    kernel = nonnegative(gram, right)
    total = float(kernel.sum())
    if not total > 0:
        raise ValueError("blurred does not follow from sharp: the best kernel is zero")
    return (kernel / total).reshape(size, size).numpy()


def fit_inverse_kernel(pairs: Iterable[tuple[Any, Any]], size: int) -> nn.Conv2d:
    """Find the filter h with the least ``|sharp - blurred * h|^2``: a learned inverse filter.

    Noise in the blurred images keeps it from amplifying frequencies that the blur removed.  It is
    the best linear filter of its size for these images, and far from `deblur`.

    Args:
        pairs: (blurred, sharp), of any kind that `deblur` takes; 1 or 3 channels.
        size: side of the filter in pixels, odd, 1 to 63.

    Returns:
        A `denoise_ext.nn.Conv2d` in eval mode for (N, 1, H, W), or (N, 3, H, W) where the images
        have 3 channels, whose filters are then the same.  The edge is repeated beyond itself.

    Raises:
        TypeError, ValueError: no pairs, images that do not fit; the message names the argument.

    Example:
        >>> sharp = np.random.default_rng(0).random((48, 64))
        >>> blurred = (sharp + np.roll(sharp, 1, axis=1)) / 2
        >>> layer = denoise_ext.restore.fit_inverse_kernel([(blurred, sharp)], 5)
        >>> layer.weight.shape
        torch.Size([1, 1, 5, 5])
    """
    check_fit_size(size)
    opened = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError("pairs must hold (blurred, sharp) pairs")
        y, x = pixels_of("pairs: blurred", pair[0]), pixels_of("pairs: sharp", pair[1])
        _check_pair("pairs: blurred", y, "sharp", x, size)
        opened.append((y, x))
    if not opened:
        raise ValueError("pairs is empty")
    channels = {len(y) for y, _ in opened}
    if len(channels) > 1:
        raise ValueError(f"pairs must all have 1 or all 3 channels, got {sorted(channels)}")
    [count] = channels
    gram, right = normal_equations(opened, size)
    weight = torch.linalg.solve(gram, right).reshape(1, 1, size, size)
    layer = nn.Conv2d(
        count, count, size, padding=size // 2, groups=count, bias=False, padding_mode="replicate"
    )
    with torch.no_grad():
        layer.weight.copy_(weight.flip(2, 3).expand(count, 1, size, size))
    return layer.eval()


def normal_equations(pairs: Iterable[tuple[Tensor, Tensor]], size: int) -> tuple[Tensor, Tensor]:
    """Gram matrix (n^2, n^2) and right side of kernels of n x n from (source, target) pairs.

    The kernel's numbers are in order for a convolution.
    """
    unknowns, reach = size**2, size // 2
    gram = torch.zeros(unknowns, unknowns, dtype=torch.float64)
    right = torch.zeros(unknowns, dtype=torch.float64)
    for source, target in pairs:
        rows_at_once = max(1, _CHUNK // (unknowns * source.shape[-1]))
        height, width = source.shape[-2:]
        for plane, wanted in zip(source, target, strict=True):
            for top in range(0, height - 2 * reach, rows_at_once):
                bottom = min(top + rows_at_once, height - 2 * reach)
                part = plane[None, None, top : bottom + 2 * reach]
                patches = F.unfold(part, size)[0].flip(0)  # (n^2, pixels)
                values = wanted[top + reach : bottom + reach, reach : width - reach].flatten()
                gram += patches @ patches.T
                right += patches @ values
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    return gram, right


def nonnegative(gram: Tensor, right: Tensor) -> Tensor:
    """The k >= 0 with the least ``k gram k / 2 - right k``.

    Block principal pivoting (Portugal, Judice and Vicente, "A comparison of block pivoting and
    interior-point algorithms for linear least squares problems with nonnegative variables", 1994).
    """
    k = torch.zeros_like(right)
    free = torch.ones_like(right, dtype=torch.bool)
    fewest, chances = len(right) + 1, _CHANCES
    while True:
        places = free.nonzero()[:, 0]
        k.zero_()
        k[places] = torch.linalg.solve(gram[places][:, places], right[places])
        slope = gram @ k - right
        wrong = torch.where(
            free, k < -_NEARLY * k.abs().max(), slope < -_NEARLY * right.abs().max()
        )
        count = int(wrong.sum())
        if count == 0:
            return k.clamp_min(0)
        if count < fewest:
            fewest, chances = count, _CHANCES
        elif chances:
            chances -= 1
        else:  # one at a time, the last one: this cannot cycle
            last = int(wrong.nonzero()[-1, 0])
            wrong = torch.zeros_like(wrong)
            wrong[last] = True
        free = free ^ wrong


def pixels_of(name: str, image: Any, value_range: Range | None = None) -> Tensor:
    """One image as (C, H, W) float64, black 0 and white 1, without alpha."""
    opened = open_image(image)
    if opened.source.shape[0] != 1:
        raise ValueError(f"{name} must be one image, not a batch of {opened.source.shape[0]}")
    value_range = opened.value_range if value_range is None else value_range
    if value_range is not None:
        value_range = check_range(value_range, opened.source.dtype)
    colour = colour_channels(opened.source.shape[1])
    return to_unit(opened.source[0, :colour].cpu(), torch.float64, value_range)


def _check_pair(name: str, a: Tensor, other: str, b: Tensor, size: int) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"{name} and {other} must have one size and one number of channels, got"
            f" {tuple(a.shape)} and {tuple(b.shape)}"
        )
    # Constants stay as they are, whatever the kernel.
    if float((a - a.mean(dim=(-2, -1), keepdim=True)).abs().max()) == 0:
        raise ValueError(f"{name} is flat: it fits every kernel")
    if min(a.shape[-2:]) < size:
        raise ValueError(
            f"size of {size} pixels is larger than the image, {a.shape[-2]} x {a.shape[-1]}"
        )


def check_fit_size(size: object) -> None:
    """Raise TypeError or ValueError unless it is an odd number of pixels, 1 to 63."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be an odd number of pixels, got {size!r}")
    if not (1 <= size <= LARGEST and size % 2):
        raise ValueError(f"size must be odd, from 1 to {LARGEST}, got {size}")
