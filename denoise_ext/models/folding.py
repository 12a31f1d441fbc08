"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchNorm:
    """What a BatchNorm2d holds for inference, each tensor (C,)."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps: float


def fold_into(weight: Tensor, bias: Tensor | None, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals ``norm(conv(x))``.

    With s = gamma / sqrt(var + eps): weight' = s * weight, bias' = s * (bias - mean) + beta.
    Computed in float64, returned in the weight's dtype.

    Args:
        weight: (C, in, kh, kw).
        bias: (C,) or None.
    """
    double = [
        t.to(torch.float64) for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    ]
    gamma, beta, mean, variance = double
    scale = gamma / torch.sqrt(variance + norm.eps)
    before = torch.zeros_like(mean) if bias is None else bias.to(torch.float64)
    folded = weight.to(torch.float64) * scale[:, None, None, None]
    shift = scale * (before - mean) + beta
    return folded.to(weight.dtype), shift.to(weight.dtype)
