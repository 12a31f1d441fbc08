"""The emulator's checker accepts what is right and catches what is wrong, and says where.

The patterns are in cuda_emulator/patterns.cu: an ``accept_`` one must pass, any other end in an
error of the kind its name begins with, naming one of the lines that its comments mark.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_emulator
import pytest
from cuda_emulator.build import HERE, build_test_library

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
SOURCE = HERE / "patterns.cu"
PATTERNS = re.findall(r"PATTERN\((\w+), \d", SOURCE.read_text())
KINDS = {
    "race": "race",
    "uninitialised": "uninitialised",
    "out_of_bounds": "out of bounds",
    "undefined": "undefined behaviour",
    "copy": "copy in flight",
    "divergent_barrier": "divergent barrier",
    "divergent": "divergent warp",
    "bad_mask": "bad mask",
    "bad_shuffle": "bad shuffle",
    "deadlock": "deadlock",
    "misaligned": "misaligned",
    "trap": "trap",
    "launch": "launch",
}
ACCEPTED = [name for name in PATTERNS if name.startswith("accept_")]
CAUGHT = [name for name in PATTERNS if not name.startswith("accept_")]
SEEDS = [0, 1, 2, 3]


def kind_of(name: str) -> str:
    return next(kind for prefix, kind in KINDS.items() if name.startswith(prefix))


def marked_lines(name: str) -> set[int]:
    """The lines of a pattern's kernel that carry the comment ``here``."""
    lines = SOURCE.read_text().splitlines()
    first = next(i for i, text in enumerate(lines) if f"void {name}(" in text)
    last = next(i for i in range(first, len(lines)) if lines[i] == "}")
    return {i + 1 for i in range(first, last) if lines[i].endswith("// here")}


@pytest.fixture(scope="module")
def shadow() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_test_library(SOURCE, "shadow")))
    library.last_error.restype = ctypes.c_char_p
    return library


def run(library: ctypes.CDLL, name: str, seed: int) -> str | None:
    """The checker's report, or None."""
    library.set_seed(seed)
    return library.last_error().decode() if library.pattern(name.encode()) else None


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(shadow, name):
    for seed in SEEDS:
        assert run(shadow, name, seed) is None


@pytest.mark.parametrize("name", CAUGHT)
def test_caught(shadow, name):
    lines = marked_lines(name)
    assert lines, f"{name} marks no line"
    for seed in SEEDS:
        report = run(shadow, name, seed)
        assert report is not None, f"not caught with seed {seed}"
        assert report.startswith(f"CUDA emulator: {kind_of(name)}: "), report
        named = {int(number) for number in re.findall(r"patterns\.cu:(\d+)", report)}
        assert named & lines, report
        assert re.search(r"block \(\d+,\d+,\d+\), thread \(\d+,\d+,\d+\), seed", report), report


def test_a_race_names_both_lines(shadow):
    report = run(shadow, "race_broadcast_reused", 0)
    assert {int(n) for n in re.findall(r"patterns\.cu:(\d+)", report)} == marked_lines(
        "race_broadcast_reused"
    )
    assert "write after read on shared memory" in report


def test_impossible_launch_is_refused(shadow):
    assert "launch: a block of 1025x1x1 threads" in run(shadow, "launch", 0)


def test_runs_again_after_an_error(shadow):
    assert run(shadow, "trap", 0) is not None
    assert run(shadow, "accept_copy_ring", 0) is None


# ---- The build for AddressSanitizer, which must be loaded before Python itself ----

PROGRAM = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.last_error.restype = ctypes.c_char_p
for name in sys.argv[2:]:
    for seed in range(3):
        library.set_seed(seed)
        if library.pattern(name.encode()):
            sys.exit(f"{name}: {library.last_error().decode()}")
"""
ASAN_CAUGHT = {
    "out_of_bounds_past_the_end": "heap-buffer-overflow",
    "out_of_bounds_null": "SEGV",
    "out_of_bounds_arena_neighbour": "use-after-poison",
    "out_of_bounds_arena_too_small": "out of bounds",
    "out_of_bounds_copy_to_global": "out of bounds",
    "undefined_static_index": "global-buffer-overflow",
    "divergent_mma": "divergent warp",
}


# The day of test_cuda_asan.py, which builds the emulator for it, too.
asan_day = pytest.mark.rotates(turn=0, turns=16)


@pytest.fixture(scope="module")
def asan() -> Path:
    return build_test_library(SOURCE, "asan")


def run_with_asan(library: Path, *names: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **cuda_emulator.asan_environment()}
    command = [sys.executable, "-c", PROGRAM, str(library), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@asan_day
def test_accepted_by_asan(asan):
    result = run_with_asan(asan, *ACCEPTED)
    assert result.returncode == 0, result.stderr


@asan_day
@pytest.mark.parametrize("name", ASAN_CAUGHT)
def test_caught_by_asan(asan, name):
    result = run_with_asan(asan, name)
    assert result.returncode != 0
    assert ASAN_CAUGHT[name] in result.stderr, result.stderr
