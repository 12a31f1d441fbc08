"""Estimate the noise level of an image.

In an orthonormal transform white Gaussian noise has the same variance in every coefficient, and
the coefficients are independent. An image has most of its energy in the low frequencies. Blocks
with the weakest low frequencies contain nearly nothing but noise. They were chosen by their low
frequencies, so their high frequencies are an unbiased sample of the noise.

Sources: Ponomarenko, Lukin, Zriakhov, Kaarna, Astola, "An automatic approach to lossy compression
of AVIRIS images" (IGARSS 2007); Colom and Buades, "Analysis and extension of the Ponomarenko et al.
method" (IPOL 2013). Two steps are added here. The choice is widened to all blocks that the noise
alone explains: strong noise is then ten times less uncertain. Blocks without noise (clipped or
constant, such as the surroundings of a scan) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.io.channels import colour_channels
from denoise_ext.tasks.doubts import warn_of_range
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.sampling import sample_of
from denoise_ext.tasks.value_range import Range, check_range, to_unit

_BLOCK = 8  # side of a block in pixels
_SPLIT = 8  # coefficients (i, j) with 0 < i + j < 8 are the low frequencies: 35, and 28 high ones
_STEP = 4  # between blocks
_SMALL = 1 << 14  # pixels below which the step is half of it
_WEAKEST = 0.02  # share of the blocks to begin with
_FEWEST = 64  # blocks that are averaged at least
_CLIPPED = 4  # clipped pixels of its 64 that a block may have


def estimate_sigma(
    image: Any, *, value_range: Range | None = None, axes: str | None = None
) -> float:
    """Estimate the standard deviation of white Gaussian noise in one image, on the 0-255 scale.

    Mean error on Set12 with noise of known sigma, and its standard deviation over the images: sigma
    5: +0.3, 0.3; 15: +0.2, 0.1; 25: +0.1, 0.2; 50: +0.1, 0.3; 75: +0.1, 0.3. Errors are smaller on
    the luma of the 24 Kodak images, and at most 1.2 in any image. Clipping to 8 bits removes noise:
    the estimate is 1.4 lower at 50, and 10 lower at 75. Clean photographs give 0 to 2, from their
    own noise and finest texture. The noise of JPEG, enlarged and sharpened images is not white.
    The estimate is then that of the highest frequencies.

    Args:
        image: any kind that `Denoiser` takes, except a batch. At least 8 x 8 pixels. Alpha is left
            out, and the variances of colour channels are averaged. Images over half a megapixel are
            sampled in 32 tiles of 128 x 128 pixels.
        value_range: the numbers that mean black and white, where they are not the type's own.
        axes: letters for the axes, as `Denoiser` takes them: the variances of all pictures are
            averaged.

    Raises:
        TypeError, ValueError: an image that does not fit; the message names the argument.

    Example:
        >>> noise = 20 * np.random.default_rng(0).standard_normal((128, 128))
        >>> round(denoise_ext.tasks.estimate_sigma((128 + noise).astype(np.uint8)))
        20
    """
    opened = open_image(image, axes)
    if opened.batched and axes is None:
        raise ValueError("image must be one image, not a batch (N, C, H, W)")
    value_range = opened.value_range if value_range is None else value_range
    if value_range is not None:
        value_range = check_range(value_range, opened.source.dtype)
    elif opened.source.is_floating_point() and not opened.from_file:
        warn_of_range(opened.source[0, 0])
    channels = colour_channels(opened.source.shape[1])
    levels = sigma_of_batch(opened.source[:, :channels], value_range)
    return float(levels if len(levels) == 1 else levels.square().mean().sqrt())


def sigma_of_batch(batch: Tensor, value_range: Range | None = None) -> Tensor:
    """`estimate_sigma` of each image in (N, C, H, W), without alpha: (N,) float64, on the CPU."""
    height, width = batch.shape[-2:]
    if min(height, width) < _BLOCK:
        raise ValueError(
            f"sigma: an image of {width} x {height} pixels is too small to estimate its noise"
            f" ({_BLOCK} x {_BLOCK} at least); give sigma"
        )
    variances = [[_variance(channel, value_range) for channel in image] for image in batch.detach()]
    return torch.tensor(variances, dtype=torch.float64).mean(dim=1).sqrt() * 255


def _variance(channel: Tensor, value_range: Range | None) -> float:
    """Of the noise in (H, W), for black 0 and white 1."""
    parts = [_energies(tile, value_range) for tile in sample_of(channel)]
    low, high, noisy = (torch.cat(column) for column in zip(*parts, strict=True))
    if _FEWEST <= int(noisy.sum()) < len(noisy):
        low, high = low[noisy], high[noisy]
    return quiet_variance(low, high)[0]


def quiet_variance(low: Tensor, high: Tensor) -> tuple[float, Tensor]:
    """Variance of the noise by the blocks with the weakest low frequencies, and which these are.

    Args:
        low, high: energy of each block (n,) in low and in high frequencies.
    """
    order = torch.from_numpy(np.argsort(low.numpy()))  # a fifth of PyTorch's time
    low, high = low[order], high[order].cumsum(0, dtype=torch.float64)
    lows = _SPLIT * (_SPLIT + 1) // 2 - 1
    highs = _BLOCK**2 - 1 - lows
    count = min(len(low), max(_FEWEST, int(_WEAKEST * len(low))))
    variance = float(high[count - 1]) / (count * highs)
    for _ in range(2):  # widen: half of the blocks with noise alone have no more than its mean
        count = max(count, int(torch.searchsorted(low, lows * variance)))
        variance = float(high[count - 1]) / (count * highs)
    return variance, order[:count]


def _energies(tile: Tensor, value_range: Range | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each block in (h, w): energy in low and in high frequencies, and whether it has noise."""
    tile = tile.cpu()
    x = to_unit(tile, torch.float32, value_range)[None, None]
    step = _STEP if x.numel() >= _SMALL else _STEP // 2
    # without the mean, float32 has digits to spare for the noise
    coefficients = F.conv2d(x - x.mean(), _dct_filters(), stride=step).square_()  # (1, 63, ...)
    frequency = _frequencies()
    shares = torch.stack([frequency < _SPLIT, frequency >= _SPLIT]).float()[:, :, None, None]
    low, high = F.conv2d(coefficients, shares)[0].flatten(1)
    largest, smallest = (
        _extreme(x[0, 0], of_two, step) for of_two in (torch.maximum, torch.minimum)
    )
    noisy = (largest > smallest).flatten()
    limits = at_limit(x, tile)
    if limits.any():
        clipped = F.avg_pool2d(limits.float(), _BLOCK, step).flatten()
        noisy &= clipped <= _CLIPPED / _BLOCK**2
    return low, high, noisy


