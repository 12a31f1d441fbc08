"""The parent: gives cases to child processes, watches them, counts, and reports."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.target import REFUSED, RESULT, SANITIZED, SANITIZED_TIMES, Target

TESTS = Path(__file__).resolve().parent.parent
CHILD = (sys.executable, str(TESTS / "fuzz"), "--serve")
REPEAT = (sys.executable, str(TESTS / ("sanitize" if SANITIZED else "fuzz")))
# Seconds a child may take to import what it needs.
STARTING = 120.0 * (SANITIZED_TIMES if SANITIZED else 1)
FINDINGS_PER_TARGET = 5  # then the target is left out
PROGRESS_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Finding:
    """A case that ended otherwise than it may."""

    target: str
    seed: int
    text: str
    command: str

    def __str__(self) -> str:
        text = "\n    ".join(self.text.strip().splitlines())
        return f"FINDING {self.target} {self.seed}\n    {text}\n    repeat: {self.command}"


@dataclass
class Count:
    """What a target's cases came to."""

    started: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: {RESULT: 0, REFUSED: 0})
    seconds: float = 0.0
    running: int = 0
    findings: int = 0

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values()) + self.findings

    def __str__(self) -> str:
        parts = [f"{number:,} {name}" for name, number in self.outcomes.items()]
        found = f", {self.findings} FOUND" if self.findings else ""
        return f"{self.cases:,} cases ({', '.join(parts)}{found}), {self.seconds:.0f} s"


class Child:
    """A process that runs cases, restarted when one has ended it."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen | None = None
        self._errors = None

    def run(self, target: Target, seed: int) -> tuple[str, str]:
        """Run a case: what ``worker.run_case`` returns, or how the process ended."""
        self._process.stdin.write(json.dumps([target.name, seed]).encode() + b"\n")
        answer = self._answer(target.patience)
        if answer is None:  # its Python stack goes to its standard error
            self._process.send_signal(signal.SIGABRT)
            return "finding", f"hangs: no answer in {target.patience:.0f} s\n{self._ended()}"
        return tuple(json.loads(answer)) if answer else ("finding", self._ended())

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._ended()

    def start(self) -> None:
        """Start the process if there is none."""
        if self._process is not None:
            return
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in _ended)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(self._command, bufsize=0, **pipes)
        if not self._answer(STARTING):
            self._process.kill()  # or its end would be waited for
            raise RuntimeError(f"{shlex.join(self._command)}: {self._ended()}")

    def _answer(self, seconds: float) -> bytes | None:
        """One line; b"" if the process has ended, None if none came in time."""
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else None

    def _ended(self) -> str:
        """How the process ended, and what it wrote last."""
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 6000))
        text = self._errors.read().decode(errors="replace")
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            stream.close()
        self._process = None
        return f"the process ended with {how}\n{text}"


class Run:
    """Cases of several targets, for so many minutes or so many cases each.

    Args:
        targets: what to run; each gets the same share of the time.
        seed: of the first case of every target; the next have the next.
        minutes, cases: when to stop; None: not for that reason.
        jobs: child processes.
        child: the command of a child process.
        report: takes lines for the user.
    """

    def __init__(
        self, targets: list[Target], seed: int, *, minutes: float | None = None,
        cases: int | None = None, jobs: int = 1, child: Sequence[str] = CHILD,
        report: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self._targets = {target.name: target for target in targets}
        self._seed, self._cases, self._jobs = seed, cases, jobs
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._child = list(child)
        self._report = report
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._stopped = False
        self._error: BaseException | None = None
        self.counts = {name: Count() for name in self._targets}
        self.findings: list[Finding] = []

    def run(self) -> list[Finding]:
        """Run to the end; what was found.

        Raises what kept a child process from starting.
        """
        threads = [threading.Thread(target=self._drive) for _ in range(self._jobs)]
        for thread in threads:
            thread.start()
        shown = time.monotonic()
        try:
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.05)
                if time.monotonic() - shown >= PROGRESS_EVERY:
                    shown = time.monotonic()
                    self._report(self._progress())
        finally:
            self._stopped = True
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error
        for name, count in self.counts.items():
            self._report(f"{name}: {count}")
        return self.findings

    def _progress(self) -> str:
        with self._lock:
            cases = sum(count.cases for count in self.counts.values())
            refused = sum(count.outcomes[REFUSED] for count in self.counts.values())
        seconds = time.monotonic() - self._start
        return f"{seconds:.0f} s: {cases:,} cases, {refused:,} refused, {len(self.findings)} found"

    def _drive(self) -> None:
        """Give one child cases until none is left."""
        child = Child(self._child)
        try:
            while (case := self._next()) is not None:
                child.start()
                target, seed = case
                start = time.monotonic()
                outcome, text = child.run(target, seed)
                self._note(target, seed, outcome, text, time.monotonic() - start)
        except BaseException as error:
            self._error, self._stopped = error, True
        finally:
            child.close()

    def _next(self) -> tuple[Target, int] | None:
        """The next case of the target that has had the least time."""
        with self._lock:
            late = self._deadline is not None and time.monotonic() > self._deadline
            open_targets = [
                name
                for name, count in self.counts.items()
                if count.findings < FINDINGS_PER_TARGET
                and (self._cases is None or count.started < self._cases)
            ]
            if late or self._stopped or not open_targets:
                return None
            name = min(open_targets, key=lambda n: (self.counts[n].seconds, self.counts[n].started))
            count = self.counts[name]
            count.started += 1
            return self._targets[name], self._seed + count.started - 1

    def _note(self, target: Target, seed: int, outcome: str, text: str, seconds: float) -> None:
        with self._lock:
            count = self.counts[target.name]
            count.seconds += seconds
            if outcome != "finding":
                count.outcomes[outcome] += 1
                return
            count.findings += 1
            command = shlex.join([*REPEAT, "--case", f"{target.name}:{seed}"])
            finding = Finding(target.name, seed, text, command)
            self.findings.append(finding)
            self._report(str(finding))
