"""benchmarks/gpu.py: all of it without a GPU, so that it does not fail on one for a typo."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import create_autospec

import cuda_emulator
import cuda_report
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from harness import processes  # noqa: E402
from harness.cases import OURS, Contender, Work  # noqa: E402
from harness.report import verdicts  # noqa: E402
from harness.worker import set_up  # noqa: E402
from on_gpu import machine as machines  # noqa: E402
from on_gpu import plain, report, sections, worker  # noqa: E402

needs_emulator = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=cuda_emulator.missing() or ""
)


@pytest.mark.slow
@needs_emulator
@pytest.mark.rotates(turn=2)
def test_dry_run(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--output", tmp_path]
    done = subprocess.run(
        [*map(str, command), "--name", "x"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "x.json").read_text())
    named = {case["case"]: case["status"] for case in summary["cases"]}
    assert set(named) == {case.name for case in worker.all_cases()}
    assert set(named.values()) <= {"timed", "skipped"}
    skipped = [case["note"] for case in summary["cases"] if case["status"] == "skipped"]
    assert all("has no CUDA kernel" in note for note in skipped)
    outcomes = {section["name"]: section["status"] for section in summary["sections"]}
    assert outcomes["primitives"] == outcomes["tests: conv2d"] == outcomes["timing"] == "passed"
    # The filters' take kernels of more than a thousand taps, which nobody waits for; conv_direct
    # takes what no other kernel can.
    unused = {"conv_direct", "gaussian_direct", "gaussian_sigma_grad_direct"}
    assert set(summary["kernels_without_a_case"]) <= unused
    times = [one.get("median") for case in summary["cases"] for one in case["contenders"].values()]
    assert set(times) == {None}  # no clock, no claim
    text = (tmp_path / "x.md").read_text()
    assert "dry run" in text
    assert len({name for name in named if name in text}) == len(named)


# --- what it needs --------------------------------------------------------------------------------

# Installed packages that neither torch, numpy and pytest are nor need are not there.
BARE = """
import importlib.metadata as metadata, re, sys
def normal(name): return re.sub(r"[-_.]+", "-", name).lower()
needed, new = set(), ["torch", "numpy", "pytest", "denoise-ext"]
while new:
    name = normal(new.pop())
    if name in needed:
        continue
    needed.add(name)
    if name != "denoise-ext":
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        new += [re.match(r"[\\w.-]+", r)[0] for r in requirements if "extra ==" not in r]
installed = metadata.packages_distributions()
refused = {m for m, names in installed.items() if not needed & {normal(n) for n in names}}
assert {"PIL", "pybind11", "safetensors"} <= refused and not {"torch", "pluggy"} & refused
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in refused else self.finder.find_spec(name, *rest)
sys.meta_path[:] = map(Without, sys.meta_path)
"""
COLLECTS = """
import os, pytest
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
sys.path.append("benchmarks")
import gpu, on_gpu.worker
sys.exit(pytest.main(["--collect-only", "-qq", *sys.argv[1:]]))
"""
SETS_UP = """
sys.argv = ["setup.py", "--name"]
exec(compile(open("setup.py").read(), "setup.py", "exec"))
"""


def test_it_needs_torch_numpy_and_pytest_alone():
    files = ["tests/cuda/test_cuda_primitives.py", "tests/cuda/test_cuda_device.py"]
    files += sections.operator_tests(False)
    done = sections.run([sys.executable, "-c", BARE + COLLECTS, *files], 300)
    assert done.status == 0, done.output
    assert "test_ops_forward.py" in done.output


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")
def test_the_build_needs_torch_alone():
    done = sections.run([sys.executable, "-c", BARE.replace('"denoise-ext"]', '"setuptools"]')
                         + SETS_UP], 300)  # fmt: skip
    assert done.status == 0 and "denoise_ext" in done.output, done.output


# --- what a dry run does not reach: the calls of torch.cuda --------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A Gpu whose torch.cuda only checks how it is called; every replay takes half a ms."""
    names = ("Event", "Stream", "CUDAGraph", "graph", "stream", "current_stream", "synchronize",
             "empty_cache", "current_device", "get_device_properties")  # fmt: skip
    for name in names:
        monkeypatch.setattr(torch.cuda, name, create_autospec(getattr(torch.cuda, name)))
    torch.cuda.Event.return_value.elapsed_time.return_value = 0.5
    properties = torch.cuda.get_device_properties.return_value
    properties.L2_cache_size, properties.name = 50 * 2**20, "Test"
    properties.major, properties.minor, properties.total_memory = 9, 0, 2**37
    properties.multi_processor_count = 132
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    one = machines.Gpu()
    one.device, one.explained_as = "cpu", "sm_90"
    one.compile = lambda function: function
    yield one
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def test_calls_are_recorded_in_a_graph_and_timed_by_events(gpu):
    calls = []
    recorded = machines.prepare(gpu, [lambda i=i: calls.append(i) for i in range(3)])
    assert calls == [0, 1, 0, 1, 2]  # warmed up, then recorded
    assert recorded.by_graph and recorded.calls == 3
    timing = machines.compare(gpu, {"a": recorded, "b": recorded}, 5)["a"]
    assert timing.median == pytest.approx(5e-4 / 3)  # seconds
    assert timing.low == timing.high == timing.median
    assert torch.cuda.CUDAGraph.return_value.replay.call_count > 10
    json.dumps(gpu.facts())


