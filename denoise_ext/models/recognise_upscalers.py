"""Published upscalers: their configuration, and their tensors under the names of our networks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

_SRVGG_MARK = ("body.0.weight", "body.1.weight")
_RRDB_MARKS = (
    "model.1.sub.0.RDB1.conv1.0.weight",
    "RRDB_trunk.0.RDB1.conv1.weight",
    "body.0.rdb1.conv1.weight",
)
_SPAN_MARKS = ("conv_1.sk.weight", "block_1.c1_r.sk.weight", "upsampler.0.weight")
_SPAN_GROUP = re.compile(r"conv_[12]|block_[1-6]\.c[123]_r")
_GAIN = 2  # channels inside SPAN's folded convolutions, over those outside
_BLOCKS = re.compile(
    r"(?:model\.1\.sub|RRDB_trunk|body)\.(\d+)\.(?:RDB|rdb)([123])\.conv([1-5])(?:\.0)?\.(weight|bias)"
)
_OLD_BODY = re.compile(r"model\.1\.sub\.(\d+)\.(weight|bias)")
_OLD = re.compile(r"model\.(\d+)\.(weight|bias)")
_NAMES = {"trunk_conv": "conv_body", "HRconv": "conv_hr"}


def upscaler_of(state: State) -> Callable[[State], tuple[dict[str, Any], State]] | None:
    """What reads a published upscaler's configuration and tensors; None: it is none."""
    if all(key in state for key in _SRVGG_MARK) and state[_SRVGG_MARK[1]].dim() == 1:
        return srvgg
    if all(key in state for key in _SPAN_MARKS):
        return span
    return rrdb if any(key in state for key in _RRDB_MARKS) else None


def srvgg(state: State) -> tuple[dict[str, Any], State]:
    """SRVGGNetCompact: convolutions at even numbers, slopes of PReLU at odd ones, a tail."""
    numbers = {int(match[1]) for key in state if (match := re.match(r"body\.(\d+)\.", key))}
    last = max(numbers)
    if last % 2 or last > 2 * len(state):
        raise ValueError(f"body.{last} is not expected")
    own = {}
    for key, value in state.items():
        match = re.fullmatch(r"body\.(\d+)\.(weight|bias)", key)
        number = int(match[1]) if match else 0
        if match is None or (number % 2 and match[2] == "bias"):
            raise ValueError(f"{key} is not expected")
        if number == last:
            own[f"tail.{match[2]}"] = value
        elif number % 2:
            own[f"body.{number // 2}.prelu_weight"] = value
        else:
            own[f"body.{number // 2}.{match[2]}"] = value
    first = state["body.0.weight"]
    channels = _inputs(first)
    config = {
        "family": "srvgg",
        "channels": channels,
        "scale": _root(_outputs(state[f"body.{last}.weight"]), channels),
        "width": _outputs(first),
        "depth": last // 2,
    }
    return config, own


def rrdb(state: State) -> tuple[dict[str, Any], State]:
    """RRDBNet with the keys of ESRGAN, of BSRGAN or of Real-ESRGAN."""
    numbered = {int(match[1]) for key in state if (match := _OLD.fullmatch(key))} - {0}
    ends = sorted(numbered)
    own = {_rrdb_name(key, ends): value for key, value in state.items()}
    if len(own) != len(state):
        raise ValueError("two layouts of names in one file")
    blocks = {int(match[1]) for key in own if (match := re.match(r"body\.(\d+)\.", key))}
    ups = [key for key in own if re.fullmatch(r"conv_up\d\.weight", key)]
    channels = _outputs(own["conv_last.weight"])
    config = {
        "family": "rrdb",
        "channels": channels,
        "doublings": len(ups),
        "unshuffle": _root(_inputs(own["conv_first.weight"]), channels),
        "width": _outputs(own["conv_first.weight"]),
        "growth": _outputs(own["body.0.rdb1.conv1.weight"]),
        "blocks": len(blocks),
    }
    return config, own


