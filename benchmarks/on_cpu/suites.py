"""What is measured in which process, and for how long."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness import processes, records

WORKER = Path(__file__).with_name("worker.py")
GRACE = 60.0  # seconds beyond its share after which a process is ended

# glibc gives large blocks back to the system when they are freed, and gets them zeroed, page by
# page, with the next allocation. With these settings it keeps them.
WARM = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
AVX2 = {
    "DENOISE_EXT_CPU_ISA": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}


@dataclass(frozen=True)
class Suite:
    title: str
    share: float  # of the whole time; of ten minutes, so many seconds
    allocator: str = "warm"
    settings: tuple[tuple[str, str], ...] = ()


SUITES = {
    "nets": Suite("Whole networks, warm allocator", 230),
    "stock": Suite("A whole network, stock allocator", 55, "stock"),
    "kernels": Suite("Convolutions", 80),
    "edges": Suite("First and last layers", 15),
    "transposed": Suite("Transposed convolutions", 15),
    "filters": Suite("Filters", 75),
    "training": Suite("A training step: forward, backward, Adam", 50),
    "quality": Suite("What it costs in quality", 40),
    "avx2": Suite("Everyone held to AVX2", 15, "warm", tuple(AVX2.items())),
}


def environment(suite: Suite, threads: int) -> dict[str, str]:
    """This process's environment, without what would change allocator or instruction set."""
    kept = {k: v for k, v in os.environ.items() if k not in WARM and k not in AVX2}
    kept["DENOISE_EXT_CACHE"] = "off"  # each run decides by its own clock
    kept |= WARM if suite.allocator == "warm" else {}
    return kept | dict(suite.settings) | {"OMP_NUM_THREADS": str(threads)}


def measure(
    name: str, seconds: float, threads: int, tiny: bool = False, only: str = ""
) -> dict[str, object]:
    """Run a suite in a process; what it found, as far as it came."""
    suite, start = SUITES[name], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines")
        lines.touch()
        command = [sys.executable, str(WORKER), name, f"--seconds={seconds}"]
        command += [f"--threads={threads}", f"--lines={lines}", f"--only={only}"]
        limit = None if tiny else seconds + GRACE
        done = processes.run(
            [*command, *(["--tiny"] if tiny else [])], limit, environment(suite, threads),
            capture=False,
        )  # fmt: skip
        found = records.read(lines)
    problem = None
    if done.status is None:
        problem = f"stopped after {seconds + GRACE:.0f} s"
    elif done.status:
        problem = f"the process ended with status {done.status}"
    first, *cases = found or [{}]
    return first | {
        "title": suite.title,
        "allocator": suite.allocator,
        "settings": dict(suite.settings),
        "seconds": time.monotonic() - start,
        "problem": problem,
        "only_cases": only,
        "cases": cases,
    }
