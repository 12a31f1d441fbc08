"""Views and copies of an image: which of its axes each of their dimensions runs over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from denoise_ext.engine.capture.graph import Node

aten: Any = torch.ops.aten

_SAME = frozenset({aten.clone.default, aten.contiguous.default})
# They keep the order of the elements.
_REGROUPING = frozenset(
    {
        aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default,
        aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
    }
)  # fmt: skip
_PERMUTING = frozenset({aten.permute.default, aten.transpose.int, aten.t.default})


def rearranges(node: Node) -> bool:
    """Whether ``node`` is an operator that :meth:`Rearranged.after` follows."""
    return node.op in _SAME or node.op in _REGROUPING or node.op in _PERMUTING


@dataclass(frozen=True)
class Rearranged:
    """A tensor with the elements of an image, in another order or shape.

    ``sizes`` are the image's (N, C, H, W).  ``axes`` are for each dimension those of the image's
    axes, 0 to 3, that it runs over.  Axes of one element are left out.
    """

    sizes: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @classmethod
    def image(cls, sizes: tuple[int, ...]) -> Rearranged:
        """The image itself."""
        return cls(sizes, tuple((axis,) if size > 1 else () for axis, size in enumerate(sizes)))

    def after(self, node: Node) -> Rearranged | None:
        """What ``node`` makes of this tensor; None if it divides an axis or does something else."""
        axes = self.axes
        if node.op in _SAME:
            return self
        if node.op in _REGROUPING:
            return self._regrouped(node.first.shape)
        if node.op is aten.permute.default:
            return Rearranged(self.sizes, tuple(axes[dim] for dim in node.args[1]))
        if node.op is aten.transpose.int:
            order = list(range(len(axes)))
            a, b = node.args[1:3]
            order[a], order[b] = order[b], order[a]
            return Rearranged(self.sizes, tuple(axes[dim] for dim in order))
        return Rearranged(self.sizes, axes[::-1]) if node.op is aten.t.default else None

    def after_all(self, nodes: Iterable[Node]) -> Rearranged | None:
        """What the ``nodes`` make of it, one after the other."""
        found: Rearranged | None = self
        for node in nodes:
            found = None if found is None else found.after(node)
        return found

    def _regrouped(self, shape: tuple[int, ...]) -> Rearranged | None:
        waiting = [axis for axes in self.axes for axis in axes]
        found = []
        for size in shape:
            axes: list[int] = []
            while prod(self.sizes[axis] for axis in axes) < size and waiting:
                axes.append(waiting.pop(0))
            if prod(self.sizes[axis] for axis in axes) != size:
                return None
            found.append(tuple(axes))
        return Rearranged(self.sizes, tuple(found))
