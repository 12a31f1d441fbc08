"""Writes to some channels of a tensor, in the form of a concatenation.

``y[:, :16] = z`` is traced as two copies: of ``z``, and of all of ``y`` with it.  As a
concatenation of ``z`` and the other channels, it can be written in place by what computes them.
"""

from __future__ import annotations

import torch

from denoise_ext.engine.capture.graph import Graph, Node, Value, same_layout, substitute

aten = torch.ops.aten


def join_written_slices(graph: Graph) -> Graph:
    """Replace copies and scattered channels in ``graph``, which is changed."""
    graph.finish()
    kept = graph.output_values() | {write.value for write in graph.writes}
    same: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node.args = substitute(node.args, lambda value: same.get(value, value))
        node.kwargs = substitute(node.kwargs, lambda value: same.get(value, value))
        if node.op is aten.copy.default and node.first not in kept and _copies_all(node):
            same[node.first] = node.args[1]
        elif node.op is aten.slice_scatter.default and _writes_channels(node):
            nodes += _joined(node)
        else:
            nodes.append(node)
    graph.nodes = nodes
    return graph.remove_dead()


def _copies_all(node: Node) -> bool:
    """Whether what reads the copy may as well read its source."""
    target, source = node.args[:2]
    if target.shape != source.shape or target.dtype != source.dtype:
        return False
    # Views were traced of the copy's layout; a concatenation reads any.
    joined = all(
        user.op is aten.slice_scatter.default and user.args[1] is node.first
        and user.args[0] is not node.first and _writes_channels(user)
        for user in node.first.users
    )  # fmt: skip
    return joined or same_layout(target.shape, target.stride, source.stride)


def _writes_channels(node: Node) -> bool:
    base, part = node.args[:2]
    return (
        len(base.shape) == 4
        and node.argument("dim") in (1, -3)
        and node.argument("step") == 1
        and base.dtype == part.dtype
        and base.numel() * part.numel() > 0
    )


def _joined(node: Node) -> list[Node]:
    """The channels before, those written and those after, as one tensor."""
    base, part = node.args[:2]
    channels = base.shape[1]
    first, _, _ = slice(node.argument("start"), node.argument("end")).indices(channels)
    end = first + part.shape[1]
    made, parts = [], [part]
    if first > 0:
        made.append(_channels(base, 0, first))
        parts.insert(0, made[-1].first)
    if end < channels:
        made.append(_channels(base, end, channels))
        parts.append(made[-1].first)
    whole = Node(aten.cat.default, (parts, 1), {}, node.results, single=True)
    node.first.producer = whole
    return [*made, whole]


def _channels(base: Value, first: int, end: int) -> Node:
    n, _, h, w = base.shape
    value = Value((n, end - first, h, w), base.stride, base.dtype, base.device)
    node = Node(aten.slice.Tensor, (base, 1, first, end), {}, [value], single=True)
    value.producer = node
    return node
