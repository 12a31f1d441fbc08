"""A traced call as a list of operators: the form in which the engine looks for what it can replace.

Every tensor is a :class:`Value`; operators are PyTorch's own (``aten``) and this package's, all of
them functional: in-place operators and writes through views are gone after tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch._ops import OpOverload


@dataclass(eq=False)
class Value:
    """A tensor of the graph: its properties before any number is computed."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    producer: Node | None = None  # None: an argument of the call, or one of the module's tensors
    source: int | None = None  # position among the module's tensors
    users: list[Node] = field(default_factory=list)

    @classmethod
    def of(cls, tensor: Tensor, device: torch.device, **more: Any) -> Value:
        """The value on ``device`` that ``tensor`` represents."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, device, **more)

    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(eq=False)
class Node:
    """One operator call; :class:`Value` objects stand where its tensors go."""

    op: OpOverload[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Value | None]  # None: a result that is no tensor
    single: bool  # returns one tensor rather than a tuple or list
    index: int = 0

    @property
    def first(self) -> Value:
        """The first result, a tensor."""
        value = self.results[0]
        assert value is not None
        return value

    def inputs(self) -> list[Value]:
        """The tensors it reads, in order, repetitions included."""
        return values_in((self.args, self.kwargs))

    def argument(self, name: str) -> Any:
        """The argument ``name`` of the operator's schema, or its default."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, argument in enumerate(self.op._schema.arguments):
            if argument.name == name:
                if position < len(self.args):
                    return self.args[position]
                return argument.default_value
        raise KeyError(name)

    def is_view(self) -> bool:
        """Whether its results share an input's memory."""
        if self.op is torch.ops.aten._unsafe_view.default:  # its schema does not say so
            return True
        returns = self.op._schema.returns
        return any(r.alias_info is not None for r in returns)


@dataclass(eq=False)
class Write:
    """A tensor that the call leaves in the module, the same at every call.

    It is computed from tensors of the module that no call writes to.
    """

    reason: str  # not to plan a call that leaves another tensor each time
    value: Value
    target: Tensor | dict[str, Any]  # a tensor whose ``data`` is set, or a module's attributes
    key: str = ""  # of the attribute

    @property
    def place(self) -> Tensor | tuple[dict[str, Any], str]:
        """What it changes: a tensor, or a dictionary at a key."""
        return (self.target, self.key) if isinstance(self.target, dict) else self.target

    def put(self, tensor: Tensor) -> Callable[[], None] | None:
        """Leave it in the module, as the call does.

        Returns:
            A function that takes it back; None if it was there.
        """
        target = self.target
        before: Any = target.get(self.key, _MISSING) if isinstance(target, dict) else target
        alike = isinstance(before, Tensor) and before.dtype == tensor.dtype
        if alike and torch.equal(before, tensor):
            return None
        if isinstance(target, dict):
            target[self.key] = tensor.clone()
            return partial(_restore_item, target, self.key, before)
        undo = partial(setattr, target, "data", target.data)
        target.data = tensor.clone()
        return undo


_MISSING = object()


def _restore_item(container: dict[str, Any], key: str, before: Any) -> None:
    if before is _MISSING:
        del container[key]
    else:
        container[key] = before


@dataclass(eq=False)
class Graph:
    """A traced call."""

    inputs: list[Value]  # one per tensor argument
    sources: list[Value]  # one per tensor of the module that was met
    source_names: list[str]  # "body.0.weight"
    nodes: list[Node]
    outputs: list[Any]  # leaves of the result: values, or plain Python objects
    output_spec: pytree.TreeSpec
    writes: list[Write] = field(default_factory=list)

    def finish(self) -> Graph:
        """Number the nodes and fill in every value's users."""
        for value in self.values():
            value.users = []
        for index, node in enumerate(self.nodes):
            node.index = index
            for value in node.inputs():
                if node not in value.users:
                    value.users.append(node)
        return self

    def values(self) -> Iterator[Value]:
        """All values, in the order they come into being."""
        yield from self.inputs
        yield from self.sources
        for node in self.nodes:
            yield from (value for value in node.results if value is not None)

    def output_values(self) -> set[Value]:
        """The values that are results of the call."""
        return {leaf for leaf in self.outputs if isinstance(leaf, Value)}

    def remove_dead(self) -> Graph:
        """Drop nodes whose results nobody reads."""
        needed = self.output_values() | {write.value for write in self.writes}
        kept = []
        for node in reversed(self.nodes):
            if any(value in needed for value in node.results if value is not None):
                kept.append(node)
                needed.update(node.inputs())
        self.nodes = kept[::-1]
        return self.finish()


def only_user(value: Value, outputs: set[Value]) -> Node | None:
    """The node that alone reads ``value``, or None; ``outputs`` are read by the caller."""
    if value in outputs or len(value.users) != 1:
        return None
    return value.users[0]


def values_in(tree: Any) -> list[Value]:
    """The :class:`Value` objects in nested tuples, lists and dicts."""
    found: list[Value] = []
    _gather(tree, found)
    return found


def _gather(tree: Any, found: list[Value]) -> None:
    """Append those of ``tree``: nested generators would take twice the time."""
    if isinstance(tree, Value):
        found.append(tree)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            _gather(item, found)
    elif isinstance(tree, dict):
        for item in tree.values():
            _gather(item, found)


def substitute(tree: Any, replace: Callable[[Value], Any]) -> Any:
    """``tree`` with every :class:`Value` replaced."""
    if isinstance(tree, Value):
        return replace(tree)
    if isinstance(tree, (tuple, list)):
        return type(tree)(substitute(item, replace) for item in tree)
    if isinstance(tree, dict):
        return {key: substitute(item, replace) for key, item in tree.items()}
    return tree


def channels_last_stride(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Strides of a dense NHWC tensor of shape (N, C, H, W)."""
    _, c, h, w = shape
    return (h * w * c, 1, w * c, c)


def same_layout(shape: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether strides ``a`` and ``b`` are equivalent: those of one element do not matter."""
    return all(n == 1 or x == y for n, x, y in zip(shape, a, b, strict=True))