def test_short_calls_are_repeated(gpu):
    torch.cuda.Event.return_value.elapsed_time.return_value = 0.02
    recorded = machines.prepare(gpu, [lambda: None] * 2)
    assert recorded.calls == 2 * (int(0.3 / 0.02) + 1)


def test_what_cannot_be_recorded_is_called(gpu):
    torch.cuda.graph.return_value.__exit__.side_effect = RuntimeError("not permitted")
    calls = []
    recorded = machines.prepare(gpu, [lambda: calls.append(1)])
    before = len(calls)
    recorded.replay()
    assert not recorded.by_graph and len(calls) == before + 1


def test_tensors_take_turns_until_the_cache_holds_none(gpu):
    assert gpu.set_count(2**20) == machines.MOST_CALLS
    assert gpu.set_count(50 * 2**20) == machines.L2_MULTIPLE
    assert gpu.set_count(2**33) == 2


@pytest.mark.slow
@needs_emulator
def test_cases_as_on_a_gpu(gpu, monkeypatch):
    gpu.operators = cuda_emulator.emulated_cuda
    monkeypatch.setattr(worker, "kernel_devices", lambda name: {"cuda"})
    monkeypatch.setattr(machines.Gpu, "set_count", lambda self, size: 2)
    runner = worker.Runner(gpu, time.monotonic() + 3600, own_only=False, tiny=True)
    case = next(c for c in worker.all_cases() if c.name.startswith("3->64 3x3 1080p, float16"))
    with torch.inference_mode(), cuda_emulator.emulated_cuda():
        record = runner.run(case)
        runner.own_only = True  # as under compute-sanitizer
        assert runner.run(case)["contenders"] == {}
    assert record["status"] == "timed"
    assert record["contenders"][OURS]["median"] > 0
    assert "GPUs only" in record["contenders"]["cuDNN fused"]["absent"]
    peaks = {"bf16": 7e5, "tf32": 3.5e5, "float32": 5e4}
    top = {"copy_gb_per_s": 4000.0, "gflop_per_s": peaks}
    [verdict] = verdicts({"g": [record]}, {"g": top})
    seconds = record["contenders"][OURS]["median"]
    assert verdict.rival == "85 us" and verdict.reached == pytest.approx(85e-6 / seconds)
    text = report.markdown(
        {"provenance": {}, "sections": [], "ceilings": top, "cases": [record],
         "kernels_without_a_case": []}
    )  # fmt: skip
    assert case.name in text and "## Targets: " in text


@pytest.mark.slow
@pytest.mark.skipif(cuda_report.find_tool("nvcc") is None, reason="nvcc is not installed")
def test_plain_filters_compile(tmp_path):
    plain.compile_with_nvcc("90", tmp_path / "plain.so")


def test_the_worker_takes_what_the_steps_give_it(tmp_path):
    command = sections.sanitizer_command("memcheck", "compute-sanitizer", tmp_path / "lines")
    worker_arguments = command[command.index(str(sections.WORKER)) :]
    done = sections.run([sys.executable, *worker_arguments, "--seconds=0", "--skip"], 120)
    assert "usage:" not in done.output
    if not torch.cuda.is_available():
        assert done.status == 1 and "CUDA" in done.output


# --- time and failures ---------------------------------------------------------------------------


