"""Progress of a command: a bar on terminals, a line every 10 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rich.progress import TaskID

_EVERY = 10.0  # seconds


class ProgressLines:
    """`rich.progress.Progress` for one task, as lines on stderr for logs and pipes.

    A line is due when a step ends ten seconds or more after the last line. After the last step the
    command has a summary.

    Args:
        fields: of the task, shown at the end of a line.
        quiet: print nothing.
        clock: gives seconds.
    """

    def __init__(
        self, *fields: str, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fields, self._quiet, self._clock = fields, quiet, clock
        self._values: dict[str, str] = {}
        self._done, self._what = 0, ""
        self._total: int | None = None

    def __enter__(self) -> ProgressLines:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """The first line is due ten seconds from now."""
        self._started = self._clock()
        self._due = self._started + _EVERY

    def stop(self) -> None:
        """Nothing is to be cleared."""

    def add_task(self, description: str, total: int | None = None, **fields: str) -> TaskID:
        """Add a task; every line begins with `description`."""
        self._what, self._total = description, total
        self._values |= fields
        return cast("TaskID", 0)

    def advance(self, task: TaskID, advance: int = 1) -> None:
        """Steps more."""
        self.update(task, advance=advance)

    def update(
        self, task: TaskID, *, advance: int = 0, description: str = "", **fields: str
    ) -> None:
        """Steps more, or other fields. `description`, the name of a file, is for a bar."""
        self._done += advance
        self._values |= fields
        now = self._clock()
        if advance and not self._quiet and now >= self._due and self._done != self._total:
            self._due = now + _EVERY
            of = left = ""
            if self._total is not None and self._total > self._done:
                of = f" of {self._total}"
                seconds = (now - self._started) / self._done * (self._total - self._done)
                left = f", {timedelta(seconds=round(seconds))} left"
            shown = "".join(f", {self._values[name]}" for name in self._fields)
            print(f"{self._what}: {self._done}{of}{shown}{left}", file=sys.stderr, flush=True)
