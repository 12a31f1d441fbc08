"""Sums of a few images that lie in one tensor (N, images, C, H, W): selective kernels' fusion.

PyTorch's reduction writes another layout than it reads, value by value.  Sums of slices go through
memory as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Node
from denoise_ext.engine.fuse.ir import OUT, Step

aten: Any = torch.ops.aten
_MOST = 4  # images: of more, the result would be read and written too often


def add_images(stack: Tensor, out: Tensor) -> None:
    """The sum over the second dimension."""
    first, second, *rest = stack.unbind(1)
    torch.add(first, second, out=out)
    for image in rest:
        out.add_(image)


def sum_of_images(node: Node) -> Step | None:
    """A step for a sum over the second of five dimensions; None if ``node`` is another operator."""
    if node.op is not aten.sum.dim_IntList or node.argument("keepdim"):
        return None
    stack, axes = node.args[0], node.argument("dim")
    if len(stack.shape) != 5 or axes is None or [axis % 5 for axis in axes] != [1]:
        return None
    if not 2 <= stack.shape[1] <= _MOST:
        return None
    return Step(add_images, (stack, OUT), {}, [node.first], any_layout=True)


def sums_channels_last(step: Step) -> bool:
    """Whether it is a sum of images in channels_last: so is its result, then."""
    return step.function is add_images and step.args[0].stride[2] == 1
