"""A private copy of a model that runs as the reference, without side effects."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from denoise_ext.engine.capture.signature import tensors_in


class Twin:
    """A module and the arguments of a call as they are now; ``missing`` says why there is none."""

    def __init__(self, module: nn.Module, method: str, args: tuple, kwargs: dict[str, Any]) -> None:
        self.missing, self._method = "", method
        try:
            memo: dict[int, Any] = {}
            # deepcopy refuses tensors with a history: of gradients, of which the copy needs none.
            for x in tensors_in(args, kwargs) + _computed(module):
                if id(x) not in memo:
                    same = x.detach().requires_grad_(x.requires_grad) if x.is_leaf else x.detach()
                    memo[id(x)] = copy.deepcopy(same, memo)
            self._module, self._args, self._kwargs = copy.deepcopy((module, args, kwargs), memo)
        except Exception as error:
            # Whatever a foreign class raises: only this comparison needs the copy.
            self.missing = f"it cannot be copied ({type(error).__name__}: {error})"
        self._random = _random_states()

    def run(self) -> Any:
        """The original's result; random numbers go on afterwards as if it had not run."""
        now = _random_states()
        call = self._module if self._method == "forward" else getattr(self._module, self._method)
        try:
            _set_random_states(*self._random)
            return call(*self._args, **self._kwargs)
        except Exception as error:
            self.missing = f"its copy raises {type(error).__name__}: {error}"
            return None
        finally:
            _set_random_states(*now)


def _computed(module: nn.Module) -> list[Tensor]:
    """Attributes of ``module`` and its parts that are results, such as normalised weights."""
    attributes = [value for part in module.modules() for value in part.__dict__.values()]
    return [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]


def _random_states() -> tuple:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_states(python: Any, numpy: Any, pytorch: Tensor, cuda: list[Tensor]) -> None:
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(pytorch)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