def _extreme(x: Tensor, of_two: Callable[[Tensor, Tensor], Tensor], step: int) -> Tensor:
    """The largest or smallest pixel of each block in (H, W), as ``F.max_pool2d``.

    By pairs of rows, then of columns: a thirtieth of its time.
    """
    for _ in range(2):
        rows = 1  # that each row stands for
        while rows < step:
            half = len(x) // 2
            x, rows = of_two(x[0 : 2 * half : 2], x[1 : 2 * half : 2]), 2 * rows
        while rows < _BLOCK:
            reach = rows // step
            x, rows = of_two(x[:-reach], x[reach:]), 2 * rows
        x = x.T
    return x


def at_limit(x: Tensor, tile: Tensor) -> Tensor:
    """Where pixels are black or white, or at the end of their type, and so may be clipped."""
    found = (x == 0) | (x == 1)
    if not tile.dtype.is_floating_point and tile.dtype.itemsize < 8:
        limits, pixels = torch.iinfo(tile.dtype), tile.to(torch.int64)
        found |= (pixels == limits.min) | (pixels == limits.max)
    return found


def _frequencies() -> Tensor:
    """i + j of the filters (63,)."""
    both = torch.arange(_BLOCK)
    return (both.repeat_interleave(_BLOCK) + both.repeat(_BLOCK))[1:]


def _dct_filters() -> Tensor:
    """The orthonormal DCT-II of a block, without its mean: (63, 1, 8, 8)."""
    basis = cosines(_BLOCK)
    return torch.einsum("ai,bj->abij", basis, basis).reshape(-1, 1, _BLOCK, _BLOCK)[1:]


def cosines(size: int) -> Tensor:
    """The orthonormal DCT-II of ``size`` numbers, a frequency in each row."""
    k, i = torch.arange(size)[:, None], torch.arange(size)[None]
    basis = torch.cos(math.pi * (2 * i + 1) * k / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def dct_basis() -> tuple[Tensor, Tensor]:
    """The same as rows (63, 64), and the frequency i + j of each."""
    return _dct_filters().flatten(1), _frequencies()


__all__ = ["estimate_sigma", "sigma_of_batch"]
