"""Generalised divisive normalisation (Balle et al. 2016): one operator call.

Compression networks have it: ``x / sqrt(conv1x1(x^2))``, and ``x * sqrt(conv1x1(x^2))``, whatever
operators they were written with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value
from denoise_ext.engine.fuse.ir import OUT, Constants, Site, Step, rms

aten: Any = torch.ops.aten
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_WALK = 4.0  # rounding errors of a sum grow like a random walk (conv.py); both sides round
_FEWEST_CHANNELS = 16  # whole vectors


@dataclass(eq=False)
class GdnSite(Site):
    """A normalisation of a tensor (N, C, H, W) by weights (C, C, 1, 1), which are not negative."""

    input: Value
    weight: Value
    bias: Value | None
    inverse: bool

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return [self.input]

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["one pass"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        weight = constants.as_given(self.weight)
        source = self.weight.source
        key = ("packed", "direct", None if source is None else ((source, None), ()), "gdn")
        packed = constants.packed.get(key) if source is not None else None
        if packed is None:
            packed = constants.packed[key] = torch.ops.denoise_ext.conv2d_pack(weight, "direct")
        bias = None if self.bias is None else constants[self.bias]
        args = (self.input, weight, packed, bias, self.inverse, OUT)
        function = torch.ops.denoise_ext.gdn_out.default
        return Step(function, args, {}, [self.output], any_layout=True)

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`.

        No term of the sum is negative, so its relative error is that of the terms and of adding C
        of them, ``4 eps sqrt(C)`` at most, and the root halves it.  Squares, root and quotient
        round, too.  Narrow storage rounds after every operator of the original.
        """
        eps = torch.finfo(torch.float32).eps
        error = _WALK * eps * ((self.input.shape[1] + 16) ** 0.5 + 4)
        if self.output.dtype != torch.float32:
            error += torch.finfo(self.output.dtype).eps * (2 + len(self.before) + len(self.nodes))
        return error * rms(env(self.output))


def find_gdns(graph: Graph, constants: Constants) -> list[GdnSite]:
    """Find divisive normalisations on the CPU with constant weights."""
    sites = (_gdn(node, constants) for node in graph.nodes)
    return [site for site in sites if site is not None]


def _gdn(node: Node, constants: Constants) -> GdnSite | None:
    for x, root, inverse in _roots(node):
        convolution = _producer(root.args[0], aten.convolution.default)
        squares = None if convolution is None else convolution.args[0].producer
        if convolution is None or squares is None or not _squares(squares, x):
            continue
        weight, bias = convolution.argument("weight"), convolution.argument("bias")
        if not _is_sum_over_channels(convolution) or not _fits(x, node, weight, bias, constants):
            continue
        label = f"{'inverse ' if inverse else ''}gdn {x.shape[1]}"
        before = [squares, convolution, root]
        return GdnSite([node], node.first, before, label, "", x, weight, bias, inverse)
    return None


def _roots(node: Node) -> list[tuple[Value, Node, bool]]:
    """(x, the root, whether x is multiplied by it) for each way to read ``node``."""
    if node.op not in (aten.mul.Tensor, aten.div.Tensor):
        return []
    left, right = node.args[:2]
    found = []
    for x, other in ((left, right), (right, left)) if node.op is aten.mul.Tensor else [node.args]:
        if not isinstance(x, Value) or not isinstance(other, Value) or other.producer is None:
            continue
        root = other.producer
        if node.op is aten.mul.Tensor and root.op is aten.rsqrt.default:
            found.append((x, root, False))
        elif root.op is aten.sqrt.default:
            found.append((x, root, node.op is aten.mul.Tensor))
    return found


def _producer(value: Any, op: Any) -> Node | None:
    node = value.producer if isinstance(value, Value) else None
    return node if node is not None and node.op is op else None


def _squares(node: Node, x: Value) -> bool:
    if node.op is aten.pow.Tensor_Scalar:
        return node.args[0] is x and node.args[1] == 2
    return node.op is aten.mul.Tensor and node.args[0] is x and node.args[1] is x


def _is_sum_over_channels(node: Node) -> bool:
    return (
        not node.argument("transposed")
        and node.argument("groups") == 1
        and set(node.argument("stride")) == {1}
        and set(node.argument("padding")) == {0}
    )


def _fits(
    x: Value, node: Node, weight: Value, bias: Value | None, constants: Constants
) -> bool:  # fmt: skip
    if len(x.shape) != 4 or x.dtype not in _FLOATS or x.device.type != "cpu" or x in constants:
        return False
    channels = x.shape[1]
    same = node.first.shape == x.shape and node.first.dtype == x.dtype and x.numel() > 0
    if not same or channels < _FEWEST_CHANNELS or weight.shape != (channels, channels, 1, 1):
        return False
    given = [value for value in (weight, bias) if value is not None]
    if any(value not in constants or value.dtype != x.dtype for value in given):
        return False
    return all(bool((constants.as_given(value) >= 0).all()) for value in given)