def test_a_step_is_ended_when_its_time_is_up():
    done = sections.run([sys.executable, "-c", "import signal; signal.pause()"], 1)
    assert done.status is None  # it would never have ended by itself
    with pytest.raises(TimeoutError, match="stopped after"), machines.time_limit(0.1):
        signal.pause()


@pytest.mark.parametrize("output, status", [("..s [ 40%]\n.x", "skipped"), (".F.", "failed")])
def test_tests_cut_off_are_skipped_unless_one_has_failed(monkeypatch, output, status):
    monkeypatch.setattr(sections, "run", lambda *_, **__: processes.Finished(None, output, 8.0))
    outcome = sections.pytest("x", ["test_it.py"], "test", False, 8)
    assert (outcome.status, outcome.note) == (status, "not done after 8 s")


BEGINS_A_CASE = """
import json, sys
output = next(a for a in sys.argv if a.startswith("--output=")).partition("=")[2]
with open(output, "a") as f:
    f.write(json.dumps({"started": "one"}) + "\\n")
"""


def test_a_case_cut_off_is_skipped(tmp_path, monkeypatch):
    script, lines = tmp_path / "worker.py", tmp_path / "lines"
    script.write_text(BEGINS_A_CASE)
    lines.touch()

    def cut_off(command: list[str], seconds: float) -> sections.Finished:
        subprocess.run(command, check=True)  # partial results are enough; a slow machine has fewer
        return sections.Finished(None, "", seconds)

    monkeypatch.setattr(sections, "WORKER", script)
    monkeypatch.setattr(sections, "run", cut_off)
    assert sections.timing(False, 5, lines).status == "skipped"
    record = json.loads(lines.read_text().splitlines()[-1])
    assert (record["case"], record["status"]) == ("one", "skipped")
    assert "time was up" in record["note"]


LOSES_ITS_CONTEXT = """
import argparse, json
p = argparse.ArgumentParser()
p.add_argument("--output"); p.add_argument("--seconds"); p.add_argument("--skip", nargs="*")
p.add_argument("--dry-run", action="store_true")
a = p.parse_args()
for case in ("one", "two", "three"):
    if case in a.skip:
        continue
    with open(a.output, "a") as f:
        f.write(json.dumps({"started": case}) + "\\n")
        if case == "two":
            raise SystemExit(3)
        f.write(json.dumps({"case": case, "group": "g", "status": "timed"}) + "\\n")
"""


def test_after_a_lost_context_the_rest_still_runs(tmp_path, monkeypatch):
    script, lines = tmp_path / "worker.py", tmp_path / "lines"
    script.write_text(LOSES_ITS_CONTEXT)
    lines.touch()
    monkeypatch.setattr(sections, "WORKER", script)
    assert sections.timing(False, 60, lines).status == "passed"
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {r["case"]: r["status"] for r in records if "case" in r} == {
        "one": "timed", "two": "failed", "three": "timed",
    }  # fmt: skip


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "gpu.py: there is no GPU that PyTorch can use (--dry-run works without)"
    )


def test_errors_that_lose_the_context_are_raised():
    def lost():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    work = Work([Contender(OURS, lambda: [lost])], 1.0, 1.0, 1e-3)
    with pytest.raises(RuntimeError, match="illegal memory"):
        set_up(work, fatal=worker.is_lost)
    ready, records = set_up(work)
    assert ready == {} and "illegal memory" in records[OURS]["failed"]


def test_a_contender_that_takes_too_long_is_absent(monkeypatch):
    monkeypatch.setattr(worker, "CONTENDER_SECONDS", 1.05)
    fast = Contender(OURS, lambda: [lambda: torch.ones(3)])
    slow = Contender("slow", lambda: time.sleep(30))
    work = Work([fast, slow], 1.0, 1.0, 1e-3)
    machine = create_autospec(machines.Gpu, instance=True, dry=False)
    for seconds, reasons in ((60.0, [None, "stopped after 1 s"]), (0.5, [worker.NO_TIME] * 2)):
        runner = worker.Runner(machine, time.monotonic() + seconds, False, True)
        ready, records = set_up(work, finish=len, guard=lambda one, r=runner: r._limit(False))
        assert [records[one.name].get("absent") for one in work.contenders] == reasons
        assert ready == ({OURS: 1} if reasons[0] is None else {})


def test_case_names_are_distinct():
    names = [case.name for case in worker.all_cases()]
    assert len(set(names)) == len(names)
