"""Gaussian blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from denoise_ext._arguments import (
    FILTER_DTYPES,
    LARGEST_GAUSSIAN,
    Sigma,
    check_border,
    check_fake_mask,
    check_image,
    odd_kernel_size,
    sigma_tensor,
)
from denoise_ext._choices import check_bool
from denoise_ext.ops._layout import empty_as, output_format
from denoise_ext.ops._library import (
    forbid_double_backward,
    kernel_devices,
    native_op,
    raise_no_kernel,
)

_op, _available = native_op("gaussian_blur2d")
_backward_op, _backward_available = native_op("gaussian_blur2d_backward")
_devices = kernel_devices("gaussian_blur2d")


def gaussian_blur2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    sigma: Sigma,
    border_type: str = "reflect",
    separable: bool = True,
) -> Tensor:
    """Blur each channel with a normalised Gaussian window, both directions in one pass.

    The window is ``exp(-(y / sigma_y)^2 / 2) exp(-(x / sigma_x)^2 / 2)`` over ``kernel_size``
    pixels, scaled to sum 1: OpenCV's and Kornia's ``GaussianBlur``.  Sums are kept in float32
    (float64 for float64).  Differentiable once in input (not uint8) and in a tensor sigma.

    ===================  =========================================================================
    argument             constraint
    ===================  =========================================================================
    input                (N, C, H, W) or (C, H, W); float32, float64, bfloat16, float16, uint8;
                         any strides; N may be 0; uint8 that is plainly (H, W, C) is refused
    kernel_size          odd int or pair (height, width), 1 to 65535; may be larger than the image;
                         on a GPU height times width is at most 2**22
    sigma                standard deviation in pixels, finite, > 0: a number, a pair (vertical,
                         horizontal), or a tensor (1, 2) or (N, 2), (1,) or (N,)
    border_type          ``"reflect"`` (OpenCV's BORDER_REFLECT_101: the edge pixel is not
                         repeated), ``"replicate"``, ``"constant"`` (zeros) or ``"circular"``
    separable            a bool, as Kornia's: it changes nothing, both directions are always
                         filtered apart
    ===================  =========================================================================

    Returns:
        The input's shape, dtype and layout.  uint8 results are those of ``cv2.GaussianBlur``, bit
        for bit: its taps are multiples of 1/256.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or value.
        RuntimeError: the native library is missing (the message has the reason), or a tensor sigma
            on the CPU is not finite and > 0.  A GPU does not check it, because the CPU would have
            to wait; the result is then undefined.

    Example:
        >>> photo = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
        >>> denoise_ext.ops.gaussian_blur2d(photo, (9, 9), sigma=1.5).dtype
        torch.uint8
    """
    check_image(input, "input", FILTER_DTYPES)
    kernel_size = odd_kernel_size(kernel_size, LARGEST_GAUSSIAN)
    check_border(border_type)
    check_bool("separable", separable)
    if input.device.type not in _devices:
        raise_no_kernel("gaussian_blur2d", input, _devices)
    unbatched = input.dim() == 3
    if unbatched:
        input = input.unsqueeze(0)
    # Numbers stay on the CPU for a GPU's input too: they travel with the launch, without a copy.
    sigma = sigma_tensor(sigma, "sigma", 2, input, numbers_on="cpu")
    output = _op(input, kernel_size, sigma, border_type)
    return output.squeeze(0) if unbatched else output


def _fake(input: Tensor, kernel_size: Sequence[int], sigma: Tensor, border_type: str) -> Tensor:
    odd_kernel_size(kernel_size, LARGEST_GAUSSIAN)
    return empty_as(input, input.shape, output_format(input))


def _backward_fake(
    grad_output: Tensor, input: Tensor, kernel_size: Sequence[int], sigma: Tensor, border_type: str,
    output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    check_fake_mask(output_mask, 2)
    odd_kernel_size(kernel_size, LARGEST_GAUSSIAN)
    return (
        empty_as(input, input.shape, output_format(input))
        if output_mask[0]
        else empty_as(input, (0,), torch.contiguous_format),
        empty_as(sigma, sigma.shape, torch.contiguous_format)
        if output_mask[1]
        else empty_as(input, (0,), torch.contiguous_format),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, ctx.kernel_size, sigma, ctx.border_type = inputs
    ctx.save_for_backward(input, sigma)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, sigma = ctx.saved_tensors
    mask = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
    grad_input, grad_sigma = _backward_op(
        grad_output, input, ctx.kernel_size, sigma, ctx.border_type, mask
    )
    return grad_input if mask[0] else None, None, grad_sigma if mask[1] else None, None


if _available:
    torch.library.register_fake("denoise_ext::gaussian_blur2d", _fake)
if _available and _backward_available:
    torch.library.register_fake("denoise_ext::gaussian_blur2d_backward", _backward_fake)
    torch.library.register_autograd(
        "denoise_ext::gaussian_blur2d", _backward, setup_context=_setup_context
    )
    forbid_double_backward("gaussian_blur2d_backward")
