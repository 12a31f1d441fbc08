"""Faults put into the real kernels are caught: by the checker, or by a wrong result.

A fault whose text is gone because its kernel has changed fails here, to be brought up to date in
cuda_emulator/faults/faults.toml.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cuda_emulator
import pytest
from cuda_emulator.build import HERE, JOBS, ROOT
from cuda_emulator.faults.build import Fault, build_faulty, read_faults
from cuda_emulator.faults.calls import CALLS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())),
]
FAULTS = read_faults()


def outcomes(*calls: str, library: Path | None = None) -> list[list]:
    """[call, seed, kind of error or None, message] of each call and seed, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}"}
    if library is not None:
        environment["DENOISE_EXT_EMULATED_LIBRARY"] = str(library)
    command = [sys.executable, "-m", "cuda_emulator.faults", *calls]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_sound_kernels_pass():
    for call, seed, kind, message in outcomes(*CALLS):
        assert kind is None, f"{call}, seed {seed}: {message}"


def test_the_list_is_long_enough():
    assert len(FAULTS) >= 15
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def try_fault(fault: Fault) -> list[list]:
    """Build the kernels with the fault, run its call."""
    try:
        return outcomes(fault.call, library=build_faulty(fault))
    finally:
        shutil.rmtree(fault.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def trials(request: pytest.FixtureRequest) -> Iterator[dict[str, Future]]:
    """The outcomes of all selected faults, on their way: compiling them is most of the work."""
    items = [item for item in request.session.items if item.path == request.path]
    chosen = [item.callspec.params["fault"] for item in items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(JOBS) as pool:
        yield {fault.name: pool.submit(try_fault, fault) for fault in chosen}
        pool.shutdown(cancel_futures=True)  # where the run stops at the first failure


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_caught(fault: Fault, trials: dict[str, Future]):
    for _, seed, kind, message in trials[fault.name].result():
        assert kind in fault.caught, f"seed {seed}: {kind or 'not caught'} {message}"
