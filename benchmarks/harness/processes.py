"""A command with a time limit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finished:
    """A process that ended, or was ended when its time was up."""

    status: int | None  # None: it was ended
    output: str
    seconds: float


def run(
    command: list[str],
    seconds: float | None,
    environment: Mapping[str, str] | None = None,
    capture: bool = True,
) -> Finished:
    """Run a command in the checkout for so long at most, and everything it starts.

    Args:
        seconds: None: without a limit.
        environment: all of it (default: this process's).
        capture: keep stdout and stderr as `Finished.output`; otherwise they go where ours go.
    """
    start = time.monotonic()
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if capture else {}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True,
        **output,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=seconds)
        status = process.returncode
    except BaseException as error:  # an interrupt must not leave the process behind
        os.killpg(process.pid, 9)
        text, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        status = None
    return Finished(status, text or "", time.monotonic() - start)
