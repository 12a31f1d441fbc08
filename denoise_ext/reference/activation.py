"""The activations of the fused operators, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from denoise_ext._activations import PLAIN
from denoise_ext._arguments import check_activation


def apply_activation(
    x: Tensor,
    activation: str,
    negative_slope: float = 0.01,
    prelu_weight: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Apply ``activation`` to ``x`` (N, C, H, W) or (C, H, W), which keeps its shape and dtype.

    ``inplace``: ``x`` may be overwritten; ``relu`` and ``leaky_relu`` then take no other memory.

    Raises:
        ValueError: an unknown activation, a negative slope, or ``prelu`` without ``prelu_weight``.
    """
    check_activation(activation, negative_slope)
    if activation == "relu":
        return F.relu(x, inplace)
    if activation == "leaky_relu":
        return F.leaky_relu(x, negative_slope, inplace)
    if activation in PLAIN:
        return PLAIN[activation](x)
    if activation == "prelu":
        if prelu_weight is None:
            raise ValueError("prelu_weight must be given for activation='prelu', got None")
        # F.prelu takes dimension 1 for the channels; without a batch they are dimension 0.
        weight = prelu_weight.to(x.dtype)
        return F.prelu(x.unsqueeze(0), weight).squeeze(0) if x.dim() == 3 else F.prelu(x, weight)
    return x
