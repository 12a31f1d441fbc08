"""Fused convolutions in plain PyTorch: the oracle, and the path for any other device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from denoise_ext._arguments import check_precision, check_residual_position
from denoise_ext.reference.activation import apply_activation

IntOrPair = int | Sequence[int]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
    prelu_weight: Tensor | None = None,
    residual: Tensor | None = None,
    residual_position: str = "before",
    precision: str = "default",
) -> Tensor:
    """:func:`denoise_ext.ops.conv2d` as separate PyTorch operations."""
    check_residual_position(residual_position)
    check_precision(precision)  # no difference here: PyTorch's own setting decides
    output = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if residual is not None:
        if residual.shape != output.shape:  # no broadcasting, as in the fused operator
            raise ValueError(
                f"residual must have the output's shape {tuple(output.shape)}, "
                f"got {tuple(residual.shape)}"
            )
        if residual_position == "before":
            output = output + residual
    output = apply_activation(output, activation, negative_slope, prelu_weight)
    if residual is not None and residual_position == "after":
        output = output + residual
    return output


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
    prelu_weight: Tensor | None = None,
    precision: str = "default",
) -> Tensor:
    """:func:`denoise_ext.ops.conv_transpose2d` as separate PyTorch operations."""
    check_precision(precision)
    output = F.conv_transpose2d(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    return apply_activation(output, activation, negative_slope, prelu_weight)
