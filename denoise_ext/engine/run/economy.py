"""How much planning a call of a new size may do, and when a region is left for good."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

# Of planning; those not named here are sites' keys: then their weights are packed.
Stage = Hashable
TRACE, SITES, SCHEDULE, COMPARISON = "trace", "sites", "schedule", "comparison"
_MOST = 2.5  # times the original's time that a call of a new size may take
_MARGIN = 0.8  # of the time for planning: stages may take longer than they are known to
_FIRST = 1.25  # times as long as later calls: what a first one may take counts up to this
_RARELY = 0.01  # of a size's time so far, which a single call may take for a longer stage
_MOST_SIZES = 512  # whose calls are counted
_REFUSALS = 2  # of one kind, at different sizes, that make a rule
_CHANGES = 2  # of weights or attributes before a plan is used again


@dataclass
class _Size:
    """Calls of one size that the original has computed, in seconds."""

    calls: int = 0
    shortest: float = math.inf
    total: float = 0.0


class Economy:
    """What a region has learned of its costs, in seconds.

    A call of a new size is the original's.  What it may take besides goes to planning, whose
    stages take as long as they did the last time.  The comparison is a call of the plan, and more.
    """

    def __init__(self) -> None:
        self._costs: dict[Stage, float] = {}  # COMPARISON: besides the plan's own
        self._original = math.inf  # of the example
        self._ratio = 1.0  # of the plan's time to the original's, on the example
        self._elements = 1  # of the example
        self._sizes: dict[Hashable, _Size] = {}
        self._refusals: Counter[str] = Counter()
        self._changes = 0

    def timed(self, original: float | None, ours: float | None, tensors: list[Tensor]) -> None:
        """Record the milliseconds of the example, if they are known."""
        self._elements = max(1, _elements(tensors))
        if original and ours is not None:
            self._original, self._ratio = 1e-3 * original, ours / original
            self._costs[COMPARISON] = max(0.0, self._costs.get(COMPARISON, 0.0) - 1e-3 * ours)

    def without_limit(self) -> Allowance:
        """For the example, and for those who need the plan at once."""
        return Allowance(self, True, math.inf)

    def allowance(
        self, key: Hashable, original: float, tensors: list[Tensor], limited: bool = True
    ) -> Allowance:
        """What planning may take in a call of which the original took so many seconds."""
        if len(self._sizes) >= _MOST_SIZES:
            self._sizes.clear()
        size = self._sizes.setdefault(key, _Size())
        size.calls += 1
        size.total += original
        size.shortest = min(size.shortest, original)
        scale = _elements(tensors) / self._elements
        counted = size.shortest
        if size.calls == 1:  # which other processes may have disturbed
            counted = min(counted, _FIRST * scale * self._original)
        limit = max(_MARGIN * (_MOST - 1) * counted, _RARELY * size.total)
        again = size.calls > 1 or not limited
        return Allowance(self, again, limit if limited else math.inf, original, scale)

    def cost(self, stage: Stage, original: float, scale: float) -> float:
        """Of a stage at a size that has ``scale`` times as many elements as the example."""
        known = self._costs.get(stage, 0.0)
        return known if stage != COMPARISON else self._ratio * original + known * max(1.0, scale)

    def total(self, original: float, scale: float) -> float:
        """Of all stages."""
        return sum(self.cost(stage, original, scale) for stage in self._costs)

    def took(self, stage: Stage, seconds: float, original: float, scale: float) -> None:
        """Record what a stage took."""
        if stage == COMPARISON:
            seconds = max(0.0, seconds - self._ratio * original) / max(1.0, scale)
        self._costs[stage] = seconds

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


class Allowance:
    """What planning may take in one call, in seconds."""

    def __init__(
        self, economy: Economy, again: bool, limit: float, original: float = 0.0, scale: float = 1.0
    ) -> None:
        self._economy, self._again, self._limit = economy, again, limit
        self._original, self._scale, self._spent = original, scale, 0.0

    @property
    def may_begin(self) -> bool:
        """A size that has not come back is not worth half a plan."""
        return self._again or self._economy.total(self._original, self._scale) <= self._limit

    def has_room(self, stage: Stage) -> bool:
        """Whether the stage fits into this call."""
        cost = self._economy.cost(stage, self._original, self._scale)
        return self._spent + cost <= self._limit

    def took(self, stage: Stage, seconds: float) -> None:
        """Record what a stage took."""
        self._spent += seconds
        self._economy.took(stage, seconds, self._original, self._scale)


def _elements(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
