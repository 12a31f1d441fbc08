"""Gaussian and bilateral filters in plain PyTorch: oracle, and the path for any other device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext._arguments import (
    FILTER_DTYPES,
    LARGEST_GAUSSIAN,
    Sigma,
    bilateral_kernel_size,
    check_border,
    check_color_distance,
    check_guidance,
    check_image,
    check_sigma_values,
    check_window,
    odd_kernel_size,
    sigma_tensor,
)
from denoise_ext._choices import check_bool


def border_index(
    start: int, stop: int, size: int, border_type: str, device: torch.device
) -> Tensor:
    """Where the pixels at positions ``start..stop-1`` of an axis of ``size`` pixels are read from.

    ``"reflect"`` is OpenCV's BORDER_REFLECT_101 (edge pixel not repeated), folded as often as a
    window larger than the image needs; ``"circular"`` is the position modulo ``size``.
    """
    position = torch.arange(start, stop, device=device)
    if border_type == "replicate":
        return position.clamp(0, size - 1)
    if border_type == "circular":
        return position.remainder(size)
    period = max(2 * (size - 1), 1)  # a single pixel reflects onto itself
    folded = position.remainder(period)
    return torch.minimum(folded, period - folded) if size > 1 else folded


def _pad(x: Tensor, radius: tuple[int, int], border_type: str) -> Tensor:
    """Extend x (B, C, H, W) by ``radius`` (vertical, horizontal) pixels on every side."""
    ry, rx = radius
    if border_type == "constant":
        return F.pad(x, (rx, rx, ry, ry))
    height, width = x.shape[2:]
    rows = border_index(-ry, height + ry, height, border_type, x.device)
    columns = border_index(-rx, width + rx, width, border_type, x.device)
    return x.index_select(2, rows).index_select(3, columns)


def _gaussian_weights(size: int, sigma: Tensor) -> Tensor:
    """Normalised Gaussian taps: sigma (B,) in pixels -> (B, size)."""
    offset = torch.arange(size, device=sigma.device, dtype=sigma.dtype) - size // 2
    # (offset / sigma)^2 rather than offset^2 / sigma^2: sigma^2 may underflow.
    weights = torch.exp(-0.5 * (offset / sigma[:, None]).square())
    return weights / weights.sum(1, keepdim=True)


def _fixed_point_weights(size: int, sigma: Tensor) -> Tensor:
    """Gaussian taps as OpenCV takes them for 8-bit images: sigma (B,) -> int64 (B, size), sum 256.

    OpenCV's getGaussianKernelFixedPoint_ED: from the edge inwards each tap is rounded to 1/256 with
    the error of the one before carried on; the centre makes the sum whole.
    """
    scaled = _gaussian_weights(size, sigma.double()) * 256.0
    carried = torch.zeros_like(scaled[:, 0])
    half = []
    for i in range(size // 2):
        wanted = scaled[:, i] + carried
        half.append(wanted.round())
        carried = wanted - half[-1]
    center = 256.0 - 2.0 * sum(half, torch.zeros_like(carried))
    return torch.stack([*half, center, *reversed(half)], 1).long()


def _to_output(result: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.uint8:
        return result.round().clamp(0, 255).to(dtype)  # half to even, as OpenCV's bilateralFilter
    return result.to(dtype)


def gaussian_blur2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    sigma: Sigma,
    border_type: str = "reflect",
    separable: bool = True,
) -> Tensor:
    """:func:`denoise_ext.ops.gaussian_blur2d` as separate PyTorch operations.

    Example:
        >>> x = torch.rand(1, 3, 16, 16)
        >>> expected = denoise_ext.reference.gaussian_blur2d(x, 5, 1.5)
        >>> torch.allclose(denoise_ext.ops.gaussian_blur2d(x, 5, 1.5), expected, atol=1e-5)
        True
    """
    check_image(input, "input", FILTER_DTYPES)
    ky, kx = odd_kernel_size(kernel_size, LARGEST_GAUSSIAN)
    check_border(border_type)
    check_bool("separable", separable)
    if input.dim() == 3:
        return gaussian_blur2d(input.unsqueeze(0), (ky, kx), sigma, border_type).squeeze(0)
    sigma = sigma_tensor(sigma, "sigma", 2, input)  # (1 or B, 2)
    check_sigma_values(sigma, "sigma")
    height, width = input.shape[2:]
    if height == 0 or width == 0:
        return input.clone()
    weights = _fixed_point_weights if input.dtype == torch.uint8 else _gaussian_weights
    vertical = weights(ky, sigma[:, 0]).T[..., None, None, None]  # (ky, 1 or B, 1, 1, 1)
    horizontal = weights(kx, sigma[:, 1]).T[..., None, None, None]
    padded = _pad(input.to(vertical.dtype), (ky // 2, kx // 2), border_type)
    rows = reduce(torch.add, (vertical[i] * padded[:, :, i : i + height] for i in range(ky)))
    result = reduce(torch.add, (horizontal[i] * rows[..., i : i + width] for i in range(kx)))
    if input.dtype == torch.uint8:
        result = (result + 2**15) >> 16  # from 1/2^16 to whole levels, half up
    return result.to(input.dtype)


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
    """:func:`denoise_ext.ops.joint_bilateral_blur` as separate PyTorch operations.

    Example:
        >>> depth, photo = torch.rand(1, 1, 16, 16), torch.rand(1, 3, 16, 16)
        >>> denoise_ext.reference.joint_bilateral_blur(depth, photo, 5, 0.1, (1.5, 1.5)).shape
        torch.Size([1, 1, 16, 16])
    """
    check_image(input, "input", FILTER_DTYPES)
    check_guidance(input, guidance)
    ky, kx = bilateral_kernel_size(kernel_size, input, guidance)
    check_border(border_type)
    check_color_distance(color_distance_type)
    check_window(window, (ky, kx))
    if input.dim() == 3:
        return joint_bilateral_blur(
            input.unsqueeze(0), guidance.unsqueeze(0), (ky, kx), sigma_color, sigma_space,
            border_type, color_distance_type, window,
        ).squeeze(0)  # fmt: skip
    sigma_color = sigma_tensor(sigma_color, "sigma_color", 1, input)  # (1 or B,)
    sigma_space = sigma_tensor(sigma_space, "sigma_space", 2, input)  # (1 or B, 2)
    check_sigma_values(sigma_color, "sigma_color")
    check_sigma_values(sigma_space, "sigma_space")
    height, width = input.shape[2:]
    if height == 0 or width == 0:
        return input.clone()

    dtype, radius = sigma_color.dtype, (ky // 2, kx // 2)
    center = guidance.to(dtype)
    padded_guidance = _pad(center, radius, border_type)
    padded_input = _pad(input.to(dtype), radius, border_type)
    vertical = _gaussian_weights(ky, sigma_space[:, 0]).T[..., None, None, None]
    horizontal = _gaussian_weights(kx, sigma_space[:, 1]).T[..., None, None, None]
    scale = sigma_color[:, None, None, None]  # divides before squaring: its square may underflow

    total = torch.zeros((), dtype=dtype, device=input.device)  # becomes (B, C, H, W)
    weight_sum = torch.zeros((), dtype=dtype, device=input.device)  # becomes (B, 1, H, W)
    for i in range(ky):
        for j in range(kx):
            if window == "circle" and (i - ky // 2) ** 2 + (j - kx // 2) ** 2 > (ky // 2) ** 2:
                continue
            here = (..., slice(i, i + height), slice(j, j + width))
            difference = (padded_guidance[here] - center) / scale
            if color_distance_type == "l1":
                distance_squared = difference.abs().sum(1, keepdim=True).square()
            else:
                distance_squared = difference.square().sum(1, keepdim=True)
            weight = torch.exp(-0.5 * distance_squared) * (vertical[i] * horizontal[j])
            total = total + weight * padded_input[here]
            weight_sum = weight_sum + weight
    return _to_output(total / weight_sum, input.dtype)


def bilateral_blur(
    input: Tensor,
    kernel_size: int | Sequence[int],
    sigma_color: float | Tensor,
    sigma_space: Sigma,
    border_type: str = "reflect",
    color_distance_type: str = "l1",
    window: str = "square",
) -> Tensor:
    """:func:`denoise_ext.ops.bilateral_blur` as separate PyTorch operations.

    Example:
        >>> x = torch.rand(1, 3, 16, 16)
        >>> expected = denoise_ext.reference.bilateral_blur(x, 5, 0.1, 1.5)
        >>> torch.allclose(denoise_ext.ops.bilateral_blur(x, 5, 0.1, 1.5), expected, atol=1e-4)
        True
    """
    return joint_bilateral_blur(
        input, input, kernel_size, sigma_color, sigma_space, border_type, color_distance_type,
        window,
    )  # fmt: skip
