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
from collections.abc import Callable, Iterator
from pathlib import Path

import cuda_emulator
import pytest
from cuda_emulator.build import HERE, ROOT, build_operators
from cuda_emulator.faults.build import Fault, build_faulty, read_faults
from cuda_emulator.faults.calls import CALLS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())),
]
FAULTS = read_faults()
Outcomes = list[tuple[int, str | None, str]]
RunCall = Callable[[Path, str, str, int], Outcomes]


@pytest.fixture(scope="module")
def run_call() -> Iterator[RunCall]:
    """Runs a call with a library and a kernel: (seed, kind of error or None, message) by seed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}"}
    command = [sys.executable, "-m", "cuda_emulator.faults"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **streams) as process:

        def run(library: Path, call: str, variant: str, multiprocessors: int) -> Outcomes:
            print(
                json.dumps([str(library), call, variant, multiprocessors]),
                file=process.stdin,
                flush=True,
            )
            return [tuple(outcome) for outcome in json.loads(process.stdout.readline())]

        yield run
        process.stdin.close()


@pytest.mark.rotates(turns=8)
@pytest.mark.parametrize(
    "call, variant, multiprocessors",
    sorted({(f.call, f.variant, f.multiprocessors) for f in FAULTS}),
)
def test_sound_kernels_pass(call: str, variant: str, multiprocessors: int, run_call: RunCall):
    library = build_operators("shadow")
    for seed, kind, message in run_call(library, call, variant, multiprocessors):
        assert kind is None, f"seed {seed}: {message}"


def test_the_list_is_complete():
    assert len(FAULTS) >= 100
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.call for fault in FAULTS} == set(CALLS)


@pytest.mark.rotates(turns=96)  # each is a build
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_caught(fault: Fault, run_call: RunCall):
    try:
        library = build_faulty(fault)
        outcomes = run_call(library, fault.call, fault.variant, fault.multiprocessors)
    finally:
        shutil.rmtree(fault.folder, ignore_errors=True)
    for seed, kind, message in outcomes:
        assert kind in fault.caught, f"seed {seed}: {kind or 'not caught'} {message}"
        print(f"seed {seed}: {kind}: {message}")
