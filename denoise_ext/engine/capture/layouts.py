"""Which arguments of a call gain by channels_last: those that a convolution reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Value

aten: Any = torch.ops.aten

_CONVOLUTIONS = {"aten::convolution", "denoise_ext::conv2d", "denoise_ext::conv_transpose2d"}
# They write each value to another place: the layout of what they read ends there.
_REARRANGES = {aten.pixel_shuffle.default, aten.pixel_unshuffle.default}


def far_from_convolutions(graph: Graph, tensors: list[Tensor]) -> frozenset[int]:
    """Positions of arguments that are better taken as they are laid out.

    No convolution reads them before their values are rearranged, and a plan for channels_last
    would convert them at each call: the state of a recurrent network, for instance.
    """
    return frozenset(
        position
        for position, (value, tensor) in enumerate(zip(graph.inputs, tensors, strict=True))
        if _differs(tensor) and not _reaches_convolution(value)
    )


def _differs(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and tensor.is_contiguous()
        and not tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _reaches_convolution(value: Value) -> bool:
    waiting, seen = [value], {value}
    while waiting:
        for node in waiting.pop().users:
            name = node.op._schema.name
            if name in _CONVOLUTIONS:
                return True
            if node.op in _REARRANGES or name.startswith("denoise_ext::"):
                continue
            for result in node.results:
                # One channel has one layout.
                if result is None or len(result.shape) != 4 or result.shape[1] <= 1:
                    continue
                if result not in seen:
                    seen.add(result)
                    waiting.append(result)
    return False
