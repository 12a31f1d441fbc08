"""Copies that a forward makes for another order of memory, into the order that their readers want.

``image.permute(...).contiguous()`` and ``windows.permute(...).reshape(n, c, h, w)`` copy into the
default layout.  Convolutions and normalisations in a plan read channels_last faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import (
    Node,
    Value,
    channels_last_stride,
    only_user,
    same_layout,
)
from denoise_ext.engine.fuse.ir import OUT, Step

aten: Any = torch.ops.aten
_VIEWS = (aten.view.default, aten._unsafe_view.default)


def copy_as(source: Tensor, out: Tensor) -> None:
    """Copy ``source`` to an image of as many elements, in the order of their indices."""
    try:
        out.view(source.shape).copy_(source)
    except RuntimeError:  # dimensions of ``source`` that are none of the memory of ``out``
        out.copy_(source.reshape(out.shape))


def planned_copy(node: Node, outputs: set[Value]) -> tuple[list[Node], Step] | None:
    """The nodes from a copy to the image that is made of it, and a step that writes the image."""
    if node.op is not aten.clone.default:
        return None
    nodes = [node]
    while len(nodes[-1].first.shape) != 4:
        view = only_user(nodes[-1].first, outputs)
        if view is None or view.op not in _VIEWS:
            return None
        nodes.append(view)
    output = nodes[-1].first
    return nodes, Step(copy_as, (node.args[0], OUT), {}, [output], any_layout=True)


def copied_image(value: Value) -> Node | None:
    """The copy that ``value`` is of an image in channels_last, which can be read in its place."""
    node = value.producer
    if node is None or node.op is not aten.clone.default:
        return None
    shape, stride = node.args[0].shape, node.args[0].stride
    return node if same_layout(shape, stride, channels_last_stride(shape)) else None
