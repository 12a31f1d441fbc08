"""Bilateral and joint bilateral filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from denoise_ext._arguments import (
    FILTER_DTYPES,
    Sigma,
    bilateral_kernel_size,
    check_border,
    check_color_distance,
    check_guidance,
    check_image,
    check_window,
    sigma_tensor,
)
from denoise_ext.ops._layout import empty_as, output_format
from denoise_ext.ops._library import (
    forbid_double_backward,
    kernel_devices,
    native_op,
    raise_no_kernel,
)

_op, _available = native_op("bilateral_blur")
_joint_op, _joint_available = native_op("joint_bilateral_blur")
_backward_op, _backward_available = native_op("joint_bilateral_blur_backward")
_devices = kernel_devices("bilateral_blur")
_joint_devices = kernel_devices("joint_bilateral_blur")


def bilateral_blur(
    input: Tensor,
    kernel_size: int | Sequence[int],
    sigma_color: float | Tensor,
    sigma_space: Sigma,
    border_type: str = "reflect",
    color_distance_type: str = "l1",
    window: str = "square",
) -> Tensor:
    """Average each pixel with the pixels of its window that are near in place and colour.

    The weight of a neighbour is ``g(dy, dx) exp(-(d / sigma_color)^2 / 2)``.  ``g`` is the Gaussian
    of ``sigma_space``, ``d`` the distance of the two colours: the sum of the channels' absolute
    differences (``"l1"``) or the root of the sum of their squares (``"l2"``).  Tomasi and Manduchi,
    ICCV 1998; Kornia's signature and results.  Sums are in float32 (float64 for float64).  On the
    CPU the relative error of a weight is at most 3e-6, for uint8 8e-5, for float64 rounding.
    Differentiable once in input (not uint8) and in tensor sigmas.

    ===================  =========================================================================
    argument             constraint
    ===================  =========================================================================
    input                (N, C, H, W) or (C, H, W); float32, float64, bfloat16, float16, uint8;
                         any strides; N may be 0; uint8 that is plainly (H, W, C) is refused
    kernel_size          odd int or pair (height, width), 1 to 1023; may be larger than the image
    sigma_color          > 0, in the input's units (0.1 for an image in [0, 1] is 25.5 on the
                         0-255 scale, which is the scale of uint8 input): a number, or a tensor
                         (1,) or (N,)
    sigma_space          in pixels, > 0: a number, a pair (vertical, horizontal), or a tensor
                         (1, 2) or (N, 2), (1,) or (N,)
    border_type          ``"reflect"`` (OpenCV's BORDER_REFLECT_101), ``"replicate"``,
                         ``"constant"`` (zeros, which take part as black pixels), ``"circular"``
    color_distance_type  ``"l1"`` or ``"l2"``
    window               ``"square"`` (Kornia), or ``"circle"``: neighbours farther than
                         ``kernel_size // 2`` are left out, which is OpenCV's ``bilateralFilter``
                         (with ``"l1"``); square kernel sizes alone
    ===================  =========================================================================

    Returns:
        The input's shape, dtype and layout; uint8 results are rounded to nearest.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value.
        RuntimeError: the native library is missing (the message has the reason), or a tensor sigma
            on the CPU is not finite and > 0.  A GPU does not check it, because the CPU would have
            to wait; the result is then undefined.

    Example:
        >>> x = torch.rand(1, 3, 32, 32)
        >>> y = denoise_ext.ops.bilateral_blur(x, (5, 5), sigma_color=0.1, sigma_space=(1.5, 1.5))
        >>> bool(y.var() < x.var())
        True
    """
    kernel_size = _check(input, input, kernel_size, border_type, color_distance_type, window)
    if input.device.type not in _devices:
        raise_no_kernel("bilateral_blur", input, _devices)
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    sigma_color, sigma_space = _sigmas(sigma_color, sigma_space, input)
    output = _op(
        input, kernel_size, sigma_color, sigma_space, border_type, color_distance_type, window
    )
    return output.squeeze(0) if unbatched else output


def joint_bilateral_blur(
    input: Tensor,
    guidance: Tensor,
    kernel_size: int | Sequence[int],
    sigma_color: float | Tensor,
    sigma_space: Sigma,
    border_type: str = "reflect",
    color_distance_type: str = "l1",
    window: str = "square",
) -> Tensor:
    """Average ``input`` with weights taken from ``guidance``.

    :func:`bilateral_blur` with the colour distance measured in another image, such as a flash
    photograph or a render's albedo (Petschnigg et al., SIGGRAPH 2004).  Differentiable once in
    input, guidance (not uint8) and tensor sigmas.

    ``guidance`` is (N, C_guidance, H, W), or (C_guidance, H, W) for an input without N, with at
    most 65536 channels, of the input's dtype; ``sigma_color`` is in its units.  Everything else is
    as in :func:`bilateral_blur`, whose constraints and errors apply.

    Returns:
        The input's shape, dtype and layout.

    Example:
        >>> depth, photo = torch.rand(1, 1, 32, 32), torch.rand(1, 3, 32, 32)
        >>> y = denoise_ext.ops.joint_bilateral_blur(depth, photo, 5, 0.1, (1.5, 1.5))
        >>> y.shape
        torch.Size([1, 1, 32, 32])
    """
    kernel_size = _check(input, guidance, kernel_size, border_type, color_distance_type, window)
    if input.device.type not in _joint_devices:
        raise_no_kernel("joint_bilateral_blur", input, _joint_devices)
    unbatched = input.dim() == 3
    if unbatched:
        input, guidance = input.unsqueeze(0), guidance.unsqueeze(0)
    sigma_color, sigma_space = _sigmas(sigma_color, sigma_space, input)
    output = _joint_op(
        input, guidance, kernel_size, sigma_color, sigma_space, border_type, color_distance_type,
        window,
    )  # fmt: skip
    return output.squeeze(0) if unbatched else output


def _check(
    input: Tensor,
    guidance: Tensor,
    kernel_size: int | Sequence[int],
    border_type: str,
    color_distance_type: str,
    window: str,
) -> tuple[int, int]:
    check_image(input, "input", FILTER_DTYPES)
    if guidance is not input:
        check_guidance(input, guidance)
    kernel_size = bilateral_kernel_size(kernel_size, input, guidance)
    check_border(border_type)
    check_color_distance(color_distance_type)
    check_window(window, kernel_size)
    return kernel_size


def _sigmas(
    sigma_color: float | Tensor, sigma_space: Sigma, input: Tensor
) -> tuple[Tensor, Tensor]:
    # Numbers stay on the CPU for a GPU's input too: they travel with the launch, without a copy.
    return (
        sigma_tensor(sigma_color, "sigma_color", 1, input, numbers_on="cpu"),
        sigma_tensor(sigma_space, "sigma_space", 2, input, numbers_on="cpu"),
    )


def _fake(
    input: Tensor, kernel_size: Sequence[int], sigma_color: Tensor, sigma_space: Tensor,
    border_type: str, color_distance_type: str, window: str,
) -> Tensor:  # fmt: skip
    bilateral_kernel_size(kernel_size, input, input)
    return empty_as(input, input.shape, output_format(input))


def _joint_fake(
    input: Tensor, guidance: Tensor, kernel_size: Sequence[int], sigma_color: Tensor,
    sigma_space: Tensor, border_type: str, color_distance_type: str, window: str,
) -> Tensor:  # fmt: skip
    bilateral_kernel_size(kernel_size, input, guidance)
    return empty_as(input, input.shape, output_format(input))


def _backward_fake(
    grad_output: Tensor, input: Tensor, guidance: Tensor, output: Tensor,
    kernel_size: Sequence[int], sigma_color: Tensor, sigma_space: Tensor, border_type: str,
    color_distance_type: str, window: str, output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    bilateral_kernel_size(kernel_size, input, guidance)
    outputs = (
        (input, output_format(input)),
        (guidance, output_format(guidance)),
        (sigma_color, torch.contiguous_format),
        (sigma_space, torch.contiguous_format),
    )
    return tuple(
        empty_as(x, x.shape, layout) if wanted else empty_as(input, (0,), torch.contiguous_format)
        for wanted, (x, layout) in zip(output_mask, outputs, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, kernel_size, sigma_color, sigma_space, *options = inputs
    ctx.kernel_size, ctx.options = kernel_size, options
    ctx.save_for_backward(input, output, sigma_color, sigma_space)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, output, sigma_color, sigma_space = ctx.saved_tensors
    need_input, _, need_color, need_space, *_ = ctx.needs_input_grad
    grad_input, grad_guidance, grad_color, grad_space = _backward_op(
        grad_output, input, input, output, ctx.kernel_size, sigma_color, sigma_space, *ctx.options,
        [need_input, need_input, need_color, need_space],
    )  # fmt: skip
    return (
        grad_input + grad_guidance if need_input else None,  # the image is both
        None,
        grad_color if need_color else None,
        grad_space if need_space else None,
        None,
        None,
        None,
    )


def _joint_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, guidance, kernel_size, sigma_color, sigma_space, *options = inputs
    ctx.kernel_size, ctx.options = kernel_size, options
    ctx.save_for_backward(input, guidance, output, sigma_color, sigma_space)


def _joint_backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, guidance, output, sigma_color, sigma_space = ctx.saved_tensors
    need = ctx.needs_input_grad
    mask = [need[0], need[1], need[3], need[4]]
    results = _backward_op(
        grad_output, input, guidance, output, ctx.kernel_size, sigma_color, sigma_space,
        *ctx.options, mask,
    )  # fmt: skip
    grads = [g if wanted else None for g, wanted in zip(results, mask, strict=True)]
    return grads[0], grads[1], None, grads[2], grads[3], None, None, None


if _available:
    torch.library.register_fake("denoise_ext::bilateral_blur", _fake)
if _joint_available:
    torch.library.register_fake("denoise_ext::joint_bilateral_blur", _joint_fake)
if _available and _joint_available and _backward_available:
    torch.library.register_fake("denoise_ext::joint_bilateral_blur_backward", _backward_fake)
    torch.library.register_autograd(
        "denoise_ext::bilateral_blur", _backward, setup_context=_setup_context
    )
    torch.library.register_autograd(
        "denoise_ext::joint_bilateral_blur", _joint_backward, setup_context=_joint_setup_context
    )
    forbid_double_backward("joint_bilateral_blur_backward")
