"""Configurations of published U-Nets, read off the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count, takewhile
from typing import Any

from torch import Tensor

State = dict[str, Tensor]


def drunet(state: State) -> dict[str, Any]:
    """KAIR's UNetRes: strided 2x2 convolutions down, transposed ones up."""
    levels = _numbers(state, r"m_down(\d+)\.", start=1)
    blocks = _numbers(state, r"m_body\.(\d+)\.")
    downs = [state[f"m_down{level + 1}.{blocks}.weight"] for level in range(levels)]
    widths = [_outputs(state["m_head.weight"]), *map(_outputs, downs)]
    return {
        "family": "drunet",
        "widths": widths,
        "blocks": blocks,
        "bias": "m_head.bias" in state,
        **_channels(state["m_head.weight"], state["m_tail.weight"]),
    }


def nafnet(state: State) -> dict[str, Any]:
    """The authors' NAFNet."""
    levels = _numbers(state, r"encoders\.(\d+)\.")
    return {
        "family": "nafnet",
        "width": _outputs(state["intro.weight"]),
        "encoder_blocks": [_numbers(state, rf"encoders\.{i}\.(\d+)\.") for i in range(levels)],
        "middle_blocks": _numbers(state, r"middle_blks\.(\d+)\."),
        "decoder_blocks": [_numbers(state, rf"decoders\.{i}\.(\d+)\.") for i in range(levels)],
        **_channels(state["intro.weight"], state["ending.weight"]),
    }


def fastdvdnet(state: State) -> dict[str, Any]:
    """The author's FastDVDnet, without its batch normalisation."""
    first = state[FAST_DVDNET]
    levels = ("inc.convblock.3", "downc0.convblock.0", "downc1.convblock.0")
    channels = _outputs(state["temp1.outc.convblock.3.weight"])
    if first.dim() != 4 or first.shape[1] != channels + 1:
        raise ValueError(f"first convolution of shape {tuple(first.shape)} for {channels} channels")
    return {
        "family": "fastdvdnet",
        "channels": channels,
        "widths": [_outputs(state[f"temp1.{level}.weight"]) for level in levels],
        "frame_width": _outputs(first) // 3,
    }


FAST_DVDNET = "temp1.inc.convblock.0.weight"

# a key that no other layout has -> what reads the configuration
U_NETS: dict[str, Callable[[State], dict[str, Any]]] = {
    "m_head.weight": drunet,
    "intro.weight": nafnet,
}


def _numbers(state: State, pattern: str, start: int = 0) -> int:
    """How many numbers from ``start`` on without a gap stand at the pattern's group."""
    found = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    return sum(1 for _ in takewhile(found.__contains__, count(start)))


def _outputs(weight: Tensor) -> int:
    if weight.dim() != 4:
        raise ValueError(f"a convolution's weight of shape {tuple(weight.shape)}")
    return weight.shape[0]


def _channels(first: Tensor, last: Tensor) -> dict[str, Any]:
    """Image channels, and whether the first layer has one more: the noise map."""
    channels, inputs = _outputs(last), first.shape[1]
    if inputs not in (channels, channels + 1):
        raise ValueError(f"{inputs} input and {channels} output channels")
    return {"channels": channels, "noise_map": inputs == channels + 1}
