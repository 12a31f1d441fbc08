"""The state of a module and of a call's arguments, to be restored after a forward that failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext.engine.capture.random_state import random_states, set_random_states

_CONTAINERS = (dict, list, set, deque)


class Snapshot:
    """Attributes, the containers among them, tensors other than parameters, random generators."""

    def __init__(self, module: nn.Module, arguments: Iterable[Tensor]) -> None:
        self._random = random_states()
        self._contents: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, tuple[Tensor, int, Tensor]] = {}
        for tensor in arguments:
            self._save(tensor)
        for part in list(module.modules()):
            self._save(part.__dict__)

    def _save(self, value: Any) -> None:
        if isinstance(value, Tensor):
            watched = not isinstance(value, nn.Parameter) and not value.is_inference()
            if watched and id(value) not in self._tensors:
                copy = value.detach().clone()
                self._tensors[id(value)] = (value, value._version, copy)
        elif isinstance(value, _CONTAINERS) and id(value) not in self._contents:
            # The pair keeps the container alive, and with it its id.
            self._contents[id(value)] = (value, value.copy())
            for item in value.values() if isinstance(value, dict) else value:
                self._save(item)

    def restore(self) -> None:
        """Put everything back as it was."""
        for container, content in self._contents.values():
            # Past the methods of a subclass, which may refuse: a configuration that is frozen.
            kind = _standard_class(container)
            kind.clear(container)
            (kind.extend if issubclass(kind, (list, deque)) else kind.update)(container, content)
        with torch.no_grad():
            for tensor, version, copy in self._tensors.values():
                if tensor._version != version:
                    tensor.copy_(copy)
        set_random_states(self._random)


def _standard_class(container: Any) -> Any:
    """The class of Python's own that ``container`` is of."""
    return next(c for c in type(container).__mro__ if c.__module__ in ("builtins", "collections"))
