"""Activations that an operator before them can apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.engine.capture.graph import Node
from denoise_ext.engine.fuse.ir import Constants

aten: Any = torch.ops.aten
_NAMES = {
    aten.relu.default: "relu",
    aten.leaky_relu.default: "leaky_relu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.hardswish.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.hardtanh.default: "relu6",
    aten.clamp.default: "relu6",
}
# The largest slope of an activation, where that is more than 1.
STEEPEST = {"gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1, "hardswish": 1.5}
# What applies one in place.  ReLU keeps NaN.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "relu6": lambda x: x.clamp_(0, 6),
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
    "silu": lambda x: F.silu(x, inplace=True),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "hardsigmoid": lambda x: F.hardsigmoid(x, inplace=True),
}
_LIMITS = {aten.hardtanh.default: ("min_val", "max_val"), aten.clamp.default: ("min", "max")}


def activation_of(node: Node, constants: Constants | None = None) -> tuple[str, float] | None:
    """Name and negative slope of the activation that ``node`` is; None otherwise.

    ``constants``: a PReLU with one of them as its only slope is a leaky ReLU.  No other PReLU is
    an activation here.
    """
    if node.op is aten._prelu_kernel.default and constants is not None:
        return _one_slope(node, constants)
    name = _NAMES.get(node.op)
    if name is None:
        return None
    if name == "relu6" and [node.argument(limit) for limit in _LIMITS[node.op]] != [0, 6]:
        return None
    if name == "gelu" and node.argument("approximate") == "tanh":
        return "gelu_tanh", 0.01
    if name != "leaky_relu":
        return name, 0.01
    slope = float(node.argument("negative_slope"))
    return (name, slope) if slope >= 0 else None


def _one_slope(node: Node, constants: Constants) -> tuple[str, float] | None:
    weight = node.argument("weight")
    if weight not in constants or weight.numel() != 1:
        return None
    slope = float(constants[weight])
    return ("leaky_relu", slope) if slope >= 0 else None
