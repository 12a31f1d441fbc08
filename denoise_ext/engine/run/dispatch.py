"""A shim over a model: the state of the same objects, other calls.

A shim shares its module's ``__dict__``, so that whatever is set on one is set on the other; its
class is a subclass of the module's, so that code inside a forward finds what it expects.  Only
calls differ: they try the region's plan first.  Where there is none, the module's own forward runs,
on submodules that are shims in turn.

Shims do not leave the forward.  Assigned to an attribute they turn into their modules again, copies
are copies of the module, and new objects of a shim's class are of the module's own class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, MutableMapping
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import nn

from denoise_ext.engine.capture.instrumented_copy import Wrapper
from denoise_ext.engine.capture.known_hooks import has_unknown_hooks
from denoise_ext.engine.capture.signature import is_ordinary
from denoise_ext.engine.report import Row
from denoise_ext.engine.run.region import Region
from denoise_ext.engine.run.settings import Settings


class State:
    """The state of a shim besides its module's ``__dict__``."""

    module: nn.Module
    path: str
    settings: Settings
    regions: dict[str, Region]

    def __init__(
        self, module: nn.Module, path: str, settings: Settings, rehearsed: State | None = None
    ) -> None:
        self.module, self.path, self.settings = module, path, settings
        self._rehearsed = rehearsed
        if rehearsed is not None:
            self.regions = rehearsed.regions
        else:
            self.regions = {
                method: Region(module, method, path, settings) for method in _methods(type(module))
            }
        self._children: dict[int, tuple[nn.Module, nn.Module]] = {}

    def child(self, name: str, module: nn.Module | None) -> nn.Module | None:
        """The shim of a submodule; the module itself if it must not be replaced."""
        if module is None:
            return None
        known = self._children.get(id(module))
        if known is None:
            path = f"{self.path}.{name}" if self.path else name
            # The pair keeps the module alive, and with it its id.
            known = self._children[id(module)] = (module, self._shim(name, module, path))
        elif known[1] is not module and state_of(known[1]).is_idle():
            known = self._children[id(module)] = (module, module)
        return known[1]

    def is_idle(self) -> bool:
        """Whether its calls are the module's own: there is nothing to replace, also in parts."""
        return all(region.left_for_good for region in self.regions.values())

    def _shim(self, name: str, module: nn.Module, path: str) -> nn.Module:
        if self._rehearsed is None:
            return shim(module, path, self.settings)
        own = self._rehearsed
        same = own.child(name, own.module.__dict__["_modules"].get(name))
        # A module that the first call has left alone, or that is new, runs as it is.
        return _extended(module, path, self.settings, state_of(same)) if is_shim(same) else module

    def forget(self) -> None:
        """Drop all decisions."""
        for region in self.regions.values():
            region.forget()
        self._children.clear()


def shim(module: nn.Module, path: str, settings: Settings) -> nn.Module:
    """The shim of ``module``, or ``module`` itself if its calls must not be replaced."""
    reason = _left_alone(module)
    if reason is None:
        try:
            return _extended(module, path, settings)
        except Exception as error:  # whatever a foreign metaclass raises
            reason = f"its class cannot be extended: {error}"
    settings.report.rows.append(Row(path, type(module).__name__, "original", reason=reason))
    return module


def _extended(
    module: nn.Module, path: str, settings: Settings, rehearsed: State | None = None
) -> nn.Module:
    kind: Any = type(module)  # hashable, as `cache` needs
    result = object.__new__(_shim_class(kind))
    object.__setattr__(result, "__dict__", module.__dict__)  # past the class's own
    _STATE.__set__(result, State(module, path, settings, rehearsed))
    return result


def rehearsal(replaced: nn.Module, copied: nn.Module) -> nn.Module:
    """A shim over ``copied`` that runs the plans of the shim ``replaced``.

    It costs the same time, and whatever the forward writes lands in the copy.
    """
    state = state_of(replaced)
    return _extended(copied, state.path, state.settings, state)


def is_shim(module: nn.Module | None) -> TypeGuard[nn.Module]:
    """Whether it is a shim."""
    return isinstance(module, _Slot)


