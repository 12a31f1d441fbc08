"""benchmarks/cpu.py: all of it with tiny shapes, so that it does not fail for a typo."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from denoise_ext import _timing  # noqa: E402
from denoise_ext._loader import native_error  # noqa: E402
from harness import networks  # noqa: E402
from harness.cases import OURS, Absent, Case, Contender, Target, Work  # noqa: E402
from harness.report import losses, verdicts  # noqa: E402
from on_cpu import competitors, machine, plots, report, suites, worker  # noqa: E402

needs_native = pytest.mark.skipif(native_error() is not None, reason=native_error() or "")


@pytest.mark.slow
@needs_native
@pytest.mark.rotates(turns=8)
@pytest.mark.parametrize("suite", suites.SUITES)
def test_dry_run(tmp_path, suite):
    command = [sys.executable, "benchmarks/cpu.py", "--dry-run", "--output", tmp_path]
    done = subprocess.run(
        [*map(str, command), "--only", suite, "--name", "x", "--threads", "2"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "x.json").read_text())["subjects"]
    text = (tmp_path / "x.md").read_text()
    assert "dry run" in text
    if suite == "quality":
        [record] = found[suite]["cases"]
        assert record["status"] == "dry" and record["contenders"]["torch"]["largest_change"] == 0
        return
    names = [case.name for case in worker.CASES[suite]()]
    assert [case["case"] for case in found[suite]["cases"]] == names
    assert all(name in text for name in names)
    for case in found[suite]["cases"]:
        assert case["status"] == "dry"
        assert set(case["contenders"][OURS]) == {"difference"}
        for one in case["contenders"].values():
            assert "median" not in one  # no clock, no claim
            assert "not installed" in one.get("absent", "not installed")


@needs_native
def test_kernels_under_pytest_benchmark():
    command = ["-m", "pytest", "-p", "no:cacheprovider", "--benchmark-disable"]
    done = subprocess.run(
        [sys.executable, *command, "benchmarks/test_kernels.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = ("kernels", "edges", "transposed", "filters")
    assert f"{sum(len(worker.CASES[name]()) for name in kernels)} passed" in done.stdout


def test_every_suite_has_cases_and_a_share():
    assert {*worker.CASES, "quality"} == set(suites.SUITES)
    assert 540 <= sum(suite.share for suite in suites.SUITES.values()) <= 600


def test_every_target_names_contenders_that_can_be_there():
    for make in worker.CASES.values():
        for case in make():
            names = {contender.name for contender in case.build(True).contenders}
            assert OURS in names
            for target in case.targets:
                assert {*target.rivals, target.ours} <= names, case.name


def test_a_runtime_that_is_not_installed_says_so():
    with pytest.raises(Absent, match="no_such_runtime is not installed"):
        competitors.need("no_such_runtime")


# --- one case ------------------------------------------------------------------------------------


def missing():
    raise Absent("it is not installed")


def work(*contenders: Contender) -> Work:
    return Work(list(contenders), 2e6, 1e6, tolerance=1e-3)


class Clock:
    """The time as a test wants it, in place of the module `time`."""

    def __init__(self, monkeypatch) -> None:
        self.now = self.own = self.others = 0.0
        monkeypatch.setattr(_timing, "time", self)
        monkeypatch.setattr(_timing, "busy_seconds", lambda: self.own + self.others)

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.own

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def call(self, seconds: float, own: float = 0.0, others: float = 0.0) -> Callable[[], None]:
        """A call that takes so long, with so much CPU time of ours and of other processes."""

        def pass_time():
            self.now += seconds
            self.own += own
            self.others += others

        return pass_time


def test_only_who_computes_the_same_is_timed(monkeypatch):
    monkeypatch.setattr(_timing, "SHORTEST_TURN", 1e-4)
    x = torch.linspace(0, 1, 8)
    cast = work(
        Contender("first", lambda: lambda: x),
        Contender(OURS, lambda: lambda: x + 5e-4),
        Contender("wrong", lambda: lambda: x + 2e-3),
        Contender("not a number", lambda: lambda: x / 0 * 0),
        Contender("another shape", lambda: lambda: x[:7]),
        Contender("broken", lambda: lambda: 1 / 0),
        Contender("not here", missing),
        Contender("another function", lambda: lambda: "text", result=None, rates={"operations": 1}),
    )
    case = Case("case", lambda tiny: cast, (Target(1.0, ("first",)),))
    record = worker.run_case(case, 0.0, tiny=False)
    said = record["contenders"]
    assert {name for name, one in said.items() if "median" in one} == {
        "first", OURS, "another function"
    }  # fmt: skip
    assert said["another function"]["operations"] == 1
    assert said["not here"] == {"absent": "it is not installed"}
    assert "another result" in said["wrong"]["failed"]
    assert "another result" in said["not a number"]["failed"]
    assert "another shape" in said["another shape"]["failed"]
    assert "ZeroDivisionError" in said["broken"]["failed"]
    json.dumps(record)


def test_other_processes_are_noticed(monkeypatch):
    clock = Clock(monkeypatch)
    found = _timing.compare({"a": clock.call(0.25, own=0.25, others=0.125)}, 0.0)
    assert found.other_load == 0.5 and not found.quiet
    assert _timing.compare({"a": clock.call(0.25, own=0.25)}, 0.0).quiet
    below, above = _timing.QUIET_LOAD * 0.9, _timing.QUIET_LOAD * 1.1
    assert _timing.compare({"a": clock.call(0.25, others=0.25 * below)}, 0.0).quiet
    assert not _timing.compare({"a": clock.call(0.25, others=0.25 * above)}, 0.0).quiet
    monkeypatch.setattr(_timing, "busy_seconds", lambda: None)  # the system does not tell
    found = _timing.compare({"a": clock.call(0.25)}, 0.0)
    assert found.other_load is None and not found.quiet


def test_timings_are_the_clocks(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(_timing, "PAUSE", 0.0)  # every sum of times is exact
    calls = {"long": clock.call(0.5), "short": clock.call(2.0**-12)}
    found = _timing.compare(calls, 0.0, rounds=(4, 9)).timings
    assert found["long"] == _timing.Timing(0.5, 0.5, 0.5, 4, 1)
    assert found["short"].median == 2.0**-12
    assert found["short"].calls_per_turn * 2.0**-12 >= _timing.SHORTEST_TURN


def test_contenders_take_turns(monkeypatch):
    second = Clock(monkeypatch).call(1.0)
    monkeypatch.setattr(_timing, "calls_per_turn", lambda call: 1)
    order = []
    calls = {name: lambda name=name: (order.append(name), second()) for name in "abc"}
    timings = _timing.compare(calls, 0.0, rounds=(4, 9)).timings
    assert "".join(order) == "abcbcacababc"
    assert all(timing.rounds == 4 for timing in timings.values())
    assert _timing.compare(calls, 60.0, rounds=(4, 9)).timings["a"].rounds == 9
    assert _timing.compare(calls, 0.0, rounds=(1, 1)).timings["b"].rounds == 1
    with pytest.raises(ValueError, match="rounds must be"):
        _timing.compare(calls, 0.0, rounds=(0, 9))


# --- machine and processes -----------------------------------------------------------------------


def test_ceilings(monkeypatch):
    top = machine.ceilings("baseline", tiny=True)
    assert top["gflop_per_s"] > 0 and top["copy_gb_per_s"] > 0
    monkeypatch.setenv("CXX", "no-such-compiler")
    top = machine.ceilings("baseline", tiny=True)
    assert top["gflop_per_s"] > 0 and "did not compile" in top["gflop_measured_by"]


def test_environment_of_a_suite(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    stock = suites.environment(suites.SUITES["stock"], 3)
    assert not {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "ONEDNN_MAX_CPU_ISA"} & set(stock)
    assert stock["OMP_NUM_THREADS"] == "3"
    avx2 = suites.environment(suites.SUITES["avx2"], 2)
    assert (avx2["DENOISE_EXT_CPU_ISA"], avx2["ONEDNN_MAX_CPU_ISA"]) == ("avx2", "AVX2")
    assert avx2["MALLOC_MMAP_MAX_"] == "0"
    assert os.environ["MALLOC_MMAP_MAX_"] == "7"


def test_a_process_that_dies_leaves_what_it_found(monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        "path = next(a for a in sys.argv if a.startswith('--lines='))[8:]\n"
        "lines = [{'facts': {}, 'ceilings': None}, {'case': 'a'}]\n"
        "open(path, 'w').write(''.join(json.dumps(line) + '\\n' for line in lines))\n"
        "sys.exit(3)"
    )
    monkeypatch.setattr(suites, "WORKER", script)
    monkeypatch.setattr(suites, "GRACE", 3600.0)  # it ends by itself, whenever that is
    found = suites.measure("edges", 1.0, 1)
    assert found["cases"] == [{"case": "a"}] and "status 3" in found["problem"]
    script.write_text("import signal; signal.pause()")  # until it is stopped
    monkeypatch.setattr(suites, "GRACE", 0.5)
    found = suites.measure("edges", 0.5, 1)
    assert found["cases"] == [] and "stopped" in found["problem"]


# --- the report ----------------------------------------------------------------------------------


def timing(ms: float) -> dict[str, float]:
    return {"median": ms / 1e3, "low": ms / 1e3, "high": ms / 1e3, "rounds": 5, "calls_per_turn": 1}


@pytest.fixture
def summary():
    case = {
        "case": "a layer", "status": "timed", "operations": 2e9, "moved_bytes": 1e8,
        "other_load": 0.7, "quiet": False,
        "targets": [{"least": 3.0, "rivals": ["slow", "slower", "not there"], "ours": OURS},
                    {"least": 6.0, "rivals": ["slow"], "ours": f"{OURS} in another way"}],
        "contenders": {
            OURS: timing(10), "slow": timing(25), "slower": timing(40), "fast": timing(5),
            f"{OURS} in another way": timing(4) | {"operations": 4e8, "moved_bytes": 4e7},
            "gone": {"absent": "gone is not installed"},
            "mad": {"failed": "ValueError: another result"},
        },
    }  # fmt: skip
    broken = {"case": "b", "status": "failed", "note": "no memory", "contenders": {}, "targets": []}
    result = {
        "title": "Whole networks", "allocator": "warm", "settings": {"A": "1"}, "seconds": 1.0,
        "commit": "abc", "started": "2026-01-01", "problem": None, "cases": [case, broken],
        "only_cases": "",
        "ceilings": {"gflop_per_s": 400.0, "copy_gb_per_s": 40.0, "gflop_measured_by": "FMA"},
        "facts": {"processor": "P", "threads": 2, "instruction_set": "avx512",
                  "versions": {"torch": "2"}},
    }  # fmt: skip
    return {"subjects": {"nets": result}}


def test_targets_and_losses(summary):
    verdict, other = report.verdicts(summary)
    assert (verdict.rival, verdict.reached, verdict.met) == ("slow", 2.5, False)
    assert (other.name, other.met) == ("nets: a layer (in another way)", True)
    assert losses(report.suites_of(summary)) == [("nets", "a layer", "fast", 0.5)]
    problems = report.problems(summary["subjects"]["nets"])
    assert problems == ["a layer: mad: ValueError: another result", "b: no memory"]
    said = report.outcome("nets", summary["subjects"]["nets"])
    assert "gone is not installed" in said and "not quiet" in said


def test_targets_of_time_and_bandwidth():
    targets = [{"least": 1.0, "rivals": [], "ours": OURS, "seconds": 0.008},
               {"least": 0.8, "rivals": [], "ours": OURS, "copying": True}]  # fmt: skip
    case = {"case": "c", "moved_bytes": 2e8, "targets": targets, "contenders": {OURS: timing(10)}}
    time, copying = verdicts({"s": [case]}, {"s": {"copy_gb_per_s": 40.0}})
    assert (time.rival, time.met) == ("8000 us", False) and time.reached == pytest.approx(0.8)
    # 200 MB at 40 GB/s are 5 ms
    assert copying.reached == pytest.approx(0.5) and not copying.met
    assert len(verdicts({"s": [case]}, {"s": None})) == 1  # no bandwidth was measured


def test_markdown_says_all_of_it(summary):
    text = report.markdown(summary, {"A picture": "picture.png"})
    for part in (
        "1 of 2 met", "| 2.50x | **missed** |", "slower", "| fast | 0.50 |", "was not quiet",
        "others: 0.70 cores", "| denoise_ext | 10 | 10 - 10 | 1.00 | 200 | 50 % | 10.0 | 25 % |",
        "| denoise_ext in another way | 4 | 4 - 4 | 0.40 | 100 | 25 % | 10.0 | 25 % |",
        "gone is not installed", "another result", "no memory", "![A picture](picture.png)",
        "`A=1`",
    ):  # fmt: skip
        assert part in text, part


def test_published_results_stay_readable():
    results = sorted((ROOT / "benchmarks" / "results").glob("cpu_*.json"))
    assert results
    for path in results:
        summary = json.loads(path.read_text())
        text = report.markdown(summary, {})
        for result in summary["subjects"].values():
            assert report.is_complete(result, result["commit"]) or result["problem"]
            assert all(case["case"] in text for case in result["cases"])
        assert report.verdicts(summary)


def test_quality_table():
    case = {"case": "Set", "status": "measured", "targets": [], "contenders": {
        "torch": {"psnr": 30.4, "largest_change": 0.0},
        OURS: {"psnr": 30.399, "largest_change": 0.002, "allowed": 0.001},
    }}  # fmt: skip
    text = "\n".join(report.quality_table({"cases": [case]}))
    assert "| denoise_ext | 30.399 | 0.00200 | at most 0.001: **missed** |" in text
    case["contenders"][OURS]["largest_change"] = 0.0005
    assert "at most 0.001: met" in "\n".join(report.quality_table({"cases": [case]}))


def test_pictures(summary, tmp_path):
    pictures, reason = plots.draw(summary, tmp_path / "x.json")
    if importlib.util.find_spec("matplotlib") is None:
        assert pictures == {} and "matplotlib" in reason
        return
    assert len(pictures) == 3
    assert all((tmp_path / file).stat().st_size > 5000 for file in pictures.values())
    assert plots.draw({"subjects": {}}, tmp_path / "y.json") == ({}, None)


def test_what_need_not_be_measured_again(summary):
    result = summary["subjects"]["nets"]
    assert report.is_complete(result, "abc")
    assert not report.is_complete(result, "abd")
    assert not report.is_complete(result | {"problem": "it died"}, "abc")
    assert not report.is_complete(result | {"only_cases": "64"}, "abc")
    assert not report.is_complete(None, "abc")


# --- networks ------------------------------------------------------------------------------------


def test_base_unet_is_the_size_of_the_original():
    model = networks.BaseUNet()
    # 240 444 operations a pixel, of which the layers at full resolution are counted first.
    full = 3 * 32 + 32 * 32 + 67 * 64 + 64 * 32 + 32 * 3
    half, quarter = 32 * 48 + 128 * 64 + 64 * 64, 48 * 64 + 160 * 96 + 96 * 96
    eighth, sixteenth = 64 * 80 + 160 * 112 + 112 * 112, 80 * 96 + 96 * 96
    weights = full + half / 4 + quarter / 16 + eighth / 64 + sixteenth / 256
    x = torch.rand(1, 3, 32, 48)
    assert networks.convolution_operations(model, x) == 2 * 9 * weights * 32 * 48
    assert model(x).shape == x.shape
