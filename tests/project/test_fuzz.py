"""The fuzzers (fuzz/): a short run of each, and what their runner must notice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fuzz import runner
from fuzz.runner import TESTS, Run
from fuzz.target import REFUSED, RESULT, Target
from fuzz.targets import all_targets

from denoise_ext._loader import native_error

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")

SEED = int(os.environ.get("DENOISE_EXT_FUZZ_SEED", "20240607"))
# Cases of a target: about 30 s of processor time for all of them.
CASES = {
    "operators": 40,
    "images": 60,
    "videos": 15,
    "checkpoints": 40,
    "manifests": 40,
    "uploads": 40,
}
TARGETS = [] if native_error() else all_targets()


def group(target: Target) -> str:
    return target.name.split("/")[0].split("-")[0]


@pytest.mark.slow
@pytest.mark.rotates()
@pytest.mark.parametrize("name", CASES)
def test_short_run(name):
    """No finding; and each target gets both results and refusals, or it would show nothing."""
    targets = [target for target in TARGETS if group(target) == name]
    if not targets:
        pytest.skip(f"{name}: a package that they need is not installed")
    run = Run(targets, SEED, cases=CASES[name])
    assert [str(finding) for finding in run.run()] == []
    for target, count in run.counts.items():
        assert count.cases == CASES[name], target
        assert count.outcomes[RESULT] > 0, f"{target}: nothing but errors"
        assert count.outcomes[REFUSED] > 0, f"{target}: nothing is ever refused"


def test_every_operator_and_format_has_a_target():
    from denoise_ext import io
    from denoise_ext._loader import native

    names = {target.name for target in TARGETS}
    for isa in native().isa_available():
        kinds = ("operators", "operators-raw", "operators-backward", "operators-out")
        assert {f"{kind}/{isa}" for kind in kinds} <= names
    assert {f"images/{codec.name}" for codec in io.CODECS if codec.write} <= names


# Targets that go wrong, each in a way of its own, for a child of the runner.
BAD = """
import os, sys, time
sys.path.insert(0, {tests!r})
from fuzz.target import RESULT, Target
from fuzz.worker import serve

KEPT = []

def crash(rng):
    os.kill(os.getpid(), 11)

def hang(rng):
    time.sleep(100)

def busy(rng):
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    return RESULT

def memory(rng):
    KEPT.append(b"x" * (64 << 20))
    return RESULT

def wrong(rng):
    raise ZeroDivisionError(rng.random())

def fine(rng):
    return RESULT

print("ready", flush=True)
serve({{f.__name__: Target(f.__name__, f, seconds=0.3, memory=32 << 20)
       for f in (crash, hang, busy, memory, wrong, fine)}})
"""


@pytest.mark.parametrize(
    "name, text",
    [
        ("crash", "SIGSEGV"), ("hang", "hangs"), ("busy", "processor time"),
        ("memory", "MiB, allowed are 32"), ("wrong", "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_found_and_the_run_goes_on(name, text):
    child = (sys.executable, "-c", BAD.format(tests=str(TESTS)))
    patience = 1.0 if name == "hang" else 60.0
    targets = [Target(n, lambda rng: RESULT, patience=patience) for n in (name, "fine")]
    lines: list[str] = []
    run = Run(targets, 3, cases=2, child=child, report=lines.append)
    findings = run.run()
    assert [(f.target, f.seed) for f in findings] == [(name, 3), (name, 4)]
    for finding in findings:
        assert text in finding.text
        assert finding.command.endswith(f"--case {name}:{finding.seed}")
        assert str(finding) in lines
    assert run.counts["fine"].outcomes == {RESULT: 2, REFUSED: 0}


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(100)", "import sys; sys.exit('no module')"]
)
def test_a_child_that_does_not_start_ends_the_run(code, monkeypatch):
    monkeypatch.setattr(runner, "STARTING", 5.0)
    targets = [Target("fine", lambda rng: RESULT)]
    run = Run(targets, 3, cases=2, child=(sys.executable, "-c", code), report=lambda line: None)
    with pytest.raises(RuntimeError, match="the process ended with"):
        run.run()


def test_a_case_is_repeated_by_one_command():
    command = [sys.executable, str(TESTS / "fuzz"), "--case", "images/PNM:7"]
    printed = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    ]
    assert printed[0] == printed[1]
    assert printed[0].splitlines()[-1] in ("images/PNM:7: result", "images/PNM:7: refused")