def state_of(module: nn.Module) -> State:
    """The state of a shim."""
    return _STATE.__get__(module)


def _left_alone(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module"
    if isinstance(module, Wrapper):
        return "it is accelerated already"
    if has_unknown_hooks(module):
        return "it has hooks, which must run"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    return None


def _methods(cls: type[nn.Module]) -> tuple[str, ...]:
    """The planned methods: forward, or those that the class names instead."""
    return getattr(cls, "accelerated_methods", ("forward",))


class _Slot(nn.Module):
    """Gives shims a place for their state outside of the ``__dict__`` they share."""

    __slots__ = ("_engine_state",)

    def __init_subclass__(cls) -> None:
        """Nothing: a shim is no new class that the module's own might register."""


_STATE: Any = vars(_Slot)["_engine_state"]  # the slot's descriptor


class _Submodules(dict[str, Any]):
    """The shims of a module's submodules by name; what is written goes to the module itself."""

    __slots__ = ("_own", "_state")

    def __init__(self, own: dict[str, nn.Module | None], state: State) -> None:
        super().__init__((name, state.child(name, module)) for name, module in own.items())
        self._own, self._state = own, state

    def __setitem__(self, name: str, module: nn.Module | None) -> None:
        self._own[name] = module = _unwrapped(module)
        super().__setitem__(name, self._state.child(name, module))

    def __delitem__(self, name: str) -> None:
        del self._own[name]
        super().__delitem__(name)

    pop, popitem, clear = MutableMapping.pop, MutableMapping.popitem, MutableMapping.clear
    update, setdefault = MutableMapping.update, MutableMapping.setdefault


def _unwrapped(value: Any) -> Any:
    """The module of a shim; any other value as it is."""
    return state_of(value).module if is_shim(value) else value


@cache
def _shim_class(cls: type[nn.Module]) -> type[nn.Module]:
    def modules(self: nn.Module) -> dict[str, nn.Module | None]:
        return _Submodules(self.__dict__["_modules"], state_of(self))

    def set_modules(self: nn.Module, modules: dict[str, nn.Module | None]) -> None:
        own = {name: _unwrapped(module) for name, module in modules.items()}
        self.__dict__["_modules"] = own

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        super(result, self).__setattr__(name, _unwrapped(value))

    def look_up(self: nn.Module, name: str) -> Any:
        found = super(result, self).__getattr__(name)
        if isinstance(found, nn.Module) and found is self.__dict__["_modules"].get(name):
            return state_of(self).child(name, found)
        return found

    members = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "_modules": property(modules, set_modules),
        "__getattr__": look_up,
        "__setattr__": set_attribute,
        # A slice of a container is a container: of the module's class.
        "__new__": lambda _, *args, **kwargs: cls(*args, **kwargs),
        "__copy__": lambda self: copy.copy(state_of(self).module),
        "__deepcopy__": lambda self, memo: copy.deepcopy(state_of(self).module, memo),
        # Later protocols name the class of the pickled object, which is the shim's.
        "__reduce_ex__": lambda self, protocol: state_of(self).module.__reduce_ex__(1),
    }
    if "forward" in _methods(cls):
        members["__call__"] = _dispatcher("forward", cls.__call__)
    else:
        for method in _methods(cls):
            members[method] = _dispatcher(method, getattr(cls, method))
    result: Any = type(cls.__name__, (_Slot, cls), members)
    return result


def _dispatcher(method: str, own: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = state_of(self)
        # Hooks may be registered since; the forward itself may have turned on gradients or
        # autocast: the engine calls it without either.
        if has_unknown_hooks(self) or not is_ordinary(args, kwargs, torch.is_grad_enabled()):
            return getattr(state.module, "__call__" if method == "forward" else method)(
                *args, **kwargs
            )
        done, result = state.regions[method].call(args, kwargs)
        if done:
            return result
        if result:
            return own(self, *args, **kwargs)
        original = state.module if method == "forward" else getattr(state.module, method)
        return original(*args, **kwargs)

    return call
