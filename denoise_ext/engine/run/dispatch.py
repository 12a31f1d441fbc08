"""A shim over a model: the state of the same objects, other calls.

A shim shares its module's ``__dict__``, so that whatever is set on one is set on the other; its
class is a subclass of the module's, so that code inside a forward finds what it expects.  Only
calls differ: they try the region's plan first.  Where there is none, the module's own forward runs,
on submodules that are shims in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from denoise_ext.engine.capture.instrumented_copy import Wrapper
from denoise_ext.engine.capture.signature import is_ordinary
from denoise_ext.engine.report import Row
from denoise_ext.engine.run.region import Region, Settings


class State:
    """The state of a shim besides its module's ``__dict__``."""

    module: nn.Module
    path: str
    settings: Settings

    def __init__(self, module: nn.Module, path: str, settings: Settings) -> None:
        self.module, self.path, self.settings = module, path, settings
        self.regions: dict[str, Region] = {
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
            known = self._children[id(module)] = (module, shim(module, path, self.settings))
        return known[1]

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
            kind: Any = type(module)  # hashable, as `cache` needs
            result = object.__new__(_shim_class(kind))
            object.__setattr__(result, "__dict__", module.__dict__)  # past the class's own
            _STATE.__set__(result, State(module, path, settings))
            return result
        except Exception as error:  # whatever a foreign metaclass raises
            reason = f"its class cannot be extended: {error}"
    settings.report.rows.append(Row(path, type(module).__name__, "original", reason=reason))
    return module


def state_of(module: nn.Module) -> State:
    """The state of a shim."""
    return _STATE.__get__(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether calls of this module must go through its own ``__call__``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _left_alone(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module"
    if isinstance(module, Wrapper):
        return "it is accelerated already"
    if has_hooks(module):
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


@cache
def _shim_class(cls: type[nn.Module]) -> type[nn.Module]:
    def modules(self: nn.Module) -> dict[str, nn.Module | None]:
        own = self.__dict__["_modules"]
        return {name: state_of(self).child(name, module) for name, module in own.items()}

    def look_up(self: nn.Module, name: str) -> Any:
        found = super(result, self).__getattr__(name)
        if isinstance(found, nn.Module) and found is self.__dict__["_modules"].get(name):
            return state_of(self).child(name, found)
        return found

    members = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "_modules": property(modules),
        "__getattr__": look_up,
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
        if has_hooks(self) or not is_ordinary(args, kwargs, torch.is_grad_enabled()):
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
