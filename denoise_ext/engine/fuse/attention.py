"""Attention that a forward writes out, on the CPU: one call, without the matrix of all scores.

``softmax(q k^T factors + constants) v``: PyTorch's `scaled_dot_product_attention` goes tile by
tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse.ir import Constants, Site, Step, rms

aten: Any = torch.ops.aten
_WALK = 4.0  # rounding errors of a sum grow like a random walk (conv.py); both sides round
_VANISHES = -50.0  # exp of it is below float32's rounding of a sum that holds 1
_VIEWS = (aten.view.default, aten._unsafe_view.default)
_COPIES = (*_VIEWS, aten.clone.default, aten.expand.default)


@dataclass(eq=False)
class AttentionSite(Site):
    """Attention of queries (B, heads, L, d), keys (B, heads, S, d) and values (B, heads, S, e)."""

    query: Value
    key: Value
    value: Value
    factor: float
    scale: Value | None  # a constant factor of each head
    added: tuple[Value, ...]  # constants that are added to the scores
    shapes: tuple[tuple[int, ...], ...]  # of those: four dimensions, which broadcast
    swapped: bool  # whether the output is (B, L, heads, e)

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return [self.query, self.key, self.value]

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["by tiles"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        args = (
            self.query, self.key, self.value, self.factor, self.scale, self.added, self.shapes,
            self.swapped,
        )  # fmt: skip
        return Step(_attend, args, {}, [self.output])

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`.

        A weight's relative error is the absolute one of its score: ``4 eps`` times
        ``sqrt(d) rms(terms)`` and the largest score.  The weights add up to 1, so the result is off
        by that times rms(value), and by ``4 eps sqrt(S)`` of it for its own sum.
        """
        q, k, v = (env(value).double() for value in self.reads())
        factor = self.factor * (1.0 if self.scale is None else float(env(self.scale).abs().max()))
        terms = factor * (q.square().sum(-1).mean() * k.square().mean()).sqrt()
        scores = factor * float(q.square().sum(-1).max() * k.square().sum(-1).max()) ** 0.5
        constants = sum(_largest_counting(env(value)) for value in self.added)
        walk = float(terms) * (q.shape[-1] + 16) ** 0.5 + scores + constants
        eps = torch.finfo(torch.float32).eps
        return _WALK * eps * (walk + (k.shape[-2] + 16) ** 0.5) * rms(v)


def _largest_counting(added: Tensor) -> float:
    """The largest number that is added; far below zero a weight vanishes, whatever its error."""
    counting = added[added > _VANISHES]
    return float(counting.abs().max()) if counting.numel() else 0.0


def _attend(
    query: Tensor, key: Tensor, value: Tensor, factor: float, scale: Tensor | None,
    added: tuple[Tensor, ...], shapes: tuple[tuple[int, ...], ...], swapped: bool,
) -> Tensor:  # fmt: skip
    if scale is not None:  # queries are fewer than scores
        query = query * scale.reshape(-1, 1, 1)
    mask = None
    for tensor, shape in zip(added, shapes, strict=True):
        part = tensor.reshape(shape)
        mask = part if mask is None else mask + part
    # Its other form, which holds all scores, serves where channels are not side by side.
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    result = functional.scaled_dot_product_attention(query, key, value, mask, scale=factor)
    return result.transpose(1, 2) if swapped else result


def find_attention(graph: Graph, constants: Constants) -> list[AttentionSite]:
    """Find attention over float32 tensors of four dimensions, with nothing else read from it."""
    outputs = graph.output_values()
    sites = (_attention(node, constants, outputs) for node in graph.nodes)
    return [site for site in sites if site is not None]


@dataclass
class _Scores:
    """How the argument of a softmax was made of a product of matrices."""

    product: Node
    factor: float
    scale: Value | None
    added: tuple[Value, ...]
    shapes: tuple[tuple[int, ...], ...]
    nodes: list[Node]


def _attention(node: Node, constants: Constants, outputs: set[Value]) -> AttentionSite | None:
    shape = node.first.shape
    if node.op is not aten._softmax.default or node.argument("half_to_float"):
        return None
    if len(shape) != 4 or node.args[1] not in (-1, 3) or node.first.device.type != "cpu":
        return None
    scores = _scores(node.args[0], constants, outputs)
    after = _copies_to(node, aten.bmm.default, outputs)
    if scores is None or after is None or after[-1].args[0] is not _last(node, after[:-1]):
        return None
    b, h, length, keys = shape
    product = after[-1]
    wanted = [(scores.product.args[0], (b, h, length)), (product.args[1], (b, h, keys))]
    query, value = (_four(matrix, sizes) for matrix, sizes in wanted)
    key = _transposed_four(scores.product.args[1], (b, h), keys)
    if any(
        x is None or x[0].dtype != torch.float32 or x[0] in constants for x in (query, key, value)
    ):
        return None
    assert query is not None and key is not None and value is not None
    query, factor = without_factor(query, scores.factor)
    end = _result(product, (b, h, length), outputs)
    if end is None:
        return None
    last, swapped, copies = end
    before = [*query[1], *key[1], *value[1], *scores.nodes, node, *after, *copies]
    before = sorted({n for n in before if n is not last}, key=lambda n: n.index)
    label = f"attention {length}x{keys}, {h} heads of {query[0].shape[-1]}"
    return AttentionSite(
        [last], last.first, before, label, "", query[0], key[0], value[0], factor, scores.scale,
        scores.added, scores.shapes, swapped,
    )  # fmt: skip


