"""What is done for arguments of each kind, and how much of it is kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from denoise_ext.engine.capture.instrumented_copy import Guard
from denoise_ext.engine.run.plan import Plan

MOST_PLANS = 8
_MOST_BYTES = 1 << 30  # of plans' memory, the one in use not counted


def _as_it_is(result: Any) -> Any:
    return result


@dataclass
class Entry:
    """Arguments of one kind: run ``plan``, or leave them to the original."""

    plan: Plan | None
    guard: Guard | None = None
    finish: Callable[[Any], Any] = _as_it_is
    # Left, but parts of the module may yet be replaced one by one.
    descend: bool = False
    used: bool = False  # since it was made

    @property
    def holds(self) -> bool:
        """Whether what it was made of is unchanged."""
        return self.guard is None or self.guard.holds()


class Entries(OrderedDict[Any, Entry]):
    """Entries by kind of arguments, the one used last at the end."""

    def keep(self, key: Any, entry: Entry) -> Entry:
        """Add an entry; drop those used longest ago where plans are too many or too large."""
        self[key] = entry
        self.move_to_end(key)
        others = [e.plan.bytes for e in list(self.values())[:-1] if e.plan]
        while len(self) > 1 and (len(self) > MOST_PLANS or sum(others) > _MOST_BYTES):
            _, dropped = self.popitem(last=False)
            if dropped.plan:
                others.pop(0)
        return entry

    def touch(self, key: Any, lock: threading.RLock) -> None:
        """Count as used last, unless that meant waiting for another thread's planning."""
        if lock.acquire(blocking=False):
            try:
                if key in self:
                    self.move_to_end(key)
            finally:
                lock.release()
