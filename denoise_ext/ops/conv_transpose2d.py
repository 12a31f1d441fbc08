"""Fused 2-D transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext._arguments import (
    check_fake_conv,
    check_fake_mask,
    check_output_size,
    check_precision,
    conv_transpose_output_size,
    int_pair,
)
from denoise_ext.ops import _autotune
from denoise_ext.ops._by_pytorch import conv_gradients, fused
from denoise_ext.ops._conv_arguments import autocast_dtype, cast, check_conv
from denoise_ext.ops._layout import conv_backward_fake, empty_as, output_format
from denoise_ext.ops._library import (
    forbid_double_backward,
    kernel_devices,
    native_op,
    raise_no_kernel,
)

IntOrPair = int | Sequence[int]

_op, _available = native_op("conv_transpose2d")
_backward_op, _backward_available = native_op("conv_transpose2d_backward")
_devices = kernel_devices("conv_transpose2d")


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
    """Compute transposed convolution, bias and activation in one kernel.

    ``act(conv_transpose + bias)`` with ``conv_transpose`` as in
    :func:`torch.nn.functional.conv_transpose2d`: ``groups`` comes before ``dilation``.  Every
    output pixel is a sum over the taps of its phase, kept in float32 (float64 for float64) until
    the one rounding at the end.  Differentiable once in every tensor argument.

    ===================  =========================================================================
    argument             constraint
    ===================  =========================================================================
    input                (N, C_in, H, W) or (C_in, H, W); float32, float64, bfloat16, float16;
                         any strides; N may be 0
    weight               (C_in, C_out / groups, kH, kW); at most 2**31 elements and 2**24 taps
    bias                 (C_out,) or None
    stride, dilation     int or pair (vertical, horizontal), 1 to 2**30
    padding              int or pair, 0 to 2**30: rows and columns cut from the output's edges
    output_padding       int or pair, >= 0, less than stride or dilation: added below and right
    groups               divides C_in and C_out
    activation,          as :func:`denoise_ext.ops.conv2d`'s
    negative_slope,
    prelu_weight,
    precision
    ===================  =========================================================================

    All tensors have one dtype and device.  Under autocast they are cast as autocast casts those of
    ``torch.nn.functional.conv_transpose2d``.  Rows and columns are at most 2**30, of the output and
    of the dilated kernel too.  The output has at most 2**48 elements.

    Returns:
        (N, C_out, H_out, W_out) (without N for an input without), of the input's dtype;
        channels_last when input or weight is, as in PyTorch.
        ``H_out = (H - 1) stride - 2 padding + dilation (kH - 1) + output_padding + 1``.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value, or an output without pixels.
        RuntimeError: the native library is missing (the message has the reason).

    Example:
        >>> x, weight = torch.rand(1, 8, 16, 16), torch.rand(8, 3, 2, 2)
        >>> denoise_ext.ops.conv_transpose2d(x, weight, stride=2).shape
        torch.Size([1, 3, 32, 32])
    """
    device_type = input.device.type if isinstance(input, Tensor) else "meta"
    dtype = autocast_dtype(device_type)
    if dtype is not None:
        input, weight, bias = cast(input, dtype), cast(weight, dtype), cast(bias, dtype)
        prelu_weight = cast(prelu_weight, dtype)
    check_conv(input, weight, bias, groups, True, activation, negative_slope, prelu_weight)
    if device_type not in _devices:
        raise_no_kernel("conv_transpose2d", input, _devices)
    check_precision(precision)
    stride = int_pair(stride, "stride", 1)
    padding = int_pair(padding, "padding", 0)
    output_padding = int_pair(output_padding, "output_padding", 0)
    dilation = int_pair(dilation, "dilation", 1)
    for i in (0, 1):
        if output_padding[i] >= max(stride[i], dilation[i]):
            raise ValueError(
                f"output_padding must be less than stride {stride} or dilation {dilation}, "
                f"got {output_padding}"
            )
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    shape = _output_shape(input, weight, stride, padding, output_padding, groups, dilation)
    if shape[2] < 1 or shape[3] < 1:
        raise ValueError(
            f"padding must leave an output of at least 1x1, got {padding}: "
            f"the output would be {shape[2]}x{shape[3]}"
        )
    arguments = (
        input, weight, bias, stride, padding, output_padding, groups, dilation, activation,
        negative_slope, prelu_weight, precision,
    )  # fmt: skip
    if device_type == "cuda":
        output = _autotune.run(_op, _ByPyTorch.apply, arguments)
    else:
        output = _op(*arguments)
    return output.squeeze(0) if unbatched else output


def _output_shape(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    size = conv_transpose_output_size(input, weight, stride, padding, output_padding, dilation)
    shape = (input.shape[0], weight.shape[1] * groups, *size)
    check_output_size(shape)
    return shape


def _fake_shape(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    """The output's shape; raises for the arguments that the operator refuses."""
    geometry = {"stride": stride, "padding": padding, "output_padding": output_padding}
    check_fake_conv(weight, groups, **geometry, dilation=dilation)
    return _output_shape(input, weight, stride, padding, output_padding, groups, dilation)


