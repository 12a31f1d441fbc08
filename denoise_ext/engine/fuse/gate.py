"""A convolution whose halves of channels are multiplied, one of them activated: one call.

``convolution -> two halves -> activation of one -> product`` (NAFNet's SimpleGate, Restormer's
feed-forward network).  The convolution's result, twice as large as the product, is never written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Node
from denoise_ext.engine.fuse import onednn


def convolve(
    input: Tensor, gated_first: bool, gate: str, geometry: tuple[Any, ...], out: Tensor,
    weight: Tensor, packed: Tensor | None, bias: Tensor | None, gate_weight: Tensor,
    packed_gate: Tensor | None, gate_bias: Tensor | None,
) -> None:  # fmt: skip
    """``out = conv(input) * gate(conv(input))``; depthwise, of one half of the channels each."""
    gate_input, groups = None, 1
    if weight.shape[1] == 1 and input.shape[1] > 1:
        if input.stride(1) != 1:
            input = input.contiguous(memory_format=torch.channels_last)
        halves = input.chunk(2, 1)
        input, gate_input = halves[gated_first], halves[not gated_first]
        groups = weight.shape[0]
    torch.ops.denoise_ext.conv2d_gated_out(
        input, weight, packed, bias, gate_input, gate_weight, packed_gate, gate_bias, gate,
        *geometry, groups, out,
    )  # fmt: skip


def multiply_afterwards(
    activation: Node | None, gated_first: bool, out: Tensor, *args: Any
) -> None:  # fmt: skip
    """oneDNN's convolution of ``args``, and the product of its halves."""
    halves = onednn.convolve(*args).chunk(2, 1)
    other, gate = halves[gated_first], halves[not gated_first]
    if activation is not None:
        gate = activation.op(gate, *activation.args[1:], **activation.kwargs)
    torch.mul(other, gate, out=out)
