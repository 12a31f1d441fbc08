"""When a plan for a new size is worth making, and when a region is left for good."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable

from torch import Tensor

_MOST = 2.5  # times the original's time that the calls of a new size may take
_MOST_SIZES = 512  # that are counted
_REFUSALS = 2  # of one kind, at different sizes, that make a rule
_CHANGES = 2  # of weights or attributes before a plan is used again


class Economy:
    """What a region has learned of its costs, in milliseconds.

    A call of a new size costs the original's time if it is left to the original.  If a plan is
    made, it costs the original's time for the comparison, the plan's own and the planning's.
    """

    def __init__(self) -> None:
        self._original: float | None = None  # of the example
        self._ours = 0.0
        self._elements = 1
        self._planning = 0.0
        self._calls: Counter[Hashable] = Counter()
        self._refusals: Counter[str] = Counter()
        self._changes = 0

    def timed(
        self, original: float | None, ours: float | None, planning: float, tensors: list[Tensor]
    ) -> None:
        """Record the times of the example, if they are known."""
        if original is not None and ours is not None:
            self._original, self._ours, self._planning = original, ours, planning
        self._elements = max(1, _elements(tensors))

    def planned(self, elapsed: float, tensors: list[Tensor]) -> None:
        """Record the time of a call of a new size that made a plan."""
        if self._original is not None:
            scale = _elements(tensors) / self._elements
            self._planning = max(0.0, elapsed - scale * (self._original + self._ours))

    def pays(self, key: Hashable, tensors: list[Tensor]) -> bool:
        """Whether this call may make a plan: then the calls so far stay below the limit."""
        if self._original is None:
            return True
        if len(self._calls) >= _MOST_SIZES:
            self._calls.clear()
        self._calls[key] += 1
        scale = _elements(tensors) / self._elements
        cost = scale * (self._original + self._ours) + self._planning
        return cost <= _MOST * self._calls[key] * scale * self._original

    def refused(self, reason: str) -> int:
        """How often it has been refused for this reason, whatever numbers are in it."""
        kind = re.sub(r"\d+", "#", reason)
        self._refusals[kind] += 1
        return self._refusals[kind]

    def is_rule(self, refusals: int) -> bool:
        """Whether so many refusals mean that every size will be refused."""
        return refusals >= _REFUSALS

    def changes_always(self, used: bool) -> bool:
        """Record that a plan is out of date; whether the module changes at every call.

        ``used``: whether the plan has served since it was made.
        """
        self._changes = 0 if used else self._changes + 1
        return self._changes >= _CHANGES


def _elements(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
