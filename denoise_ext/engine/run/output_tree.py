"""What a call returns: dtype and layout as the original's, and how far off it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from denoise_ext.engine.capture.graph import Value, same_layout
from denoise_ext.engine.capture.result_nest import flatten
from denoise_ext.engine.capture.signature import PLAIN
from denoise_ext.engine.fuse import verify

Strides = tuple[int, ...]


class Finish:
    """Give a plan's results the dtype, the strides and the nest of the original's.

    Args:
        tensors: the call's. dtype: what the plan stores, or None.
        strides: of the original's results, leaf by leaf; None: as the plan has it.
        spec: the nest of the original's result.
    """

    def __init__(
        self, tensors: list[Tensor], dtype: torch.dtype | None, strides: list[Strides | None],
        spec: pytree.TreeSpec,
    ) -> None:  # fmt: skip
        self._dtype, self._strides, self._spec = dtype, strides, spec
        self._single = spec.is_leaf()
        floats = [x.dtype for x in tensors if x.is_floating_point()]
        self._back = floats[0] if dtype is not None and floats else None

    def __call__(self, leaves: list[Any]) -> Any:
        """The plan's ``leaves`` as the original would have returned them."""
        if self._single and isinstance(leaves[0], Tensor):
            return self._one(leaves[0], self._strides[0])
        done = [
            self._one(leaf, stride) if isinstance(leaf, Tensor) else leaf
            for leaf, stride in zip(leaves, self._strides, strict=True)
        ]
        return pytree.tree_unflatten(done, self._spec)

    def _one(self, x: Tensor, stride: Strides | None) -> Tensor:
        if self._back is not None and x.dtype == self._dtype:
            x = x.to(self._back)
        if stride is None or x.stride() == stride:
            return x
        if same_layout(tuple(x.shape), x.stride(), stride):
            return x.as_strided(x.shape, stride)
        return torch.empty_strided(x.shape, stride, dtype=x.dtype, device=x.device).copy_(x)


def own_strides(leaf: Any) -> Strides | None:
    """The strides of a tensor or value; None for neither, and for elements on one another."""
    if not isinstance(leaf, (Tensor, Value)):
        return None
    stride = leaf.stride() if isinstance(leaf, Tensor) else leaf.stride
    reach = 0
    for step, size in sorted(zip(stride, leaf.shape, strict=True)):
        if size > 1:
            if step <= reach:
                return None  # an expanded tensor: copying into it would have no meaning
            reach += (size - 1) * step
    return tuple(stride)


def strides_of(result: Any, free: bool) -> list[Strides | None]:
    """The strides of a result's leaves; if ``free``, images have any."""
    return [None if free and _is_image(x) else own_strides(x) for x in flatten(result)[0]]


def _is_image(leaf: Any) -> bool:
    """Whether it is a tensor of four dimensions: channels_last is for those."""
    return isinstance(leaf, Tensor) and leaf.dim() == 4


def are_contiguous(result: Any) -> bool:
    """Whether all images of a result can be seen, and are contiguous."""
    leaves = flatten(result)[0]
    return all(leaf.is_contiguous() if _is_image(leaf) else _is_known(leaf) for leaf in leaves)


def _is_known(leaf: Any) -> bool:
    return isinstance(leaf, (Tensor, *PLAIN))


def contiguous(result: Any) -> Any:
    """The result with contiguous images."""
    if isinstance(result, Tensor):
        return result.contiguous() if _is_image(result) else result
    leaves, spec = flatten(result)
    if all(leaf.is_contiguous() for leaf in leaves if _is_image(leaf)):
        return result
    return pytree.tree_unflatten([x.contiguous() if _is_image(x) else x for x in leaves], spec)


def largest_error(actual: Any, expected: Any) -> float:
    """The largest relative error among two results' tensors; infinite if they differ in kind."""
    ours, our_spec = pytree.tree_flatten(_opened(actual))
    theirs, their_spec = pytree.tree_flatten(_opened(expected))
    if our_spec != their_spec:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            worst = max(worst, verify.relative_error(a, b))
        elif type(a) is not type(b) or not isinstance(a, PLAIN) or a != b:
            return float("inf")  # an object of a kind that cannot be looked into counts as another
    return worst


def _opened(result: Any) -> Any:
    """Results that people define themselves as the containers that they are."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
        return {key: _opened(value) for key, value in fields.items()}
    if isinstance(result, Mapping):
        return {key: _opened(value) for key, value in result.items()}
    if isinstance(result, (tuple, list)):
        return [_opened(item) for item in result]
    return result
