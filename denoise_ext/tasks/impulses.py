"""Impulse noise: pixels that have nothing in common with their neighbours.

Salt and pepper, hot and dead pixels replace a few pixels and leave the others as they are. Such a
pixel differs from its neighbours by far more than the rest of the noise does. It is found by the
mean of its four smallest differences: Garnett, Huegerich, Chui, He, "A universal noise removal
algorithm with an impulse detector", IEEE TIP 2005. Lines and corners have four neighbours of their
own kind, so they stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BINS = 8  # of brightness: noise may grow with it
_LEAST = 36 / 255  # difference from every neighbour that texture rarely has
_DEVIATIONS = 3.0  # of the other noise
# A quarter of the differences of two pixels with noise of deviation 1 are below this. The quarter
# is little moved where impulses have replaced a third of the pixels.
_QUARTER = 0.3186 * 2**0.5
_FEWEST = 200  # differences that a bin needs for a margin of its own
_ROUNDS = 4  # of filling in: each reaches a pixel farther into a cluster
_STRIP = 256  # rows that are repaired at a time
_OVERLAP = _ROUNDS + 2


def margins_of(parts: list[Tensor]) -> Tensor:
    """How far a pixel must be from its neighbours, by their brightness: (_BINS,).

    Args:
        parts: parts (C, tiles, h, w) of an image, black 0 and white 1.
    """
    differences = torch.cat(
        [
            (p[..., ::3, 1::2] - p[..., ::3, : p.shape[-1] // 2 * 2 : 2]).abs().flatten()
            for p in parts
        ]
    )
    places = torch.cat([_bin(p[..., ::3, : p.shape[-1] // 2 * 2 : 2]).flatten() for p in parts])
    overall = _margin(differences)
    margins = torch.full((_BINS,), overall)
    for place in range(_BINS):
        own = differences[places == place]
        # where noise is clipped, most differences are small and the others are no impulses
        if len(own) >= _FEWEST:
            margins[place] = max(overall, _margin(own))
    return margins


def _margin(differences: Tensor) -> float:
    if not len(differences):
        return _LEAST
    quarter = float(differences.kthvalue(max(1, len(differences) // 4)).values)
    return _LEAST + _DEVIATIONS * quarter / _QUARTER


def _bin(x: Tensor) -> Tensor:
    return (x * _BINS).long().clamp(0, _BINS - 1)


def isolated_share(parts: list[Tensor], margins: Tensor) -> float:
    """Share of the pixels that differ from all eight neighbours by the margin, of every third row.

    It is a lower bound of the share of impulses: two that touch and are alike do not count.
    """
    isolated = total = 0
    for part in parts:
        if min(part.shape[-2:]) < 3:
            continue
        height, width = part.shape[-2:]
        centre = part[..., 1:-1:3, 1:-1]
        smallest: Tensor | None = None
        around = []
        for dy, dx in _PLACES:
            other = part[..., 1 + dy : height - 1 + dy : 3, 1 + dx : width - 1 + dx]
            difference = (centre - other).abs()
            smallest = difference if smallest is None else torch.minimum(smallest, difference)
            if 0 in (dy, dx):
                around.append(other)
        assert smallest is not None
        middle = _middle(around)
        isolated += int((smallest > margins[_bin(middle)]).sum())
        total += smallest.numel()
    return isolated / max(total, 1)


_PLACES = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def _middle(four: list[Tensor]) -> Tensor:
    """Mean of the two in the middle of four."""
    a, b, c, d = four
    low = torch.minimum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
    return (a + b + c + d - low - high) / 2


def without_impulses(x: Tensor, margins: Tensor) -> Tensor:
    """A copy of (N, C, H, W), black 0 and white 1, whose impulses are medians of their neighbours.

    All other pixels keep their bits.
    """
    height = x.shape[-2]
    result = x.clone()
    for first in range(0, height, _STRIP):
        start, stop = max(0, first - _OVERLAP), min(height, first + _STRIP + _OVERLAP)
        repaired = _repaired(x[..., start:stop, :], margins)
        last = min(height, first + _STRIP)
        result[..., first:last, :] = repaired[..., first - start : last - start, :]
    return result


def _repaired(x: Tensor, margins: Tensor) -> Tensor:
    around = _neighbours(x)  # (8, N, C, h, w)
    differences = (around - x).abs().sort(dim=0).values[:4].mean(dim=0)
    impulse = differences > margins.to(x.device)[_bin(around.median(dim=0).values)]
    left = impulse
    for _ in range(_ROUNDS):
        if not bool(left.any()):
            break
        known = torch.where(left, torch.nan, x)
        medians = _neighbours(known).nanmedian(dim=0).values  # NaN where none is known
        x = torch.where(left & medians.isfinite(), medians, x)
        left = left & ~medians.isfinite()
    return x


def _neighbours(x: Tensor) -> Tensor:
    """The eight neighbours of each pixel of (N, C, h, w), the border repeated: (8, N, C, h, w)."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    height, width = x.shape[-2:]
    return torch.stack(
        [padded[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in _PLACES]
    )
