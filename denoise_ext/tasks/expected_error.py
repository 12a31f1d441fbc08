"""The error of a denoised image, from two estimates that are balanced against each other.

Stein's estimate ``(y - f)^2 - s^2 + 2 s^2 J_ii`` has the right mean in every part of an image.  Its
deviation is ``s^2 sqrt(2 / n)`` for n numbers.  Miyasawa's variance ``s^2 J_ii`` hardly varies, but
is off by a ratio that differs between images.  `Factors` hold the ratio's distribution over images
that were held out.  Here it is the prior, and Stein's estimate the measurement.  Smooth places and
places with detail have a ratio each, since their errors differ by more than ten times.

Errors are in units of the noise's variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.models.registry import Factors

_BLOCK = 16  # pixels on a side
_AROUND = 3  # blocks on a side: places that are larger than one pixel's noise can move
_DETAIL = 0.05  # mean of the diagonal from which a place has detail
_LEAST = 1e-4  # a predicted error is positive
# Error of Miyasawa's variance where there is hardly any detail: the largest on pictures of ramps,
# waves and one value.
_FLAT = 0.01
_STEPS, _ENOUGH = 30, 1e-9


class Places:
    """Sums over the blocks of an image.

    Pixels that fill no block are left out.

    Args:
        shape: (1, C, H, W), H and W at least 16.
        probes: how many will be added.
    """

    def __init__(self, shape: Sequence[int], probes: int) -> None:
        self._probes, self._numbers = probes, shape[1] * _BLOCK**2
        self._first = self._second = self._removed = torch.zeros(())

    def add(self, change: Tensor) -> None:
        """One probe's estimate of the diagonal, (1, C, H, W)."""
        mean = _blocks(change)
        self._first = self._first + mean / self._probes
        self._second = self._second + mean.square() / self._probes

    def close(self, removed: Tensor) -> None:
        """Squares of what was removed, (1, C, H, W)."""
        self._removed = _blocks(removed)

    @property
    def detailed(self) -> Tensor:
        """(1, 1, rows, columns) of blocks: 0 where the image is smooth, 1 where it has detail."""
        around = F.avg_pool2d(self._first, _AROUND, 1, _AROUND // 2, count_include_pad=False)
        return (around > _DETAIL).long()

    def total(self, blocks: Tensor) -> Tensor:
        """(2,) float64: sums over smooth and over detailed blocks."""
        sums = torch.zeros(2, dtype=torch.float64)
        return sums.index_add_(0, self.detailed.flatten().cpu(), blocks.flatten().cpu().double())

    def errors(self, squares: Tensor) -> Tensor:
        """(2,): means of squares (1, C, H, W) over smooth and over detailed blocks, NaN if none."""
        return self.total(_blocks(squares)) / self.count

    @property
    def count(self) -> Tensor:
        """(2,): numbers of blocks."""
        return self.total(torch.ones_like(self._first))

    @property
    def numbers(self) -> Tensor:
        """(2,): numbers of pixels times channels."""
        return self.count * self._numbers

    @property
    def diagonal(self) -> Tensor:
        """(2,): means of the Jacobian's diagonal, 0 where there is no such place."""
        return self.total(self._first) / self.count.clamp_min(1)

    @property
    def stein(self) -> tuple[Tensor, Tensor]:
        """(2,) each: Stein's estimate of the mean squared error, and its variance."""
        count = self.count.clamp_min(1)
        mean = self.total(self._removed) / count - 1 + 2 * self.diagonal
        spread = (self._second - self._first.square()) / max(self._probes - 1, 1)
        return mean, 2 / (count * self._numbers) + 4 * self.total(spread) / count**2


def balanced(places: Places, factors: Factors) -> tuple[Tensor, float, float]:
    """The most probable ratios, the expected error of the image, and its standard error.

    Returns:
        (2,) ratios of squared error to the Jacobian's diagonal in smooth and detailed places; the
        mean squared error; its standard deviation.
    """
    predicted = places.diagonal.clamp_min(_LEAST)
    ratios = torch.tensor(factors.variance_ratio, dtype=torch.float64)
    deviations = torch.tensor(factors.variance_ratio_error, dtype=torch.float64)
    covariance = torch.outer(deviations, deviations)
    covariance[0, 1] *= factors.correlation
    covariance[1, 0] *= factors.correlation
    covariance += torch.diag((_FLAT / (ratios * predicted)).square())
    prior = torch.linalg.inv(covariance)  # of the logarithms, their precision
    measured, variance = places.stein
    precision = torch.where(places.count > 0, 1 / variance, 0.0)

    def errors(u: Tensor) -> Tensor:
        return ratios * predicted * u.exp()

    def cost(u: Tensor) -> float:
        return float((precision * (measured - errors(u)).square()).sum() + u @ prior @ u)

    # Gauss and Newton's method for the logarithms of the corrections.
    u = torch.zeros(2, dtype=torch.float64)
    for _ in range(_STEPS):
        e = errors(u)
        curvature = torch.diag(precision * e.square()) + prior
        step = torch.linalg.solve(curvature, precision * (measured - e) * e - prior @ u)
        share = 1.0
        while cost(u + share * step) > cost(u) and share > _ENOUGH:
            share /= 2
        u = u + share * step
        if float((share * step).abs().max()) < _ENOUGH:
            break
    e = errors(u)
    shares = places.count / places.count.sum()
    slopes = shares * e
    curvature = torch.diag(precision * e.square()) + prior
    spread = float(slopes @ torch.linalg.solve(curvature, slopes))
    return ratios * u.exp(), float(slopes.sum()), math.sqrt(spread)


def spread_out(ratios: Tensor, places: Places, shape: Sequence[int]) -> Tensor:
    """(1, 1, H, W): the ratio of each pixel, without steps between blocks."""
    logs = ratios.log().to(places.detailed.device)[places.detailed].float()
    logs = F.interpolate(logs, scale_factor=_BLOCK, mode="bilinear")
    rest = [n - m for n, m in zip(shape[-2:], logs.shape[-2:], strict=True)]
    return F.pad(logs, (0, rest[1], 0, rest[0]), mode="replicate").exp()


def _blocks(x: Tensor) -> Tensor:
    """(1, 1, rows, columns): means over blocks and channels."""
    return F.avg_pool2d(x.mean(dim=1, keepdim=True), _BLOCK)
