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
RunCall = Callable[[Path, str, str], Outcomes]


@pytest.fixture(scope="module")
def run_call() -> Iterator[RunCall]:
    """Runs a call with a library and a kernel: (seed, kind of error or None, message) by seed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}"}
    command = [sys.executable, "-m", "cuda_emulator.faults"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **streams) as process:

        def run(library: Path, call: str, variant: str) -> Outcomes:
            print(json.dumps([str(library), call, variant]), file=process.stdin, flush=True)
            return [tuple(outcome) for outcome in json.loads(process.stdout.readline())]

        yield run
        process.stdin.close()


@pytest.mark.parametrize("call, variant", sorted({(f.call, f.variant) for f in FAULTS}))
def test_sound_kernels_pass(call: str, variant: str, run_call: RunCall):
    for seed, kind, message in run_call(build_operators("shadow"), call, variant):
        assert kind is None, f"seed {seed}: {message}"


def test_the_list_is_complete():
    assert len(FAULTS) >= 15
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.call for fault in FAULTS} == set(CALLS)


@pytest.mark.rotates()
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_caught(fault: Fault, run_call: RunCall):
    try:
        outcomes = run_call(build_faulty(fault), fault.call, fault.variant)
    finally:
        shutil.rmtree(fault.folder, ignore_errors=True)
    for seed, kind, message in outcomes:
        assert kind in fault.caught, f"seed {seed}: {kind or 'not caught'} {message}"
        print(f"seed {seed}: {kind}: {message}")
