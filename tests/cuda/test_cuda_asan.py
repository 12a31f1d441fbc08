"""The emulated CUDA kernels under AddressSanitizer: what the shadow build cannot see.

Arrays in static shared memory that run into each other, local arrays, host code.  Its library must
be loaded before Python, hence the process of its own; there the tests of the operators run on the
emulated kernels and nothing else.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import cuda_emulator
import pytest
import rotation
from cuda_emulator.build import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rotates(turn=0, turns=16),  # a build of the kernels of its own
    pytest.mark.skipif(cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())),
    pytest.mark.skipif(cuda_emulator.is_forced(), reason="this process tests one build only"),
]


# -k of one run: a process of its own takes seconds to start.
SELECTED = {
    "(cuda-emulated and test_matches_reference and (float32 or float16))": (
        "tests/ops/test_ops_forward.py",
        "tests/ops/test_ops_gradients.py",
    ),
    "(test_forward and (k3s2 or groups or k4s2_to_3 or 11x11) and (float32-90 or float16-90))": (
        "tests/cuda/test_cuda_gemm.py",
    ),
    "(test_large_offsets and cuda-emulated)": ("tests/ops/test_large_offsets.py",),
}


def test_nothing_is_found(pytestconfig: pytest.Config):
    """In what -k selects of this run's rotation."""
    seed = pytestconfig.stash[rotation.SEED]
    rotated = ["--all"] if seed is None else ["--rotation", str(seed)]
    environment = {**os.environ, **cuda_emulator.asan_environment()}
    environment["DENOISE_EXT_CUDA_EMULATION"] = "asan"
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *rotated]
    command += ["-k", " or ".join(SELECTED), *itertools.chain(*SELECTED.values())]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-8000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed[1]) >= 100, result.stdout[-8000:]
