"""Our kernels under pytest-benchmark: what a change did to them.

    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1                # freed memory is kept
    pytest benchmarks/test_kernels.py -k "64-" --benchmark-autosave    # before the change
    pytest benchmarks/test_kernels.py -k "64-" --benchmark-compare     # after it

pytest-benchmark does not interleave: comparisons with competitors are left to ``cpu.py``, whose
cases these are.  With ``--benchmark-disable`` shapes
are tiny and every kernel runs once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent))

from harness.cases import OURS, Case
from on_cpu.worker import CASES

KERNELS = ["kernels", "edges", "transposed", "filters"]


@pytest.mark.parametrize(
    "suite, case",
    [
        pytest.param(suite, case, id=f"{suite}: {case.name}")
        for suite in KERNELS
        for case in CASES[suite]()
    ],
)
@torch.no_grad()
def test_kernel(suite: str, case: Case, benchmark) -> None:
    work = case.build(benchmark.disabled)
    [ours] = [contender for contender in work.contenders if contender.name == OURS]
    call = ours.make()
    call()  # the first one packs weights and allocates
    benchmark.group = suite
    benchmark.extra_info |= {"operations": work.operations, "moved_bytes": work.moved_bytes}
    benchmark(call)
