"""Noise of a sensor behind a Bayer pattern, and what demosaicing makes of it.

Both demosaicings are linear, so noise can go through them without the picture: the difference of a
noisy and a clean picture after demosaicing is the demosaiced noise. The pattern is RGGB; height and
width are even.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Row and column within the 2x2 pattern, and the channel there.
_PATTERN = ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2))

# Malvar, He, Cutler: "High-quality linear interpolation for demosaicing of Bayer-patterned color
# images", ICASSP 2004, figure 2; times 8.
_GREEN = ((0, 0, -1, 0, 0), (0, 0, 2, 0, 0), (-1, 2, 4, 2, -1), (0, 0, 2, 0, 0), (0, 0, -1, 0, 0))
_IN_ROW = (  # red in a red row, blue in a blue row, at green
    (0, 0, 0.5, 0, 0), (0, -1, 0, -1, 0), (-1, 4, 5, 4, -1), (0, -1, 0, -1, 0), (0, 0, 0.5, 0, 0)
)  # fmt: skip
_ACROSS = (  # red at blue, blue at red
    (0, 0, -1.5, 0, 0), (0, 2, 0, 2, 0), (-1.5, 0, 6, 0, -1.5), (0, 2, 0, 2, 0), (0, 0, -1.5, 0, 0)
)  # fmt: skip
# Bilinear interpolation of what is there at every second pixel of rows and columns, and of green.
_BILINEAR = ((0.25, 0.5, 0.25), (0.5, 1.0, 0.5), (0.25, 0.5, 0.25))
_BILINEAR_GREEN = ((0.0, 0.25, 0.0), (0.25, 1.0, 0.25), (0.0, 0.25, 0.0))


def to_mosaic(x: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W): of each pixel the one channel that the pattern lets through."""
    _check_even(x)
    mosaic = torch.empty_like(x[:, :1])
    for row, column, channel in _PATTERN:
        mosaic[:, 0, row::2, column::2] = x[:, channel, row::2, column::2]
    return mosaic


def demosaic_malvar(mosaic: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, 3, H, W), H and W even and >= 4: Malvar, He and Cutler's 5x5 filters."""
    _check_even(mosaic)
    green, row, across = (
        torch.tensor(taps, dtype=mosaic.dtype, device=mosaic.device) / 8.0
        for taps in (_GREEN, _IN_ROW, _ACROSS)
    )
    filters = torch.stack([green, row, row.T, across])[:, None]
    sums = F.conv2d(F.pad(mosaic, (2,) * 4, mode="reflect"), filters)
    green, row, column, across = sums.unbind(dim=1)  # (N, H, W) each
    result = mosaic.repeat(1, 3, 1, 1)
    for y, x, channel in _PATTERN:
        place = (slice(None), slice(y, None, 2), slice(x, None, 2))
        if channel == 1:  # the row's own colour beside it, the other above and below
            beside = 0 if y == 0 else 2
            result[:, beside][place], result[:, 2 - beside][place] = row[place], column[place]
        else:
            result[:, 1][place], result[:, 2 - channel][place] = green[place], across[place]
    return result


def demosaic_bilinear(mosaic: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, 3, H, W), H and W even: the mean of the nearest pixels of a channel."""
    _check_even(mosaic)
    sparse = torch.zeros_like(mosaic).repeat(1, 3, 1, 1)
    for row, column, channel in _PATTERN:
        sparse[:, channel, row::2, column::2] = mosaic[:, 0, row::2, column::2]
    filters = torch.tensor([_BILINEAR, _BILINEAR_GREEN, _BILINEAR], dtype=mosaic.dtype)
    padded = F.pad(sparse, (1,) * 4, mode="reflect")
    return F.conv2d(padded, filters[:, None].to(mosaic.device), groups=3)


def smooth_colour_differences(noise: Tensor) -> Tensor:
    """(N, 3, H, W): red less green and blue less green become their 3x3 medians.

    What demosaicing programs do against false colours.
    """
    green = noise[:, 1:2]
    differences = F.pad(noise[:, ::2] - green, (1,) * 4, mode="reflect")  # (N, 2, H + 2, W + 2)
    windows = differences.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)  # (N, 2, H, W, 9)
    red, blue = (windows.median(dim=4).values + green).unbind(dim=1)
    return torch.stack([red, green[:, 0], blue], dim=1)


def _check_even(x: Tensor) -> None:
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"a Bayer pattern needs even height and width, got {tuple(x.shape)}")
