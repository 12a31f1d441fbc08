"""The emulated CUDA kernels under AddressSanitizer: what the shadow build cannot see.

Arrays in static shared memory that run into each other, local arrays, host code.  Its library must
be loaded before Python, hence the process of its own; there the tests of the operators run on the
emulated kernels and nothing else.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import cuda_emulator
import pytest
import rotation
from cases import CASES
from cuda_emulator.build import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())),
    pytest.mark.skipif(cuda_emulator.is_forced(), reason="this process tests one build only"),
]


@pytest.fixture
def run_tests(pytestconfig: pytest.Config):
    """Runs the tests that -k selects, those of this run's rotation."""
    seed = pytestconfig.stash[rotation.SEED]
    rotated = ["--all"] if seed is None else ["--rotation", str(seed)]
    return functools.partial(run_chosen_tests, rotated)


def run_chosen_tests(options: list[str], chosen: str, *files: str) -> None:
    environment = {**os.environ, **cuda_emulator.asan_environment()}
    environment["DENOISE_EXT_CUDA_EMULATION"] = "asan"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen]
    result = subprocess.run(
        [*command, *options, *files], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-8000:]


@pytest.mark.parametrize("name", CASES)
def test_operators(name, run_tests):
    run_tests(
        f"cuda-emulated and -{name}- and test_matches_reference and (float32 or float16)",
        "tests/ops/test_ops_forward.py", "tests/ops/test_ops_gradients.py",
    )  # fmt: skip


def test_offsets_beyond_32_bits(run_tests):
    run_tests("cuda-emulated", "tests/ops/test_large_offsets.py")
