"""Planning in stages, which wait for a later call where the present one has no time for them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from denoise_ext.engine.capture.instrumented_copy import Guard
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.run.economy import Allowance, Stage
from denoise_ext.engine.run.entries import Entry


@dataclass
class Call:
    """A call's arguments, the tensors among them, and its results."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[Tensor]
    expected: Any = None  # the original's result
    result: Any = None  # the plan's, from the comparison


class Planning:
    """The plan of one kind of arguments in the making.

    ``stages`` names each stage before it begins.  It reads the present call from ``call``.
    """

    guard: Guard | None  # of what has been traced

    def __init__(self, stages: Callable[[Planning], Generator[Stage | None, None, Entry]]) -> None:
        self.guard = None
        self._call: Call | None = None
        self._stages = stages(self)
        self._next = next(self._stages)

    @property
    def call(self) -> Call:
        """The present call, beside which planning goes on."""
        assert self._call is not None
        return self._call

    @property
    def holds(self) -> bool:
        """Whether the module is as it was traced."""
        return self.guard is None or self.guard.holds()

    def advance(self, call: Call, allowance: Allowance) -> Entry | None:
        """Go on as far as there is room; return the entry once it is made."""
        self._call = call
        try:
            while self._next is None or allowance.has_room(self._next):
                stage, seconds = self._next, verify.stopwatch()
                try:
                    self._next = next(self._stages)
                except StopIteration as end:
                    return end.value
                finally:
                    if stage is not None:
                        allowance.took(stage, seconds())
            return None
        finally:
            self._call = None
