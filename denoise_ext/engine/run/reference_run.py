"""A private copy of a model that runs as the reference, without side effects."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from denoise_ext.engine.capture.random_state import random_states, set_random_states
from denoise_ext.engine.capture.signature import tensors_in
from denoise_ext.engine.fuse import verify


class ReferenceRun:
    """A copy of a module and of a call's arguments; ``missing`` is the reason if there is none.

    ``raised``: the reason is an exception of the call.
    """

    module: nn.Module
    missing: str
    raised: bool

    def __init__(
        self, module: nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.missing, self.raised, self._method = "", False, method
        try:
            memo: dict[int, Any] = {}
            # deepcopy refuses tensors with a history: of gradients, of which the copy needs none.
            for x in tensors_in(args, kwargs) + _computed(module):
                if id(x) not in memo:
                    same = x.detach().requires_grad_(x.requires_grad) if x.is_leaf else x.detach()
                    memo[id(x)] = copy.deepcopy(same, memo)
            self.module, self._args, self._kwargs = copy.deepcopy((module, args, kwargs), memo)
            _set_modes(self.module, module)
        except Exception as error:
            # Whatever a foreign class raises: only this comparison needs the copy.
            self.missing = f"it cannot be copied ({type(error).__name__}: {error})"
        self._random = random_states()

    def run(self) -> Any:
        """Return the original's result; restore the random generators afterwards."""
        now = random_states()
        call = self.module if self._method == "forward" else getattr(self.module, self._method)
        try:
            set_random_states(self._random)
            return call(*self._args, **self._kwargs)
        except Exception as error:
            self.missing, self.raised = f"its copy raises {type(error).__name__}: {error}", True
            return None
        finally:
            set_random_states(now)

    def times(self, replaced: Callable[..., Any]) -> list[float]:
        """Milliseconds of the copy's call, and of the same call of ``replaced``.

        ``replaced`` shares its state with the copy.
        """
        now = random_states()
        try:
            return verify.settled(
                [
                    lambda: self.module(*self._args, **self._kwargs),
                    lambda: replaced(*self._args, **self._kwargs),
                ]
            )
        finally:
            set_random_states(now)


def _set_modes(copied: nn.Module, module: nn.Module) -> None:
    """Give ``copied`` the modes of ``module``: some classes' copies are in training mode."""
    modes = {name: part.training for name, part in module.named_modules()}
    if copied.training != module.training:
        copied.train(module.training)
    for name, part in copied.named_modules():
        part.training = modes.get(name, part.training)


def _computed(module: nn.Module) -> list[Tensor]:
    """Attributes of ``module`` and its parts that are results, such as normalised weights."""
    attributes = [value for part in module.modules() for value in part.__dict__.values()]
    return [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
