"""Fused convolutions in plain PyTorch: the oracle, and the path for any other device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from denoise_ext._arguments import (
    check_output_size,
    check_precision,
    check_residual_position,
    check_weight_size,
    conv_output_size,
    conv_transpose_output_size,
    int_pair,
)
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
    """:func:`denoise_ext.ops.conv2d` as separate PyTorch operations.

    Example:
        >>> x, weight = torch.rand(1, 3, 16, 16).double(), torch.rand(8, 3, 3, 3).double()
        >>> expected = denoise_ext.reference.conv2d(x, weight, activation="relu")
        >>> torch.allclose(denoise_ext.ops.conv2d(x, weight, activation="relu"), expected)
        True
    """
    check_residual_position(residual_position)
    check_precision(precision)  # no difference here: PyTorch's own setting decides
    stride, dilation = int_pair(stride, "stride", 1), int_pair(dilation, "dilation", 1)
    if not isinstance(padding, str):
        padding = int_pair(padding, "padding", 0)
    check_weight_size(weight)
    size = conv_output_size(
        input, weight, stride, (0, 0) if isinstance(padding, str) else padding, dilation
    )
    check_output_size((*input.shape[:-3], weight.shape[0], *size))
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
    """:func:`denoise_ext.ops.conv_transpose2d` as separate PyTorch operations.

    Example:
        >>> x, weight = torch.rand(1, 8, 16, 16).double(), torch.rand(8, 3, 2, 2).double()
        >>> expected = denoise_ext.reference.conv_transpose2d(x, weight, stride=2)
        >>> torch.allclose(denoise_ext.ops.conv_transpose2d(x, weight, stride=2), expected)
        True
    """
    check_precision(precision)
    stride, dilation = int_pair(stride, "stride", 1), int_pair(dilation, "dilation", 1)
    padding = int_pair(padding, "padding", 0)
    output_padding = int_pair(output_padding, "output_padding", 0)
    check_weight_size(weight)
    size = conv_transpose_output_size(input, weight, stride, padding, output_padding, dilation)
    check_output_size((*input.shape[:-3], weight.shape[1] * groups, *size))
    output = F.conv_transpose2d(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    return apply_activation(output, activation, negative_slope, prelu_weight)
