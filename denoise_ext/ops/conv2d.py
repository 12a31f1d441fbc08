"""Fused 2-D convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext._arguments import (
    check_fake_conv,
    check_fake_mask,
    check_like_input,
    check_output_size,
    check_precision,
    check_residual_position,
    conv_output_size,
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

_op, _available = native_op("conv2d")
_backward_op, _backward_available = native_op("conv2d_backward")
_devices = kernel_devices("conv2d")


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
    """Compute convolution, bias, activation and an optional skip connection in one kernel.

    With ``conv`` as in :func:`torch.nn.functional.conv2d`, the result is ``act(conv + bias)``,
    ``act(conv + bias + residual)`` (``residual_position="before"``) or
    ``act(conv + bias) + residual`` (``"after"``).  Sums are kept in float32 (float64 for float64)
    until the one rounding at the end.  Differentiable once in every tensor argument.

    ===================  =========================================================================
    argument             constraint
    ===================  =========================================================================
    input                (N, C_in, H, W) or (C_in, H, W); float32, float64, bfloat16, float16;
                         any strides; contiguous and channels_last are fastest;
                         N may be 0
    weight               (C_out, C_in / groups, kH, kW); at most 2**31 elements and 2**24 taps
    bias                 (C_out,) or None
    stride, dilation     int or pair (vertical, horizontal), 1 to 2**30
    padding              int or pair, 0 to 2**30, zeros; or ``"valid"``; or ``"same"`` (stride 1)
    groups               divides C_in and C_out; C_in for a depthwise convolution
    activation           ``"none"``, ``"relu"``, ``"leaky_relu"``, ``"prelu"``, ``"sigmoid"``,
                         ``"tanh"``
    negative_slope       slope of ``leaky_relu`` below zero, finite, >= 0
    prelu_weight         1 or C_out slopes; given exactly when ``activation="prelu"``
    residual             the output's shape, or None
    residual_position    ``"before"`` or ``"after"`` the activation
    precision            ``"strict"``, ``"default"`` or ``"fast"``, see below
    ===================  =========================================================================

    ``precision`` sets which arithmetic is allowed for float32, bfloat16 and float16.  Gradients use
    the same.

    ===============  ============================  =============================================
    precision        CPU                           GPU, float32
    ===============  ============================  =============================================
    ``"strict"``     direct sums                   factors are never rounded
    ``"default"``    also Winograd F(4x4, 3x3)     factors are rounded to tf32 (10-bit mantissas)
                                                   if PyTorch allows it for its own convolutions
                                                   at the time of the call:
                                                   ``torch.backends.cudnn.conv.fp32_precision``
    ``"fast"``       also F(6x6, 3x3)              tf32 with any setting of PyTorch
    ===============  ============================  =============================================

    tf32 needs compute capability 8.0.  PyTorch allows tf32 by default.  Where it does not, the
    default may divide a factor into two tf32 numbers, which three products stand for ("3xTF32").
    The error is that of a sum in float32.  An infinite factor gives NaN.

    On the CPU, 3x3 convolutions of stride 1 use Winograd's algorithm (Lavin & Gray 2016,
    arXiv:1509.09308) if it is faster (:func:`denoise_ext.ops.explain`).  The default is
    F(4x4, 3x3).  Its rms error is 2 times that of direct float32 sums: 1e-6 of the output's rms at
    64 channels, at most about 1e-5 anywhere.  ``"fast"`` also allows F(6x6, 3x3), with 8 times:
    4e-6, at most about 8e-5.  A tile is computed from all of its 6x6 or 8x8 inputs.  Infinities and
    NaNs therefore reach outputs that direct sums would keep finite.  Results do not depend on the
    number of threads.

    All tensors have one dtype and device.  Under autocast they are cast as autocast casts those of
    ``torch.nn.functional.conv2d``.  Rows and columns are at most 2**30, of the padded input and of
    the dilated kernel too.  The output has at most 2**48 elements.

    Returns:
        (N, C_out, H_out, W_out) (without N for an input without), of the input's dtype;
        channels_last when input or weight is, as in PyTorch.
        ``H_out = floor((H + 2 padding - dilation (kH - 1) - 1) / stride) + 1``.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value, or a kernel larger than the padded input.
        RuntimeError: the native library is missing (the message has the reason).

    Example:
        >>> x, weight = torch.rand(1, 3, 32, 32), torch.rand(8, 3, 3, 3)
        >>> y = denoise_ext.ops.conv2d(x, weight, padding=1, activation="relu")
        >>> torch.allclose(y, torch.nn.functional.conv2d(x, weight, padding=1).relu(), atol=1e-3)
        True
    """
    device_type = input.device.type if isinstance(input, Tensor) else "meta"
    dtype = autocast_dtype(device_type)
    if dtype is not None:
        input, weight, bias = cast(input, dtype), cast(weight, dtype), cast(bias, dtype)
        prelu_weight, residual = cast(prelu_weight, dtype), cast(residual, dtype)
    check_conv(input, weight, bias, groups, False, activation, negative_slope, prelu_weight)
    if device_type not in _devices:
        raise_no_kernel("conv2d", input, _devices)
    check_precision(precision)
    stride = int_pair(stride, "stride", 1)
    dilation = int_pair(dilation, "dilation", 1)
    if isinstance(padding, str):
        input, padding = _named_padding(input, weight, stride, padding, dilation)
    else:
        padding = int_pair(padding, "padding", 0)
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    shape = _output_shape(input, weight, stride, padding, dilation)
    if shape[2] < 1 or shape[3] < 1:
        raise ValueError(
            f"weight's kernel (with dilation {dilation}: {_reach(weight, dilation)}) must not be "
            f"larger than the padded input, got {_padded(input, padding)}"
        )
    if residual is not None:
        residual = _checked_residual(residual, residual_position, input, shape, unbatched)
    arguments = (
        input, weight, bias, stride, padding, dilation, groups, activation, negative_slope,
        prelu_weight, residual, residual_position, precision,
    )  # fmt: skip
    if device_type == "cuda":
        output = _autotune.run(_op, _ByPyTorch.apply, arguments)
    else:
        output = _op(*arguments)
    return output.squeeze(0) if unbatched else output


def _named_padding(
    input: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: str,
    dilation: tuple[int, int],
) -> tuple[Tensor, tuple[int, int]]:
    """Resolve ``"valid"`` and ``"same"``; an uneven "same" puts the extra row below/right."""
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise ValueError(f"padding must be ints, 'valid' or 'same', got {padding!r}")
    if stride != (1, 1):
        raise ValueError(f"stride must be 1 for padding='same', got {stride}")
    total_y = dilation[0] * (weight.shape[2] - 1)
    total_x = dilation[1] * (weight.shape[3] - 1)
    if total_y % 2 or total_x % 2:
        input = F.pad(input, (0, total_x % 2, 0, total_y % 2))
    return input, (total_y // 2, total_x // 2)


def _output_shape(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    size = conv_output_size(input, weight, stride, padding, dilation)
    shape = (input.shape[0], weight.shape[0], *size)
    check_output_size(shape)
    return shape


def _reach(weight: Tensor, dilation: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that the dilated kernel covers."""
    kh, kw = weight.shape[2:]
    return dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1


