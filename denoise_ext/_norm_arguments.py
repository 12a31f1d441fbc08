"""Argument checks of the normalisations."""

from __future__ import annotations

import math

from torch import Tensor

from denoise_ext._arguments import FLOAT_DTYPES, check_activation, check_image, check_like_input


def check_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    negative_slope: float,
) -> None:
    """Check everything but the number of groups."""
    check_image(input, "input", FLOAT_DTYPES)
    channels = input.shape[-3]
    if input.numel() == 0 and 0 in input.shape[-3:]:
        raise ValueError(
            f"input must have at least one channel and 1x1 pixels, got {tuple(input.shape)}"
        )
    for name, values in (("weight", weight), ("bias", bias)):
        if values is None:
            continue
        check_like_input(values, name, input)
        if tuple(values.shape) != (channels,):
            raise ValueError(f"{name} must have shape ({channels},), got {tuple(values.shape)}")
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number >= 0, got {eps}")
    check_norm_activation(activation, negative_slope)


def check_norm_activation(activation: str, negative_slope: float) -> str:
    """Check the activation that follows, and its slope."""
    if activation == "prelu":
        raise ValueError("activation must not be 'prelu' here: it has weights of its own")
    return check_activation(activation, negative_slope)


def check_groups(num_groups: int, input: Tensor) -> None:
    """Check that the groups divide the channels."""
    channels = input.shape[-3]
    if not isinstance(num_groups, int) or num_groups < 1 or channels % num_groups:
        raise ValueError(
            f"num_groups must be an int >= 1 that divides the {channels} channels of input, "
            f"got {num_groups!r}"
        )
