"""Checks that both convolutions share.  They run on every call: short, no allocation."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from denoise_ext._arguments import (
    ACTIVATIONS,
    FLOAT_DTYPES,
    check_activation,
    check_image,
    check_like_input,
    check_weight_size,
)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype that autocast would run a convolution in, or None outside of autocast."""
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


@overload
def cast(x: Tensor, dtype: torch.dtype) -> Tensor: ...
@overload
def cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None: ...
def cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Cast as autocast does: floating tensors alone, and float64 stays."""
    if x is None or not x.is_floating_point() or x.dtype == torch.float64:
        return x
    return x.to(dtype)


def check_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    transposed: bool,
    activation: str,
    negative_slope: float,
    prelu_weight: Tensor | None,
) -> None:
    """Check everything about a convolution but its geometry."""
    check_image(input, "input", FLOAT_DTYPES)
    check_like_input(weight, "weight", input)
    if weight.dim() != 4:
        layout = "(C_in, C_out/groups, kH, kW)" if transposed else "(C_out, C_in/groups, kH, kW)"
        raise ValueError(f"weight must have shape {layout}, got {tuple(weight.shape)}")
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an int >= 1, got {groups!r}")
    w0, w1, kh, kw = weight.shape
    if w0 == 0 or w1 == 0 or kh == 0 or kw == 0:
        raise ValueError(f"weight must not be empty, got shape {tuple(weight.shape)}")
    if w0 % groups:
        raise ValueError(f"groups must divide weight.shape[0] ({w0}), got {groups}")
    check_weight_size(weight)
    in_channels, out_channels = (w0, w1 * groups) if transposed else (w1 * groups, w0)
    shape = input.shape
    channels = shape[-3]
    if channels != in_channels:
        raise ValueError(
            f"input must have {in_channels} channels (weight: {tuple(weight.shape)}, "
            f"groups: {groups}), got {channels} (shape {tuple(input.shape)})"
        )
    if shape[-2] == 0 or shape[-1] == 0:
        raise ValueError(f"input must have at least 1x1 pixels, got shape {tuple(input.shape)}")
    if bias is not None:
        check_like_input(bias, "bias", input)
        if bias.dim() != 1 or bias.shape[0] != out_channels:
            raise ValueError(f"bias must have shape ({out_channels},), got {tuple(bias.shape)}")
    if activation == "none" and prelu_weight is None:
        return
    if activation not in ACTIVATIONS or activation == "leaky_relu":
        check_activation(activation, negative_slope)
    _check_prelu(activation, prelu_weight, input, out_channels)


def _check_prelu(
    activation: str, prelu_weight: Tensor | None, input: Tensor, out_channels: int
) -> None:
    if prelu_weight is None:
        if activation == "prelu":
            raise ValueError("prelu_weight must be given for activation='prelu', got None")
        return
    if activation != "prelu":
        raise ValueError(
            f"prelu_weight must be None for activation={activation!r}, got a tensor; "
            "it belongs to activation='prelu'"
        )
    check_like_input(prelu_weight, "prelu_weight", input)
    if prelu_weight.dim() != 1 or prelu_weight.shape[0] not in (1, out_channels):
        raise ValueError(
            f"prelu_weight must have shape (1,) or ({out_channels},), "
            f"got {tuple(prelu_weight.shape)}"
        )
