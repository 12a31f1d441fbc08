"""Attention that a forward writes with einsum, or over tensors of other than four dimensions.

An einsum is views, a product of matrices and views.  So what is multiplied is looked for behind
views and copies: of ``(..., n, channels)``, with the leading dimensions as the matrices' batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse.attention import AttentionSite, is_positive, without_factor
from denoise_ext.engine.fuse.ir import Constants, Step
from denoise_ext.engine.fuse.rearranged import Rearranged, rearranges

aten: Any = torch.ops.aten


@dataclass(eq=False)
class EinsumSite(AttentionSite):
    """Attention of queries (..., L, d), keys (..., S, d) and values (..., S, e)."""

    batch: tuple[int, int]  # the leading dimensions as two, along which constants are alike

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        args = (
            self.query, self.key, self.value, self.factor, self.added, self.shapes, self.batch,
        )  # fmt: skip
        return Step(_attend, args, {}, [self.output])


def _attend(
    query: Tensor, key: Tensor, value: Tensor, factor: float, added: tuple[Tensor, ...],
    shapes: tuple[tuple[int, ...], ...], batch: tuple[int, int],
) -> Tensor:  # fmt: skip
    mask = None
    for tensor, shape in zip(added, shapes, strict=True):
        part = tensor.reshape(shape)
        mask = part if mask is None else mask + part
    # PyTorch's form that does not hold all scores needs channels side by side.
    query, key, value = (
        (x if x.stride(-1) == 1 else x.contiguous()).reshape(*batch, *x.shape[-2:])
        for x in (query, key, value)
    )
    result = functional.scaled_dot_product_attention(query, key, value, mask, scale=factor)
    return result.reshape(-1, *result.shape[-2:])


def find_einsum_attention(graph: Graph, constants: Constants) -> list[EinsumSite]:
    """Find attention over float32 tensors on the CPU, with nothing else read from it."""
    outputs = graph.output_values()
    sites = (_attention(node, constants, outputs) for node in graph.nodes)
    return [site for site in sites if site is not None]


def _attention(node: Node, constants: Constants, outputs: set[Value]) -> EinsumSite | None:
    if node.op is not aten._softmax.default or node.argument("half_to_float"):
        return None
    shape = node.first.shape
    rank = len(shape)
    if rank < 3 or node.args[1] not in (-1, rank - 1) or node.first.device.type != "cpu":
        return None
    scores = _scores(node.args[0], constants, outputs)
    after = _to_product(node, outputs)
    if scores is None or after is None:
        return None
    first, factor, added, nodes = scores
    *views, product = after
    sizes = (prod(shape[:-2]), *shape[-2:])
    if first.first.shape != sizes or not _is_matrix(shape, views, (rank - 2, rank - 1)):
        return None
    query = _behind(first.args[0], turned=False)
    key = _behind(first.args[1], turned=True)
    value = _behind(product.args[1], turned=False)
    end = _division(shape, added)
    if query is None or key is None or value is None or end is None:
        return None
    if any(x.dtype != torch.float32 or x in constants for x, _ in (query, key, value)):
        return None
    query, factor = without_factor(query, factor)
    batch = prod(shape[:end]), prod(shape[end:-2])
    shapes = tuple(_added_shape(shape, constant, end) for constant in added)
    before = {*nodes, node, *views, *query[1], *key[1], *value[1]}
    label = f"einsum attention {shape[-2]}x{shape[-1]} of {key[0].shape[-1]}"
    return EinsumSite(
        [product], product.first, sorted(before, key=lambda n: n.index), label, "", query[0],
        key[0], value[0], factor, None, tuple(added), shapes, False, batch,
    )  # fmt: skip


def _scores(
    value: Value, constants: Constants, outputs: set[Value]
) -> tuple[Node, float, list[Value], list[Node]] | None:
    """The product that the scores are of, a factor, what is added, and all nodes."""
    shape, factor = value.shape, 1.0
    added: list[Value] = []
    nodes: list[Node] = []
    while only_user(value, outputs) is not None and (node := value.producer) is not None:
        nodes.append(node)
        if node.op is aten.bmm.default:
            views = [n for n in nodes[::-1] if rearranges(n)]
            return (node, factor, added, nodes) if _keeps_order(node, views) else None
        left: Any = node.args[0]
        right: Any = node.args[1] if len(node.args) > 1 else None
        if rearranges(node):
            value = left
        elif node.op is aten.mul.Tensor and is_positive(right):
            factor, value = factor * right, left
        elif node.op is aten.add.Tensor and node.argument("alpha") == 1 and factor == 1:
            constant, value = (right, left) if right in constants else (left, right)
            if constant not in constants or not value.shape == node.first.shape == shape:
                return None
            added.append(constant)
        else:
            return None
    return None


def _keeps_order(product: Node, views: list[Node]) -> bool:
    """Whether the elements of ``product`` come in the same order after ``views``."""
    shown = torch.empty(product.first.shape, device="meta")
    for node in views:
        if node.op is aten.clone.default and not shown.is_contiguous():
            return False
        shown = node.op(shown, *node.args[1:], **node.kwargs)
    return shown.is_contiguous()


def _to_product(node: Node, outputs: set[Value]) -> list[Node] | None:
    """The nodes after ``node`` up to a product of matrices whose first one it is."""
    nodes, value = list[Node](), node.first
    while (following := only_user(value, outputs)) is not None:
        nodes.append(following)
        if following.op is aten.bmm.default:
            return nodes if following.args[0] is value else None
        if not rearranges(following):
            return None
        value = following.first
    return None


def _is_matrix(shape: tuple[int, ...], nodes: list[Node], last: tuple[int, int]) -> bool:
    """Whether ``nodes`` make matrices (leading dimensions, *last) of a tensor of ``shape``."""
    shown = Rearranged.image(shape).after_all(nodes)
    wanted = (tuple(range(len(shape) - 2)), *((axis,) for axis in last))
    return shown is not None and shown.axes == tuple(
        tuple(axis for axis in axes if shape[axis] > 1) for axes in wanted
    )


def _behind(matrix: Value, turned: bool) -> tuple[Value, list[Node]] | None:
    """The tensor (..., n, channels) that ``matrix`` is a copy of, the last two exchanged if so."""
    nodes: list[Node] = []
    value, found = matrix, None
    while True:
        rank = len(value.shape)
        last = (rank - 1, rank - 2) if turned else (rank - 2, rank - 1)
        if rank > 2 and value.shape[-1] > 1 and _is_matrix(value.shape, nodes[::-1], last):
            found = value, list(nodes)
        node = value.producer
        if node is None or not rearranges(node):
            return found
        nodes.append(node)
        value = node.args[0]


def _division(shape: tuple[int, ...], added: list[Value]) -> int | None:
    """How many leading dimensions are the first of two batch dimensions.

    Each constant has all of such a dimension or nothing of it.  The first one is as large as it
    can be: if it is all, the result needs no copy.
    """
    lead = shape[:-2]
    for end in range(len(lead), -1, -1):
        pairs = [
            pair
            for value in added
            for pair in zip(_parts(shape, value, end), (lead[:end], lead[end:]), strict=True)
        ]
        if all(part in (whole, (1,) * len(whole)) for part, whole in pairs):
            return end
    return None


def _parts(
    shape: tuple[int, ...], value: Value, end: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A constant's leading dimensions, divided at ``end``."""
    full = (1,) * (len(shape) - len(value.shape)) + value.shape
    return full[:end], full[end : len(shape) - 2]


def _added_shape(shape: tuple[int, ...], value: Value, end: int) -> tuple[int, ...]:
    """The shape in which a constant is added to scores of four dimensions."""
    return (*map(prod, _parts(shape, value, end)), *(1, 1, *value.shape)[-2:])
