"""Our kernels under pytest-benchmark: what a change did to them.

    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1                # freed memory is kept
    pytest benchmarks/test_kernels.py -k "64-" --benchmark-autosave    # before the change
    pytest benchmarks/test_kernels.py -k "64-" --benchmark-compare     # after it

pytest-benchmark runs one test after the other and cannot take turns, so that rivals, and the ratios
to them, are the affair of ``cpu.py``, whose cases these are.  With ``--benchmark-disable`` shapes
are tiny and every kernel runs once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent))

from on_cpu.cases import OURS, Case
from on_cpu.worker import CASES

KERNELS = ["kernels", "edges", "transposed", "filters"]


@pytest.mark.parametrize(
    "subject, case",
    [
        pytest.param(subject, case, id=f"{subject}: {case.name}")
        for subject in KERNELS
        for case in CASES[subject]()
    ],
)
@torch.no_grad()
def test_kernel(subject: str, case: Case, benchmark) -> None:
    work = case.build(benchmark.disabled)
    [ours] = [contender for contender in work.contenders if contender.name == OURS]
    call = ours.make()
    call()  # the first one packs weights and allocates
    benchmark.group = subject
    benchmark.extra_info |= {"operations": work.operations, "moved_bytes": work.moved_bytes}
    benchmark(call)
