"""The child process: runs one case after another, as its standard input names them."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import sys
import time
import traceback
from pathlib import Path

from fuzz.target import SANITIZED, SANITIZED_TIMES, Target

ADDRESS_SPACE = 6 << 30
"""Bytes that a child may map besides what it has mapped at its start."""


def limit_memory() -> None:
    """Let allocations fail before the machine suffers, and write no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # it maps terabytes; it has its own limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _memory() -> dict[str, int]:
    """Bytes in use now (VmRSS) and at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(text.split()[0]) << 10 for name, text in pairs}


def run_case(target: Target, seed: int) -> tuple[str, str]:
    """Run one case: (outcome, "") or ("finding", what was found)."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before, start = _memory()["VmRSS"], time.process_time()
    try:
        outcome = target.run(random.Random(f"{target.name} {seed}"))
    except Exception:
        return "finding", traceback.format_exc()
    seconds, growth = time.process_time() - start, _memory()["VmHWM"] - before
    allowed = target.seconds * (SANITIZED_TIMES if SANITIZED else 1)
    if seconds > allowed:
        return "finding", f"took {seconds:.1f} s of processor time, allowed are {allowed} s"
    if growth > target.memory:
        mebibytes = f"{growth >> 20} MiB, allowed are {target.memory >> 20} MiB"
        return "finding", f"raised the memory in use by {mebibytes}"
    return outcome, ""


def serve(targets: dict[str, Target]) -> None:
    """Run the cases that standard input names, one JSON line each; answer likewise."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # decoders write where they like
    faulthandler.enable()
    limit_memory()
    for line in sys.stdin:
        name, seed = json.loads(line)
        print(json.dumps(run_case(targets[name], seed)), file=answers, flush=True)
