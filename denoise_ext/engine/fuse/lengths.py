"""Euclidean lengths along an axis, on the CPU: as a sum of squares.

PyTorch's norm adds along an axis that is not the last in memory value by value.  Its sum takes
whole vectors.  Networks that normalise queries and keys over pixels have such axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value
from denoise_ext.engine.fuse.ir import Constants, Site, Step, rms

aten: Any = torch.ops.aten
_WALK = 4.0  # rounding errors of a sum grow like a random walk (conv.py); both sides round


@dataclass(eq=False)
class LengthSite(Site):
    """The root of the sum of squares along ``axis``."""

    input: Value
    axis: int
    keeps: bool

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return [self.input]

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["sum of squares"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        args = (self.input, self.axis, self.keeps)
        return Step(_length, args, {}, [self.output], any_layout=True)

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`: no term is negative, so the relative error is that of n additions."""
        eps = torch.finfo(torch.float32).eps
        terms = self.input.shape[self.axis]
        return _WALK * eps * (terms + 16) ** 0.5 * rms(env(self.output))


def _length(x: Tensor, axis: int, keeps: bool) -> Tensor:
    return x.square().sum(axis, keeps).sqrt_()


def find_lengths(graph: Graph, constants: Constants) -> list[LengthSite]:
    """Find Euclidean norms of float32 tensors along one axis."""
    return [_site(node) for node in graph.nodes if _fits(node, constants)]


def _fits(node: Node, constants: Constants) -> bool:
    if node.op is not aten.linalg_vector_norm.default or node.argument("ord") != 2:
        return False
    x, axes = node.args[0], node.argument("dim")
    fits = axes is not None and len(axes) == 1 and node.argument("dtype") is None
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and x not in constants
    return fits and plain and node.first.numel() > 0


def _site(node: Node) -> LengthSite:
    x, (axis,) = node.args[0], node.argument("dim")
    label = f"length of {x.shape[axis]}"
    return LengthSite([node], node.first, [], label, "", x, axis, bool(node.argument("keepdim")))