def _fake(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], output_padding: Sequence[int], groups: int, dilation: Sequence[int],
    activation: str, negative_slope: float, prelu_weight: Tensor | None, precision: str = "default",
) -> Tensor:  # fmt: skip
    shape = _fake_shape(input, weight, stride, padding, output_padding, groups, dilation)
    return empty_as(input, shape, output_format(input, weight))


def _backward_fake(
    grad_output: Tensor, input: Tensor, weight: Tensor, saved: Tensor | None,
    prelu_weight: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    output_padding: Sequence[int], groups: int, dilation: Sequence[int], activation: str,
    negative_slope: float, output_mask: Sequence[bool], precision: str = "default",
) -> tuple[Tensor, ...]:  # fmt: skip
    check_fake_mask(output_mask, 4)
    _fake_shape(input, weight, stride, padding, output_padding, groups, dilation)  # checks
    return conv_backward_fake(input, weight, prelu_weight, weight.shape[1] * groups, output_mask)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    (
        input, weight, bias, stride, padding, output_padding, groups, dilation, activation,
        negative_slope, prelu_weight, precision,
    ) = inputs  # fmt: skip
    ctx.geometry = (stride, padding, output_padding, groups, dilation)
    ctx.activation, ctx.negative_slope, ctx.precision = activation, negative_slope, precision
    # prelu's backward needs its input, which is nowhere kept: it is computed again.
    prelu = activation == "prelu"
    ctx.save_for_backward(
        input,
        weight,
        prelu_weight,
        output if activation != "none" and not prelu else None,
        bias if prelu else None,
    )


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, prelu_weight, saved, bias = ctx.saved_tensors
    need = ctx.needs_input_grad
    mask = [need[0], need[1], need[2], need[10]]
    if ctx.activation == "prelu":
        saved = _op(
            input, weight, bias, *ctx.geometry, "none", ctx.negative_slope, None, ctx.precision
        )
    arguments = (
        grad_output, input, weight, saved, prelu_weight, *ctx.geometry, ctx.activation,
        ctx.negative_slope, mask, ctx.precision,
    )  # fmt: skip
    if grad_output.is_cuda:
        results = _autotune.run(_backward_op, _backward_by_pytorch, arguments)
    else:
        results = _backward_op(*arguments)
    grads = [g if wanted else None for g, wanted in zip(results, mask, strict=True)]
    # One per argument of the forward: tensors at 0, 1, 2 (bias) and 10 (prelu_weight).
    return (*grads[:3], None, None, None, None, None, None, None, grads[3], None)


def _by_pytorch(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], output_padding: Sequence[int], groups: int, dilation: Sequence[int],
    activation: str, negative_slope: float, prelu_weight: Tensor | None, precision: str,
) -> Tensor:  # fmt: skip
    output = F.conv_transpose2d(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    return fused(output, activation, negative_slope, prelu_weight)


def _backward_by_pytorch(
    grad_output: Tensor, input: Tensor, weight: Tensor, saved: Tensor | None,
    prelu_weight: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    output_padding: Sequence[int], groups: int, dilation: Sequence[int], activation: str,
    negative_slope: float, output_mask: Sequence[bool], precision: str,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    geometry = (stride, padding, dilation, True, output_padding, groups)
    return conv_gradients(
        grad_output, input, weight, saved, prelu_weight, geometry, activation, negative_slope,
        [*output_mask, False],
    )[:4]  # fmt: skip


class _ByPyTorch(torch.autograd.Function):
    """The operator's place in autograd, with PyTorch's own convolution for its forward."""

    forward = staticmethod(_by_pytorch)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)  # pyright: ignore[reportAssignmentType]  # of one output


if _available:
    torch.library.register_fake("denoise_ext::conv_transpose2d", _fake)
if _available and _backward_available:
    torch.library.register_fake("denoise_ext::conv_transpose2d_backward", _backward_fake)
    torch.library.register_autograd(
        "denoise_ext::conv_transpose2d", _backward, setup_context=_setup_context
    )
    forbid_double_backward("conv_transpose2d_backward")
