"""Memory formats, by the rule of PyTorch's own convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether x (N, C, H, W) counts as channels_last: c10's ``is_channels_last_strides_2d``."""
    sizes, strides = x.shape, x.stride()
    if strides[1] == 0:
        return False
    smallest = 0
    for d in (1, 3, 2, 0):
        if sizes[d] == 0 or strides[d] < smallest:
            return False
        # N111 tensors fit both layouts; c10 calls them contiguous.
        if d == 0 and smallest == strides[1]:
            return False
        smallest = strides[d] * max(sizes[d], 1)
    return True


def output_format(*tensors: Tensor) -> torch.memory_format:
    """channels_last when any of ``tensors`` (N, C, H, W) is, else contiguous."""
    for x in tensors:
        if x.dim() != 4:
            raise ValueError(f"a tensor must have 4 dimensions (N, C, H, W), got {tuple(x.shape)}")
        if is_channels_last(x):
            return torch.channels_last
    return torch.contiguous_format


def empty_as(x: Tensor, shape: Sequence[int], memory_format: torch.memory_format) -> Tensor:
    """An uninitialised tensor of ``shape`` with the dtype and device of ``x``."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def conv_backward_fake(
    input: Tensor,
    weight: Tensor,
    prelu_weight: Tensor | None,
    out_channels: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What both convolutions' backwards return for input, weight, bias and prelu_weight.

    A gradient that ``output_mask`` leaves out is a tensor without elements.
    """
    return (
        empty_as(input, input.shape, output_format(input, weight))
        if output_mask[0]
        else input.new_empty(0),
        empty_as(weight, weight.shape, output_format(weight))
        if output_mask[1]
        else input.new_empty(0),
        input.new_empty(out_channels if output_mask[2] else 0),
        input.new_empty(0 if prelu_weight is None or not output_mask[3] else prelu_weight.shape),
    )
