"""The distribution of quantised latents, conditioned on those that are decoded before.

Each latent is a whole number. It follows a logistic distribution with a mean and a scale. Both are
sums over latents that precede it: those of the pixels above and to the left, and those of the
groups of channels before its own. The mean takes the numbers themselves, the scale their
magnitudes. A decoder computes the same sums in whole numbers, with rounded weights.

Contexts of this kind: Minnen, Balle, Toderici, "Joint Autoregressive and Hierarchical Priors for
Learned Image Compression", NeurIPS 2018. There a network of floating-point numbers makes the mean
and the scale, and decoders on other machines may differ.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 16
"""Channels of a latent pixel that are coded at once: none is a context of another."""
LARGEST = 127
"""Magnitudes above it count as this one in a context."""
LEAST_SCALE, LARGEST_SCALE = 0.05, 60.0
"""Of the logistic distributions, in steps of the quantiser."""
_ROWS, _COLUMNS = 2, 3  # of the taps: the row above, and the row of the latent
_UNLIKELY = 2.0**-20  # least probability: the gradient of its logarithm stays finite
_OWN = 0.2  # first weight of the magnitudes above and to the left, of the same channel
_FIRST_SCALE = 0.4


class LatentPrior(nn.Module):
    """Means and scales of latents (N, M, h, w), M a multiple of `GROUP`.

    Args:
        latents: M.
        levels: rates between which the first terms of the sums are interpolated.
    """

    def __init__(self, latents: int, levels: int) -> None:
        super().__init__()
        self.latents, self.levels = latents, levels
        shape = (latents, latents, _ROWS, _COLUMNS)
        self.mean: nn.Parameter = nn.Parameter(torch.empty(shape))
        self.scale: nn.Parameter = nn.Parameter(torch.empty(shape))
        # Vectors, so that training takes them for biases; reshaped where they are used.
        self.first: nn.Parameter = nn.Parameter(torch.empty(levels * 2 * latents))
        self.inside: nn.Parameter = nn.Parameter(torch.empty(2 * latents * _ROWS * _COLUMNS))

    def forward(self, latents: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of each latent.

        Args:
            latents: (N, M, h, w), whole numbers.
            level: (N, levels), the weights of the levels.
        """
        known = latents.clamp(-LARGEST, LARGEST)
        first = level @ self.first.reshape(self.levels, 2 * self.latents)
        taps = causal_taps(self.latents).to(latents)
        present = torch.ones_like(latents[:1, :1])
        inside = _sums(present, self.inside.reshape(-1, 1, _ROWS, _COLUMNS) * taps[:1, :1])
        base = first[..., None, None] + inside
        mean = base[:, : self.latents] + _sums(known, self.mean * taps)
        scale = base[:, self.latents :] + _sums(known.abs(), self.scale * taps)
        return mean, bounded(scale)

    @torch.no_grad()
    def initialise(self) -> None:
        """No mean, and scales of about the magnitudes beside a latent."""
        for parameter in (self.mean, self.scale, self.first, self.inside):
            parameter.zero_()
        self.first.reshape(self.levels, 2, self.latents)[:, 1] = _FIRST_SCALE
        channel = torch.arange(self.latents)
        self.scale[channel, channel, 0, 1] = _OWN  # above
        self.scale[channel, channel, 1, 0] = _OWN  # to the left


def _sums(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 0)), weight)


@functools.cache
@torch.inference_mode(False)  # or a first call within it would keep training from using them
def causal_taps(latents: int) -> Tensor:
    """(M, M, 2, 3) of 0 and 1: which latents are a context of which."""
    taps = torch.ones(latents, latents, _ROWS, _COLUMNS, device="cpu")
    group = torch.arange(latents, device="cpu") // GROUP
    taps[:, :, 1, 1] = (group[None, :] < group[:, None]).float()  # at the same place
    taps[:, :, 1, 2] = 0.0  # to the right
    return taps


class _Bounded(torch.autograd.Function):
    """A clamp that lets a gradient pass where it leads back into the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(LEAST_SCALE, LARGEST_SCALE)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,), (grad,) = ctx.saved_tensors, grad_outputs
        passes = ((x >= LEAST_SCALE) | (grad < 0)) & ((x <= LARGEST_SCALE) | (grad > 0))
        return grad * passes


def bounded(scale: Tensor) -> Tensor:
    """Scales between `LEAST_SCALE` and `LARGEST_SCALE`."""
    return _Bounded.apply(scale)


def bits_of(latents: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Bits of each latent: its interval of width 1 under the logistic distribution."""
    distance = (latents - mean).abs()
    upper = torch.sigmoid((0.5 - distance) / scale)
    lower = torch.sigmoid((-0.5 - distance) / scale)
    probability = (upper - lower) * (1.0 - _UNLIKELY) + _UNLIKELY
    return probability.log() * (-1.0 / math.log(2.0))


class _Rounded(torch.autograd.Function):
    """Rounds; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]


def rounded(x: Tensor) -> Tensor:
    """The nearest whole numbers; for the gradient ``x`` itself."""
    return _Rounded.apply(x)
