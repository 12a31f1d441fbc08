"""Normalisations in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from denoise_ext._norm_arguments import check_groups, check_norm
from denoise_ext.reference.activation import apply_activation


def layer_norm2d(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> Tensor:
    """:func:`denoise_ext.ops.layer_norm2d` as separate PyTorch operations.

    Example:
        >>> normal = denoise_ext.reference.layer_norm2d(torch.rand(1, 16, 8, 8))
        >>> bool(normal.mean(1).abs().max() < 1e-5)
        True
    """
    check_norm(input, weight, bias, eps, activation, negative_slope)
    pixels = input.movedim(-3, -1)
    pixels = F.layer_norm(pixels, pixels.shape[-1:], weight, bias, eps)
    return apply_activation(pixels.movedim(-1, -3), activation, negative_slope)


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
    """:func:`denoise_ext.ops.group_norm` as separate PyTorch operations.

    Example:
        >>> normal = denoise_ext.reference.group_norm(torch.rand(1, 16, 8, 8), 4)
        >>> bool(normal.mean().abs() < 1e-5)
        True
    """
    check_norm(input, weight, bias, eps, activation, negative_slope)
    check_groups(num_groups, input)
    images = input.unsqueeze(0) if input.dim() == 3 else input
    # As layer_norm: PyTorch's group_norm refuses groups of one value, whose result is the bias.
    n, c, h, w = images.shape
    values = images.reshape(n, num_groups, c // num_groups * h * w)
    values = F.layer_norm(values, values.shape[-1:], eps=eps).reshape(images.shape)
    if weight is not None:
        values = values * weight.view(-1, 1, 1)
    if bias is not None:
        values = values + bias.view(-1, 1, 1)
    output = apply_activation(values, activation, negative_slope)
    return output.squeeze(0) if input.dim() == 3 else output