def _last(node: Node, chain: list[Node]) -> Value:
    return chain[-1].first if chain else node.first


def _copies_to(node: Node, op: Any, outputs: set[Value]) -> list[Node] | None:
    """The nodes after ``node`` that lay its result out anew, up to the one of ``op``."""
    chain: list[Node] = []
    value = node.first
    while (following := only_user(value, outputs)) is not None:
        chain.append(following)
        if following.op is op:
            return chain
        if following.op not in _COPIES or following.first.numel() != value.numel():
            return None
        value = following.first
    return None


def _scores(value: Value, constants: Constants, outputs: set[Value]) -> _Scores | None:
    factor, nodes = 1.0, list[Node]()
    scale: Value | None = None
    added: list[Value] = []
    shapes: list[tuple[int, ...]] = []
    while only_user(value, outputs) is not None and (node := value.producer) is not None:
        nodes.append(node)
        if node.op is aten.bmm.default:
            return _Scores(node, factor, scale, tuple(added), tuple(shapes), nodes)
        left: Any = node.args[0]
        right: Any = node.args[1] if len(node.args) > 1 else None
        unscaled = factor == 1 and scale is None
        if node.op in _VIEWS:
            value = left
        elif node.op is aten.mul.Tensor and is_positive(right):
            factor, value = factor * right, left
        elif node.op is aten.mul.Tensor and scale is None and isinstance(right, Value):
            constant, value = (right, left) if right in constants else (left, right)
            shape = _four_of(constant, value) if constant in constants else None
            if shape != (1, value.shape[1], 1, 1) or value.shape != node.first.shape:
                return None
            scale = constant
        elif node.op is aten.add.Tensor and node.argument("alpha") == 1 and unscaled:
            constant, value = (right, left) if right in constants else (left, right)
            shape = _four_of(constant, value) if constant in constants else None
            if shape is None or value.shape != node.first.shape:
                return None
            added.append(constant)
            shapes.append(shape)
        else:
            return None
    return None


def is_positive(number: Any) -> bool:
    """Whether it is a number, above zero."""
    return isinstance(number, float) and number > 0


def _four_of(constant: Value, scores: Value) -> tuple[int, ...] | None:
    """The shape in which ``constant`` is added to scores of four dimensions."""
    rank = len(scores.shape)
    shape = (1,) * (rank - len(constant.shape)) + constant.shape
    if rank == 5 and scores.shape[0] == 1:  # the windows of one image
        return shape[1:]
    return shape if rank == 4 else None


def _four(matrix: Value, sizes: tuple[int, ...]) -> tuple[Value, list[Node]] | None:
    """The tensor of ``sizes`` and channels that ``matrix`` (B heads, n, channels) is a copy of."""
    nodes: list[Node] = []
    value, found = matrix, None
    while (node := value.producer) is not None and node.op in _COPIES:
        nodes.append(node)
        value = node.args[0]
        if value.numel() != matrix.numel():
            break
        if value.shape == (*sizes, matrix.shape[-1]):
            found = value, list(nodes)
    return found


def without_factor(
    query: tuple[Value, list[Node]], factor: float
) -> tuple[tuple[Value, list[Node]], float]:
    """The queries before a number was multiplied to them, and that number times ``factor``."""
    value, nodes = query
    node = value.producer
    if node is None or node.op is not aten.mul.Tensor or not isinstance(node.args[1], float):
        return query, factor
    if node.args[1] <= 0 or node.args[0].shape != value.shape:
        return query, factor
    return (node.args[0], [*nodes, node]), factor * node.args[1]


def _transposed_four(
    matrix: Value, sizes: tuple[int, int], keys: int
) -> tuple[Value, list[Node]] | None:
    """The keys (B, heads, n, channels) that ``matrix`` (B heads, channels, n) is a copy of."""
    found = _four(matrix, (*sizes, matrix.shape[1]))
    if found is None:
        return None
    turned, nodes = found
    node = turned.producer
    if node is None or node.op is not aten.transpose.int:
        return None
    source = node.args[0]
    if {axis % 4 for axis in node.args[1:3]} != {2, 3} or source.shape[2] != keys:
        return None
    return source, [*nodes, node]


def _result(
    product: Node, sizes: tuple[int, int, int], outputs: set[Value]
) -> tuple[Node, bool, list[Node]] | None:
    """The last node to replace, whether it swaps heads and queries, and those before it."""
    view = only_user(product.first, outputs)
    shape = (*sizes, product.first.shape[-1])
    if view is None or view.op not in _VIEWS or view.first.shape != shape:
        return None
    swap = only_user(view.first, outputs)
    if swap is not None and _swaps(swap):
        copy = only_user(swap.first, outputs)
        if copy is not None and copy.op is aten.clone.default:
            return copy, True, [product, view, swap]
    return view, False, [product]


def _swaps(node: Node) -> bool:
    if node.op is aten.transpose.int:
        return {axis % 4 for axis in node.args[1:3]} == {1, 2}
    return node.op is aten.permute.default and [axis % 4 for axis in node.args[1]] == [0, 2, 1, 3]