def _padded(input: Tensor, padding: tuple[int, int]) -> tuple[int, int]:
    return input.shape[2] + 2 * padding[0], input.shape[3] + 2 * padding[1]


def _checked_residual(
    residual: Tensor, position: str, input: Tensor, shape: tuple[int, ...], unbatched: bool
) -> Tensor:
    check_residual_position(position)
    check_like_input(residual, "residual", input)
    expected = shape[1:] if unbatched else shape
    if tuple(residual.shape) != tuple(expected):
        raise ValueError(
            f"residual must have the output's shape {tuple(expected)}, got {tuple(residual.shape)}"
        )
    return residual.unsqueeze(0) if unbatched else residual


def _fake(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, activation: str,
    negative_slope: float, prelu_weight: Tensor | None, residual: Tensor | None,
    residual_position: str, precision: str = "default",
) -> Tensor:  # fmt: skip
    check_fake_conv(weight, groups, stride=stride, padding=padding, dilation=dilation)
    shape = _output_shape(input, weight, stride, padding, dilation)
    return empty_as(input, shape, output_format(input, weight))


def _backward_fake(
    grad_output: Tensor, input: Tensor, weight: Tensor, saved: Tensor | None,
    prelu_weight: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, activation: str, negative_slope: float,
    output_mask: Sequence[bool], precision: str = "default",
) -> tuple[Tensor, ...]:  # fmt: skip
    check_fake_mask(output_mask, 5)
    check_fake_conv(weight, groups, stride=stride, padding=padding, dilation=dilation)
    _output_shape(input, weight, stride, padding, dilation)  # checks
    # Without an activation the last gradient is a copy of the output's; with one it is laid out as
    # what the activation's gradient is computed from.
    if not output_mask[4]:
        preactivation = input.new_empty(0)
    elif saved is None:
        preactivation = torch.empty_like(grad_output)
    else:
        preactivation = empty_as(input, grad_output.shape, output_format(saved))
    grads = conv_backward_fake(input, weight, prelu_weight, weight.shape[0], output_mask[:4])
    return *grads, preactivation


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    (
        input, weight, bias, stride, padding, dilation, groups, activation, negative_slope,
        prelu_weight, residual, residual_position, precision,
    ) = inputs  # fmt: skip
    ctx.geometry, ctx.precision = (stride, padding, dilation, groups), precision
    ctx.activation, ctx.negative_slope = activation, negative_slope
    ctx.has_residual = residual is not None
    ctx.after = residual is not None and residual_position == "after"
    # What the backward of the activation reads is not always there to keep: the output holds the
    # residual ("after"), or the input of the activation is needed (prelu).  It is computed again.
    ctx.recompute = activation == "prelu" or (ctx.after and activation != "none")
    keep_output = activation != "none" and not ctx.recompute
    ctx.save_for_backward(
        input,
        weight,
        prelu_weight,
        output if keep_output else None,
        bias if ctx.recompute else None,
        residual if ctx.recompute and not ctx.after else None,
    )


