"""A running mean of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class RunningMean:
    """``mean <- d * mean + (1 - d) * weights`` after every step (Polyak, Juditsky 1992).

    ``d = min(decay, (1 + t) / (10 + t))`` at step t, so that the random weights of the beginning
    are soon forgotten. Buffers (BatchNorm's statistics) are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model: nn.Module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after step ``step``, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  # no public name
            list(self.model.parameters()), list(model.parameters()), weight=1 - decay
        )
        for mean, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            mean.copy_(buffer)
