"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoise_ext.models.dncnn import DnCNN


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


@torch.no_grad()
def fold_batchnorm(model: DnCNN) -> DnCNN:
    """A copy of ``model`` for inference, its batch normalisation folded into the convolutions.

    Returns a model without batch normalisation, in eval mode; its output is that of
    ``model.eval()`` up to rounding. A model that has none is copied as it is.

    Raises TypeError when ``model`` is not a DnCNN.
    """
    if not isinstance(model, DnCNN):
        raise TypeError(f"model must be a DnCNN, got {type(model).__name__}")
    options = {key: value for key, value in model.config.items() if key != "family"}
    folded = DnCNN(**{**options, "batch_norm": False})
    reference = next(model.parameters())
    folded = folded.to(device=reference.device, dtype=reference.dtype)
    targets = iter(folded.body)
    layers = list(model.body)
    for layer, following in zip(layers, [*layers[1:], None]):
        if not isinstance(layer, nn.Conv2d):
            continue
        weight, bias = layer.weight, layer.bias
        if isinstance(following, nn.BatchNorm2d):
            weight, bias = fold_into(weight, bias, _read(following))
        target = next(targets)
        target.weight.copy_(weight)
        target.bias.copy_(bias)
    return folded.eval()


def _read(norm: nn.BatchNorm2d) -> BatchNorm:
    return BatchNorm(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
