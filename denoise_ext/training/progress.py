"""Progress of a run: a bar on a terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from denoise_ext._log import get_logger

logger: logging.Logger = get_logger("denoise_ext.training")


class Progress:
    """Context manager; ``advance(step)`` every step, ``report(row)`` now and then."""

    def __init__(self, total: int, start: int, shown: bool = True) -> None:
        self.total = total
        self.console: Console = Console(file=sys.stderr, quiet=not shown)
        self.bar: RichProgress | None = None
        if self.console.is_terminal and shown:
            self.bar = RichProgress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[state]}"),
                console=self.console,
            )  # fmt: skip
            self.task: TaskID = self.bar.add_task("train", total=total, completed=start, state="")

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, step: int) -> None:
        """Show that ``step`` steps are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step)

    def report(
        self, row: dict[str, Any], judged: Mapping[str, str], seconds_per_step: float | None
    ) -> None:
        """Show a row of the log; no time per step before the first one.

        ``judged`` names the columns of the validation and how they are shown.
        """
        quality = "  ".join(f"{judged[key]} {value}" for key, value in row.items() if key in judged)
        loss = f"loss {row['loss']}  " if "loss" in row else ""
        state = f"{loss}{quality}".rstrip()
        if self.bar is not None:
            self.bar.update(self.task, state=state)
            return
        line = f"step {row['step']}/{self.total}  {state}"
        if seconds_per_step is not None:
            left = (self.total - row["step"]) * seconds_per_step / 60
            line += f"  {seconds_per_step:.3f} s/step  {left:.0f} min left"
        logger.info("%s", line)