def _rrdb_name(key: str, ends: list[int]) -> str:
    """The name of a tensor in Real-ESRGAN's layout.

    ``ends`` are the numbers after ``model.``: one for each doubling, and those of the last two
    convolutions.
    """
    if match := _BLOCKS.fullmatch(key):
        return "body.{}.rdb{}.conv{}.{}".format(*match.groups())
    if match := _OLD_BODY.fullmatch(key):
        return f"conv_body.{match[2]}"
    if match := _OLD.fullmatch(key):
        number = int(match[1])
        if number == 0:
            return f"conv_first.{match[2]}"
        names = [f"conv_up{i + 1}" for i in range(len(ends) - 2)] + ["conv_hr", "conv_last"]
        return f"{names[ends.index(number)]}.{match[2]}"
    name, _, kind = key.partition(".")
    name = _NAMES.get(name, name.replace("upconv", "conv_up"))
    return f"{name}.{kind}"


def span(state: State) -> tuple[dict[str, Any], State]:
    """SPAN, every group of convolutions folded into one; its own folded copies are left out."""
    own: State = {}
    for key, value in state.items():
        name, _, rest = key.partition(".sk.")
        if rest and not _SPAN_GROUP.fullmatch(name):
            raise ValueError(f"{key} is not expected")
        if rest == "weight":
            own[f"{name}.weight"], own[f"{name}.bias"] = _folded(state, name)
        elif match := re.fullmatch(r"(?:conv_cat|upsampler\.0)\.(weight|bias)", key):
            own[f"{key.split('.')[0]}.{match[1]}"] = value
        elif not (rest or key == "no_norm" or re.search(r"\.(conv\.[012]|eval_conv)\.", key)):
            raise ValueError(f"{key} is not expected")
    first = own["conv_1.weight"]
    channels = _inputs(first)
    config = {
        "family": "span",
        "channels": channels,
        "scale": _root(_outputs(own["upsampler.weight"]), channels),
        "width": _outputs(first),
        "normalise": "no_norm" not in state,
    }
    return config, own


def _folded(state: State, name: str) -> tuple[Tensor, Tensor]:
    """The 3x3 convolution that is a 1x1, a 3x3 and a 1x1 in a row, and a 1x1 beside them.

    Computed in float64, returned in the weights' dtype.
    """
    beside, beside_bias = state[f"{name}.sk.weight"], state[f"{name}.sk.bias"]
    outputs, inputs = _outputs(beside), _inputs(beside)
    within = (_GAIN * outputs, _GAIN * inputs)
    expected = [
        (within[1], inputs, 1, 1), (within[1],), (*within, 3, 3), (within[0],),
        (outputs, within[0], 1, 1), (outputs,), (outputs, inputs, 1, 1), (outputs,),
    ]  # fmt: skip
    row = [state[f"{name}.conv.{i}.{kind}"] for i in range(3) for kind in ("weight", "bias")]
    found = [tuple(x.shape) for x in (*row, beside, beside_bias)]
    if found != expected:
        raise ValueError(f"{name}: convolutions of shapes {found}, not {expected}")
    w1, b1, w2, b2, w3, b3 = (x.double() for x in row)
    w1, w3 = w1[:, :, 0, 0], w3[:, :, 0, 0]
    weight = torch.einsum("oa,abhw,bi->oihw", w3, w2, w1)
    weight[:, :, 1, 1] += beside[:, :, 0, 0].double()
    bias = w3 @ (w2.sum((2, 3)) @ b1 + b2) + b3 + beside_bias.double()
    return weight.to(beside.dtype), bias.to(beside.dtype)


def _root(values: int, channels: int) -> int:
    """The side of the squares of pixels that so many values of so many channels are."""
    side = math.isqrt(values // max(channels, 1))
    if side * side * channels != values:
        raise ValueError(f"{values} values for {channels} channels are no squares of pixels")
    return side


def _outputs(weight: Tensor) -> int:
    if weight.dim() != 4:
        raise ValueError(f"a convolution's weight of shape {tuple(weight.shape)}")
    return weight.shape[0]


def _inputs(weight: Tensor) -> int:
    _outputs(weight)
    return weight.shape[1]
