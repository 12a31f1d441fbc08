"""A stand-in for a module that can be run on tensors without data, leaving the module untouched.

The stand-in has the module's classes and attributes; tensors are replaced, and every container is a
copy. Whatever a forward writes lands in the copy, where :meth:`InstrumentedCopy.changes` finds it.
"""

from __future__ import annotations

import dataclasses
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext.engine.capture.constants import (
    NotPlannedError,
    Unwatched,
    is_fixed,
    is_frozen,
    is_plain_object,
)
from denoise_ext.engine.capture.known_hooks import computed_weights, has_unknown_hooks

_DICTS = (dict, OrderedDict)
_BUILT_IN = (OrderedDict, dict, types.SimpleNamespace, object)  # a special case first
_MOST_OBJECTS = 64  # of classes that are not known here: each makes the guard slower
# nn.Module's other bookkeeping: nothing that a forward reads.
_IGNORED = frozenset(
    {
        "_non_persistent_buffers_set", "_backward_pre_hooks", "_backward_hooks",
        "_is_full_backward_hook", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
        "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    }
)  # fmt: skip


class Wrapper(nn.Module):
    """A module that computes what its ``original`` does, in another way."""

    @property
    def original(self) -> nn.Module:
        """The unmodified module."""
        raise NotImplementedError


class Guard:
    """Check whether a module changed since it was traced.

    Compared: the attributes of every submodule, the elements of lists, dicts and sets among them,
    and its tensors by identity; in-place changes of tensors by their version counters, new memory
    behind an old tensor (``Module.to``) by its address.  A write through ``tensor.data`` moves no
    counter and is not seen.
    """

    def __init__(self) -> None:
        self._empty: list[Any] = []
        self._views: list[Any] = []
        self._values: list[list[Any]] = []
        self._keyed: list[Any] = []
        self._keys: list[list[Any]] = []
        self.tensors: TensorGuard = TensorGuard()

    def watch(
        self,
        container: dict[Any, Any] | list[Any] | set[Any],
        without: frozenset[str] = frozenset(),
    ) -> None:
        """Record the current content of ``container``, except for some keys of a dict."""
        if without:
            assert isinstance(container, dict)
            self._watch(_Without(container, without, keys=True), self._keyed, self._keys)
            self._watch(_Without(container, without, keys=False), self._views, self._values)
            return
        # Past the methods of a subclass. Views are live; lists are their own.
        kind: Any = OrderedDict if isinstance(container, OrderedDict) else dict
        keys = kind.keys(container) if isinstance(container, dict) else container
        if not keys:
            self._empty.append(keys)
            return
        if not isinstance(container, list):
            self._watch(keys, self._keyed, self._keys)
        if not isinstance(container, set):
            values = kind.values(container) if isinstance(container, dict) else container
            self._watch(values, self._views, self._values)

    def _watch(self, view: Any, views: list[Any], contents: list[list[Any]]) -> None:
        views.append(view)
        contents.append(list(view))

    def holds(self) -> bool:
        """Whether nothing has changed."""
        try:
            same = (
                not any(self._empty)
                and list(map(list, self._views)) == self._values
                and list(map(list, self._keyed)) == self._keys
            )
        except Exception:  # a tensor or array in place of another: comparing has no truth value
            return False
        return same and self.tensors.hold()


class _Without:
    """Keys or values of a dict, except for those of some keys."""

    def __init__(self, container: dict[Any, Any], without: frozenset[str], keys: bool) -> None:
        self._container, self._without, self._position = container, without, 0 if keys else 1

    def __iter__(self) -> Iterator[Any]:
        for item in self._container.items():
            if item[0] not in self._without:
                yield item[self._position]


class TensorGuard:
    """Check whether tensors were written to; inference tensors keep no record of writes."""

    def __init__(self) -> None:
        self._all: list[Tensor] = []
        self._memory: list[Tensor] = []  # keeps it from being given to another tensor
        self._addresses: list[int] = []
        self._counted: list[Tensor] = []
        self._versions: list[int] = []

    def watch(self, tensor: Tensor) -> None:
        """Record the state of ``tensor``."""
        self._all.append(tensor)
        self._memory.append(tensor.detach())
        self._addresses.append(tensor.data_ptr())
        if not tensor.is_inference():
            self._counted.append(tensor)
            self._versions.append(tensor._version)

    def hold(self) -> bool:
        """Whether none has changed."""
        return (
            list(map(_VERSION, self._counted)) == self._versions
            and list(map(Tensor.data_ptr, self._all)) == self._addresses
        )


_VERSION = attrgetter("_version")


@dataclasses.dataclass
class Change:
    """An item of a container that a forward has written to."""

    name: str
    container: Any  # the module's own
    key: Any
    after: Any
    position: int | None  # of the tensor that was there
    is_attribute: bool  # of a module


class InstrumentedCopy:
    """The stand-in of ``module`` and where in it tensors are to be put.

    ``unwatched``: what the guard leaves out, containers and keys, or tensors.
    """

    def __init__(
        self, module: nn.Module, unwatched: Collection[tuple[dict[str, Any], str] | Tensor] = ()
    ) -> None:
        self.tensors: list[Tensor] = []  # the module's own, each once
        self.names: list[str] = []
        self.guard: Guard = Guard()
        # Why not, once a forward has read what cannot be watched: it may catch all that is raised.
        self.refused: list[str] = []
        self._positions: dict[int, int] = {}
        self._slots: list[tuple[Any, Any, int]] = []  # container, key, position in tensors
        self._memo: dict[int, Any] = {}
        self._copies: list[tuple[str, Any, Any]] = []  # name, copy, the module's own
        self._before: list[Any] = []
        self._attributes: set[int] = set()  # ids of modules' own dictionaries
        self._unwatched: set[int] = {id(x) for x in unwatched if isinstance(x, Tensor)}
        self._unwatched_keys: dict[int, set[str]] = {}
        for container, key in (x for x in unwatched if not isinstance(x, Tensor)):
            self._unwatched_keys.setdefault(id(container), set()).add(key)
        self._computed: set[str] = set()  # attributes that hooks compute before each call
        self._objects = 0
        self.module: Any = self._copy(module, "")

    def install(self, make: Callable[[int], Tensor]) -> None:
        """Put ``make(position)`` where the module's tensor of that position was."""
        for container, key, position in self._slots:
            _set(container, key, make(position))
        self._before = [_items(copy) for _, copy, _ in self._copies]

    def changes(self) -> Iterator[Change]:
        """What was written to since :meth:`install`, in other ways than to tensors' memory."""
        positions = {(id(copy), key): position for copy, key, position in self._slots}
        for (name, copy, own), before in zip(self._copies, self._before, strict=True):
            after = _items(copy)
            missing = object()
            for key in {**before, **after}:
                now = after.get(key, missing)
                if _unchanged(before.get(key, missing), now):
                    continue
                changed = _join(name, key)
                if changed not in self._computed:
                    position = positions.get((id(copy), key))
                    yield Change(changed, own, key, now, position, id(own) in self._attributes)

    def _copy(self, value: Any, name: str) -> Any:
        known = self._memo.get(id(value))
        if known is not None:
            return known
        if isinstance(value, Wrapper):
            self._refuse_hooks(value, name)
            return self._memo.setdefault(id(value), self._copy(value.original, name))
        if isinstance(value, nn.Module):
            return self._copy_module(value, name)
        if type(value) in _DICTS or type(value) is list:
            return self._copy_container(value, name)
        if isinstance(value, tuple) and not any(isinstance(item, Tensor) for item in value):
            items = [self._copy(item, name) for item in value]
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            if type(value) is tuple:
                return tuple(items)
        if type(value) is set and all(map(is_fixed, value)):
            return self._copy_set(value, name)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self._copy(value.__self__, name))
        if is_fixed(value):
            return value
        if is_frozen(value):
            return self._copy_frozen(value, name)
        if is_plain_object(value) and self._objects < _MOST_OBJECTS:
            return self._copy_object(value, name)
        return Unwatched(f"{name} is a {type(value).__name__}", self.refused)

    def _copy_module(self, module: nn.Module, name: str) -> nn.Module:
        shown = name or type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise NotPlannedError(f"{shown} is a TorchScript module")
        self._refuse_hooks(module, shown)
        copy = object.__new__(type(module))
        self._memo[id(module)] = copy
        computed = computed_weights(module) | self._unwatched_keys.get(id(module.__dict__), set())
        self._computed |= {_join(name, key) for key in computed}
        self.guard.watch(module.__dict__, computed)
        for key, value in module.__dict__.items():
            if key in computed:
                continue
            if key in _IGNORED:
                copy.__dict__[key] = value
                continue
            inside = name if key in ("_parameters", "_buffers", "_modules") else _join(name, key)
            self._put(copy.__dict__, key, value, inside)
        self._copies.append((name, copy.__dict__, module.__dict__))
        self._attributes.add(id(module.__dict__))
        return copy

    def _refuse_hooks(self, module: nn.Module, name: str) -> None:
        if has_unknown_hooks(module):
            raise NotPlannedError(f"{name} has hooks")
        self.guard.watch(module._forward_hooks)
        self.guard.watch(module._forward_pre_hooks)

    def _copy_container(self, value: Any, name: str) -> Any:
        copy = type(value)() if isinstance(value, dict) else [None] * len(value)
        self._memo[id(value)] = copy
        self.guard.watch(value)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            self._put(copy, key, item, _join(name, key))
        self._copies.append((name, copy, value))
        return copy

    def _copy_frozen(self, value: Any, name: str) -> Any:
        """A frozen dataclass whose fields are watched, such as dicts. Tensors are refused."""
        copy = object.__new__(type(value))
        self._memo[id(value)] = copy
        for field in dataclasses.fields(value):
            item = self._copy(getattr(value, field.name), _join(name, field.name))
            object.__setattr__(copy, field.name, item)
        return copy

    def _copy_object(self, value: Any, name: str) -> Any:
        """An object that is its attributes, and its items if it is a dict."""
        self._objects += 1
        built_in: Any = next(cls for cls in _BUILT_IN if isinstance(value, cls))
        copy = built_in.__new__(type(value))
        self._memo[id(value)] = copy
        own = object.__getattribute__(copy, "__dict__")
        parts = [(object.__getattribute__(value, "__dict__"), own)]
        if isinstance(value, dict):
            parts.append((value, copy))
        for container, copied in parts:
            self.guard.watch(container)
            for key, item in _items(container).items():
                self._put(copied, key, item, _join(name, key))
            self._copies.append((name, copied, container))
        return copy

    def _copy_set(self, value: set[Any], name: str) -> set[Any]:
        copy = set(value)
        self._memo[id(value)] = copy
        self.guard.watch(value)
        self._copies.append((name, copy, value))
        return copy

    def _put(self, container: Any, key: Any, value: Any, name: str) -> None:
        if not isinstance(value, Tensor):
            _set(container, key, self._copy(value, name))
            return
        if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            raise NotPlannedError(f"{name} is a {type(value).__name__}")
        if value.layout != torch.strided:
            raise NotPlannedError(f"{name} is not an ordinary dense tensor")
        position = self._positions.get(id(value))
        if position is None:
            position = self._positions[id(value)] = len(self.tensors)
            self.tensors.append(value)
            self.names.append(name)
            if id(value) not in self._unwatched:
                self.guard.tensors.watch(value)
        _set(container, key, None)
        self._slots.append((container, key, position))


def _unchanged(before: Any, after: Any) -> bool:
    """Whether a write has left the same: the object, or a number or text equal to it."""
    if before is after:
        return True
    # repr: 0.0 equals -0.0, and is not the same.
    plain = type(before) is type(after) and type(before) in (bool, int, float, str)
    return plain and repr(before) == repr(after)


def _set(container: Any, key: Any, value: Any) -> None:
    """Set an item past the methods of a subclass, which may refuse it."""
    if isinstance(container, OrderedDict):
        OrderedDict.__setitem__(container, key, value)
    elif isinstance(container, dict):
        dict.__setitem__(container, key, value)
    else:
        container[key] = value


def _items(container: Any) -> dict[Any, Any]:
    if isinstance(container, OrderedDict):
        return dict(OrderedDict.items(container))
    if isinstance(container, dict):
        return dict(dict.items(container))
    return dict.fromkeys(container) if isinstance(container, set) else dict(enumerate(container))


def _join(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)