def _saved_for_activation(ctx: Any) -> Tensor | None:
    input, weight, _, output, bias, residual = ctx.saved_tensors
    if not ctx.recompute:
        return output
    activation = "none" if ctx.activation == "prelu" else ctx.activation
    return _op(
        input, weight, bias, *ctx.geometry, activation, ctx.negative_slope, None, residual,
        "before", ctx.precision,
    )  # fmt: skip


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, prelu_weight = ctx.saved_tensors[:3]
    need = ctx.needs_input_grad
    # Without an activation in between, and after it, the residual's gradient is the output's.
    passes_through = ctx.has_residual and (ctx.after or ctx.activation == "none")
    mask = [need[0], need[1], need[2], need[9], need[10] and not passes_through]
    grads: list[Tensor | None] = [None] * 5
    if any(mask):
        arguments = (
            grad_output, input, weight, _saved_for_activation(ctx), prelu_weight, *ctx.geometry,
            ctx.activation, ctx.negative_slope, mask, ctx.precision,
        )  # fmt: skip
        if grad_output.is_cuda:
            results = _autotune.run(_backward_op, _backward_by_pytorch, arguments)
        else:
            results = _backward_op(*arguments)
        grads = [g if wanted else None for g, wanted in zip(results, mask, strict=True)]
    if need[10] and passes_through:
        grads[4] = grad_output
    # One per argument of the forward: tensors at 0, 1, 2 (bias), 9 (prelu_weight), 10 (residual).
    return (*grads[:3], None, None, None, None, None, None, grads[3], grads[4], None, None)


def _by_pytorch(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int, activation: str,
    negative_slope: float, prelu_weight: Tensor | None, residual: Tensor | None,
    residual_position: str, precision: str,
) -> Tensor:  # fmt: skip
    output = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return fused(output, activation, negative_slope, prelu_weight, residual, residual_position)


def _backward_by_pytorch(
    grad_output: Tensor, input: Tensor, weight: Tensor, saved: Tensor | None,
    prelu_weight: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, activation: str, negative_slope: float,
    output_mask: Sequence[bool], precision: str,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    geometry = (stride, padding, dilation, False, (0, 0), groups)
    return conv_gradients(
        grad_output, input, weight, saved, prelu_weight, geometry, activation, negative_slope,
        output_mask,
    )  # fmt: skip


class _ByPyTorch(torch.autograd.Function):
    """The operator's place in autograd, with PyTorch's own convolution for its forward."""

    forward = staticmethod(_by_pytorch)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)  # pyright: ignore[reportAssignmentType]  # of one output


if _available:
    torch.library.register_fake("denoise_ext::conv2d", _fake)
if _available and _backward_available:
    torch.library.register_fake("denoise_ext::conv2d_backward", _backward_fake)
    torch.library.register_autograd("denoise_ext::conv2d", _backward, setup_context=_setup_context)
    forbid_double_backward("conv2d_backward")
