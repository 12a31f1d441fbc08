"""Normalisation over channels, and over groups of channels, with an activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext._norm_arguments import check_groups, check_norm
from denoise_ext.ops._by_pytorch import fused, gradient_by_input
from denoise_ext.ops._layout import empty_as, output_format
from denoise_ext.ops._library import kernel_devices, native_op

aten: Any = torch.ops.aten

_layer_op, _layer_available = native_op("layer_norm2d")
_group_op, _group_available = native_op("group_norm")
_layer_devices = kernel_devices("layer_norm2d")
_group_devices = kernel_devices("group_norm")


def layer_norm2d(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """Normalise each pixel over its channels, scale, shift and activate, in one pass.

    ``act((x - mean) / sqrt(variance + eps) * weight + bias)``, with mean and variance (divided by
    C) of the pixel: :func:`torch.nn.functional.layer_norm` over the channels of an image.
    Variances are sums of squared differences from the mean, in float32 (float64 for float64).
    Differentiable once in every tensor argument.  The gradients are PyTorch's own, and so is the
    result on devices that this build has no kernels for.

    ===================  =========================================================================
    argument             constraint
    ===================  =========================================================================
    input                (N, C, H, W) or (C, H, W); float32, float64, bfloat16, float16;
                         any strides; channels_last is fastest; N may be 0
    weight, bias         (C,) or None
    eps                  finite, >= 0
    activation           as in :func:`conv2d`, but not ``"prelu"``
    negative_slope       slope of ``leaky_relu`` below zero, finite, >= 0
    ===================  =========================================================================

    Returns:
        The input's shape, dtype and layout.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value.
        RuntimeError: the native library is missing (the message has the reason).

    Example:
        >>> normal = denoise_ext.ops.layer_norm2d(torch.rand(1, 16, 8, 8))
        >>> bool(normal.mean(1).abs().max() < 1e-5)
        True
    """
    check_norm(input, weight, bias, eps, activation, negative_slope)
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    if input.device.type in _layer_devices or not _layer_available:
        output = _layer_op(input, weight, bias, eps, activation, negative_slope)
    else:
        output = fused(_layer_norm(input, weight, bias, eps), activation, negative_slope, None)
    return output.squeeze(0) if unbatched else output


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """Normalise groups of channels over all their pixels, scale, shift and activate.

    ``act((x - mean) / sqrt(variance + eps) * weight + bias)``, with mean and variance (divided by
    the number of values) of each image and group: :func:`torch.nn.functional.group_norm` (Wu & He
    2018, arXiv:1803.08494).  With as many groups as channels it is instance normalisation, without
    running statistics.  Means and variances are summed in float64.  Differentiable once in every
    tensor argument.  The gradients are PyTorch's own, and so is the result on devices that this
    build has no kernels for.

    ===================  =========================================================================
    argument             constraint
    ===================  =========================================================================
    input                (N, C, H, W) or (C, H, W); float32, float64, bfloat16, float16;
                         any strides; contiguous and channels_last are fastest; N may be 0
    num_groups           divides C
    weight, bias         (C,) or None
    eps                  finite, >= 0
    activation           as in :func:`conv2d`, but not ``"prelu"``
    negative_slope       slope of ``leaky_relu`` below zero, finite, >= 0
    ===================  =========================================================================

    Returns:
        The input's shape, dtype and layout.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value.
        RuntimeError: the native library is missing (the message has the reason).

    Example:
        >>> normal = denoise_ext.ops.group_norm(torch.rand(1, 16, 8, 8), 4)
        >>> bool(normal.mean().abs() < 1e-5)
        True
    """
    check_norm(input, weight, bias, eps, activation, negative_slope)
    check_groups(num_groups, input)
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    if input.device.type in _group_devices or not _group_available:
        output = _group_op(input, num_groups, weight, bias, eps, activation, negative_slope)
    else:
        output = F.group_norm(input, num_groups, weight, bias, eps)
        output = fused(output, activation, negative_slope, None)
    return output.squeeze(0) if unbatched else output


def _layer_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:  # fmt: skip
    pixels = F.layer_norm(input.permute(0, 2, 3, 1), input.shape[1:2], weight, bias, eps)
    return pixels.permute(0, 3, 1, 2)


def _layer_fake(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: str,
    negative_slope: float,
) -> Tensor:  # fmt: skip
    return empty_as(input, input.shape, output_format(input))


def _group_fake(
    input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float,
    activation: str, negative_slope: float,
) -> Tensor:  # fmt: skip
    return empty_as(input, input.shape, output_format(input))


def _out_fake(*_: Any) -> None:
    return None


def _layer_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, ctx.eps, ctx.activation, ctx.negative_slope = inputs
    ctx.save_for_backward(input, weight, bias)


def _group_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, ctx.groups, weight, bias, ctx.eps, ctx.activation, ctx.negative_slope = inputs
    ctx.save_for_backward(input, weight, bias)


def _layer_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, bias = ctx.saved_tensors
    shape = [input.shape[1]]
    pixels = input.permute(0, 2, 3, 1).contiguous()
    output, mean, rstd = aten.native_layer_norm(pixels, shape, weight, bias, ctx.eps)
    grad = grad_output.permute(0, 2, 3, 1)
    grad = gradient_by_input(ctx.activation, ctx.negative_slope, grad, output)
    wanted = list(ctx.needs_input_grad[:3])
    grads = aten.native_layer_norm_backward(
        grad.contiguous(), pixels, shape, mean, rstd, weight, bias, wanted
    )
    grad_input = grads[0].permute(0, 3, 1, 2) if wanted[0] else None
    return (grad_input, *_only(wanted[1:], grads[1:]), None, None, None)


def _group_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, bias = ctx.saved_tensors
    n, c, h, w = input.shape
    # PyTorch's kernels read dense tensors, and return no gradient of a bias without a weight.
    input = input.contiguous(memory_format=output_format(input))
    if weight is None:
        weight = input.new_ones(c)
    output, mean, rstd = aten.native_group_norm(
        input, weight, bias, n, c, h * w, ctx.groups, ctx.eps
    )
    grad = gradient_by_input(ctx.activation, ctx.negative_slope, grad_output, output)
    needs = ctx.needs_input_grad
    wanted = [needs[0], needs[2], needs[3]]
    grads = aten.native_group_norm_backward(
        grad.contiguous(memory_format=output_format(input)), input, mean, rstd, weight, n, c,
        h * w, ctx.groups, wanted,
    )  # fmt: skip
    grad_input, grad_weight, grad_bias = _only(wanted, grads)
    return grad_input, None, grad_weight, grad_bias, None, None, None


def _only(wanted: list[bool], grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    return [grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True)]


def _deviation_fake(input: Tensor, weight: Tensor | None, eps: float, out: Tensor) -> None:
    return None


if _layer_available and _group_available:
    # input / sqrt(variance + eps) * weight over channels, on the CPU: the mean stays.
    torch.library.register_fake("denoise_ext::deviation_norm_out", _deviation_fake)
    torch.library.register_fake("denoise_ext::layer_norm2d", _layer_fake)
    torch.library.register_fake("denoise_ext::group_norm", _group_fake)
    torch.library.register_fake("denoise_ext::layer_norm2d_out", _out_fake)
    torch.library.register_fake("denoise_ext::group_norm_out", _out_fake)
    torch.library.register_autograd(
        "denoise_ext::layer_norm2d", _layer_backward, setup_context=_layer_setup_context
    )
    torch.library.register_autograd(
        "denoise_ext::group_norm", _group_backward, setup_context=_group_setup_context
    )
