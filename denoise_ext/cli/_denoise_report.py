"""Report of ``denoise-ext denoise`` and ``deblur``: progress bar, JSON lines, summary."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from denoise_ext.cli.common import in_options, progress_bar, report_failures

if TYPE_CHECKING:
    from denoise_ext.cli._denoise_jobs import Failure
    from denoise_ext.jobs.batch import Outcome


# Cameras smooth noise away and JPEG rounds what is left: of the grain of a few levels that remains,
# the highest frequencies, by which the level is estimated, have less than this (0-255 scale).
_FAINT = 3.0


def printable(path: str | os.PathLike[str]) -> str:
    """A file name as text that any terminal and file can take: undecodable bytes escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Report:
    """Collects outcomes; draws a bar on terminals, prints a JSON line for each with `as_json`."""

    def __init__(
        self,
        total: int,
        failures: list[Failure],
        output: str,
        notes: tuple[str, ...] = (),
        *,
        quiet: bool,
        as_json: bool,
        doing: str = "denoising",
        done: str = "denoised",
    ) -> None:
        self._doing, self._done = doing, done
        self._total, self._output = total, printable(output)
        self._quiet, self._json = quiet or as_json, as_json
        self.failures = [(printable(name), in_options(reason)) for name, reason in failures]
        self._about = notes
        self._counts = {"written": 0, "skipped": 0, "failed": 0}
        self._sigmas: list[float] = []
        self._notes: list[tuple[str, str]] = []
        self._kinds: Counter[str] = Counter()
        self._treatments: list[str] = []
        self._faint = 0
        self._start = time.perf_counter()
        self._bar = progress_bar(self._quiet, "rate")
        for name, reason in self.failures:
            self._line(event="file", source=name, status="failed", reason=reason)

    def __enter__(self) -> Report:
        self._bar.start()
        self._task = self._bar.add_task(self._doing, total=self._total, rate="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, done: int, total: int) -> None:
        """A step of the picture at work: shown on a terminal."""
        self._bar.update(self._task, rate=f"step {done} of {total}")

    def add(self, outcome: Outcome) -> None:
        """Count an outcome and report it."""
        source, target = printable(outcome.job.source), printable(outcome.job.target)
        self._counts[outcome.status] += 1
        reason = in_options(outcome.reason)
        if outcome.status == "failed":
            self.failures.append((source, reason))
        if outcome.estimated and outcome.sigma is not None:
            self._sigmas.append(outcome.sigma)
            self._faint += outcome.sigma < _FAINT and not outcome.treatment
        self._kinds.update(outcome.kinds)
        self._treatments += [outcome.treatment] if outcome.treatment else []
        self._notes += [(source, note) for note in outcome.notes]
        seconds = time.perf_counter() - self._start
        rate = f"{self._counts['written'] / seconds:.2f} images/s"
        self._bar.update(self._task, advance=1, description=os.path.basename(source), rate=rate)
        facts: dict[str, Any]
        facts = {"event": "file", "source": source, "target": target, "status": outcome.status}
        if outcome.status == "failed":
            facts["reason"] = reason
        if outcome.status == "written":
            facts |= {
                "sigma": outcome.sigma, "sigma_estimated": outcome.estimated,
                "noise": outcome.kinds, "treatment": outcome.treatment,
                "pixels": outcome.pixels, "notes": outcome.notes,
                "seconds": {k: round(v, 4) for k, v in outcome.seconds.items()},
            }  # fmt: skip
        self._line(**facts)

    def finish(self) -> None:
        """The summary, and a line for every file that failed."""
        seconds = time.perf_counter() - self._start
        written, skipped = self._counts["written"], self._counts["skipped"]
        self._line(
            event="summary", written=written, skipped=skipped, failed=len(self.failures),
            seconds=round(seconds, 3), output=self._output,
        )  # fmt: skip
        if not self._quiet:
            self._summary(written, skipped, seconds)
        if self.failures:
            report_failures(self.failures, len(self.failures) + written + skipped)

    def _summary(self, written: int, skipped: int, seconds: float) -> None:
        what = "1 image" if written == 1 else f"{written} images"
        if written:
            rate = f" ({written / seconds:.2f} images/s)" if written > 1 else ""
            print(f"{what} {self._done} in {seconds:.1f} s{rate} -> {self._output}")
        if skipped:
            print(f"{skipped} done before, left as they are")
        if len(self._treatments) == 1 == written:
            print(self._treatments[0])
        elif self._kinds:
            counts = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
            print(f"noise found: {counts} (--json has a line for each file)")
        if self._sigmas:
            print(f"noise level (sigma, 0-255 scale): estimated, {_spread(self._sigmas)}")
        if self._faint:
            files = "an image" if self._faint == 1 else f"{self._faint} images"
            print(
                f"the estimate is below {_FAINT:g} for {files}, where it does not show a camera's"
                " own noise; if you see grain, leave out --model, or try --sigma 5 (faint) to 15"
            )
        for note in self._about:
            print(f"note: {note}")
        for name, note in self._notes:
            print(f"note: {name}: {note}")
        if not (written or skipped or self.failures):
            print("nothing to do: no file belongs to this shard")

    def _line(self, **facts: object) -> None:
        if self._json:
            print(json.dumps(facts), flush=True)


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    import statistics

    middle = statistics.median(values)
    return f"{min(values):.1f} to {max(values):.1f}, median {middle:.1f}"
