"""What is measured in which process, and for how long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

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
class Subject:
    title: str
    share: float  # of the whole time; of ten minutes, so many seconds
    allocator: str = "warm"
    settings: tuple[tuple[str, str], ...] = ()


SUBJECTS = {
    "nets": Subject("Whole networks, warm allocator", 230),
    "stock": Subject("A whole network, stock allocator", 55, "stock"),
    "kernels": Subject("Convolutions", 80),
    "edges": Subject("First and last layers", 15),
    "transposed": Subject("Transposed convolutions", 15),
    "filters": Subject("Filters", 75),
    "training": Subject("A training step: forward, backward, Adam", 50),
    "quality": Subject("What it costs in quality", 40),
    "avx2": Subject("Everyone held to AVX2", 15, "warm", tuple(AVX2.items())),
}


def environment(subject: Subject, threads: int) -> dict[str, str]:
    """This process's environment, without what would change allocator or instruction set."""
    kept = {k: v for k, v in os.environ.items() if k not in WARM and k not in AVX2}
    kept["DENOISE_EXT_CACHE"] = "off"  # each run decides by its own clock
    kept |= WARM if subject.allocator == "warm" else {}
    return kept | dict(subject.settings) | {"OMP_NUM_THREADS": str(threads)}


def measure(
    name: str, seconds: float, threads: int, tiny: bool = False, only: str = ""
) -> dict[str, object]:
    """Run a subject in a process; what it found, as far as it came."""
    subject, start = SUBJECTS[name], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines")
        lines.touch()
        command = [sys.executable, str(WORKER), name, f"--seconds={seconds}"]
        command += [f"--threads={threads}", f"--lines={lines}", f"--only={only}"]
        problem = None
        try:
            done = subprocess.run(
                [*command, *(["--tiny"] if tiny else [])],
                env=environment(subject, threads),
                timeout=None if tiny else seconds + GRACE,
            )
            if done.returncode:
                problem = f"the process ended with status {done.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"stopped after {seconds + GRACE:.0f} s"
        records = [json.loads(line) for line in lines.read_text().splitlines()]
    first, *cases = records or [{}]
    return first | {
        "title": subject.title,
        "allocator": subject.allocator,
        "settings": dict(subject.settings),
        "seconds": time.monotonic() - start,
        "problem": problem,
        "only_cases": only,
        "cases": cases,
    }
