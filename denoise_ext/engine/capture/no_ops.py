"""Operators that change nothing: views of the same shape, padding by nothing.

An in-place operator on a view is traced with a view of its result, and a view back.  Between two
operators they hide that one could take in the other, and that both may have another layout.
"""

from __future__ import annotations

from typing import Any

import torch

from denoise_ext.engine.capture.graph import Graph, Node, Value, same_layout, substitute

aten: Any = torch.ops.aten
_REGROUPS = {aten.view.default, aten._unsafe_view.default}
_VIEWS = {aten.expand.default, aten.slice.Tensor}
_PADS = {
    aten.constant_pad_nd.default: "pad",
    aten.reflection_pad2d.default: "padding",
    aten.replication_pad2d.default: "padding",
}


def drop_no_ops(graph: Graph) -> Graph:
    """Let their readers read their arguments; ``graph`` is changed.

    Two results of the call stay two, and one that shares an argument's memory shares it.
    """
    graph.finish()
    outputs = graph.output_values()
    written = {write.value for write in graph.writes}
    same: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node.args = substitute(node.args, lambda value: same.get(value, value))
        node.kwargs = substitute(node.kwargs, lambda value: same.get(value, value))
        source = _same(node)
        own = source is not None and source.producer is not None and source not in outputs
        if source is None or node.first in written or (node.first in outputs and not own):
            nodes.append(node)
            continue
        same[node.first] = source
        if node.first in outputs:
            outputs.add(source)
    graph.nodes = nodes
    graph.outputs = [same.get(x, x) if isinstance(x, Value) else x for x in graph.outputs]
    return graph.finish()


def _same(node: Node) -> Value | None:
    """What ``node``'s result is the same as, if that is there already."""
    if node.op in _REGROUPS:  # a view of other sizes, and back: the order stays
        source = node.args[0]
        while not _alike(source, node.first):
            before = source.producer
            if before is None or before.op not in _REGROUPS:
                return None
            source = before.args[0]
        return source
    return node.args[0] if _changes_nothing(node) else None


def _alike(a: Value, b: Value) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and same_layout(a.shape, a.stride, b.stride)


def _changes_nothing(node: Node) -> bool:
    if node.op in _PADS:
        same = not any(node.argument(_PADS[node.op]))
    elif node.op is aten.permute.default:  # of a square, rows and columns may change places
        axes = node.args[1]
        same = [axis % len(axes) for axis in axes] == [*range(len(axes))]
    else:
        same = node.op in _VIEWS
    return same and _alike(node.args[0], node.first)
