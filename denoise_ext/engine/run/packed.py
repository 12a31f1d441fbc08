"""Weights in the forms that plans read, for plans of every size."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import Tensor

from denoise_ext.engine.capture.instrumented_copy import Guard


class PackedWeights:
    """What `Constants` packs, while the tensors that it is made of are the same."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all of them."""
        self._own: list[Tensor] = []
        self._guard = Guard()
        self.packed: dict[Any, Any] = {}

    def of(self, own: list[Tensor], guard: Guard) -> dict[Any, Any]:
        """Those of the tensors ``own``, which ``guard`` watches; none if any has changed."""
        same = len(self._own) == len(own) and all(map(is_, self._own, own))
        if not same or not self._guard.tensors.hold():
            self._own, self._guard, self.packed = own, guard, {}
        return self.packed
