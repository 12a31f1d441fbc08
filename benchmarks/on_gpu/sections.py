"""What is done before anything is timed, each step a process with a time limit of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from harness import processes, records
from harness.processes import Finished

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
OPERATORS = {  # how pytest -k tells their tests apart
    "conv2d": "conv2d",
    "conv_transpose2d": "conv_transpose2d",
    "gaussian_blur2d": "gaussian_blur2d",
    "bilateral_blur": "bilateral_blur and not joint_bilateral_blur",
    "joint_bilateral_blur": "joint_bilateral_blur",
}
MOST_LINES = 20  # of a failure


@dataclass
class Section:
    """The outcome of one step."""

    name: str
    status: str  # passed, failed, skipped
    note: str
    seconds: float = 0.0
    details: list[str] = field(default_factory=list)


def run(command: list[str], seconds: float, **settings: str) -> Finished:
    """Run a command for so long at most, with `settings` in its environment."""
    return processes.run(command, max(seconds, 1), os.environ | settings)


def last_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-MOST_LINES:]


# --- the build -----------------------------------------------------------------------------------

_PROBE = (
    "from denoise_ext._info import info; import json; facts = info(); "
    "print(json.dumps([facts['native']['error'], facts['cuda']['error']]))"
)


def _why_not_built(dry: bool) -> str | None:
    """None when the library is there and (not in a dry run) runs on this GPU."""
    done = run([sys.executable, "-c", _PROBE], 60)
    if done.status != 0:
        return (last_lines(done.output) or ["it cannot be imported"])[-1]
    native_error, cuda_error = json.loads(done.output.splitlines()[-1])
    return native_error or (None if dry else cuda_error)


def _is_older_than_sources() -> bool:
    built = [path.stat().st_mtime for path in (ROOT / "denoise_ext").glob("_native*.so")]
    sources = (p for p in (ROOT / "csrc").rglob("*") if p.is_file())
    return bool(built) and max(built) < max(path.stat().st_mtime for path in sources)


def build(dry: bool, seconds: float) -> Section:
    """Take the library that is there, or compile it for this GPU alone."""
    reason = _why_not_built(dry)
    if reason is None and (dry or not _is_older_than_sources()):
        return Section("build", "passed", "took the library that was there")
    if dry:
        return Section("build", "failed", str(reason))
    import torch

    major, minor = torch.cuda.get_device_capability()
    done = run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], seconds,
        DENOISE_EXT_CUDA="1", TORCH_CUDA_ARCH_LIST=f"{major}.{minor}",
    )  # fmt: skip
    reason = _why_not_built(dry) if done.status == 0 else "setup.py failed"
    if done.status is None:
        reason = f"not done after {seconds:.0f} s"
    if reason is not None:
        return Section("build", "failed", reason, details=last_lines(done.output))
    return Section("build", "passed", f"compiled for sm_{major}{minor} in {done.seconds:.0f} s")


# --- pytest --------------------------------------------------------------------------------------


def pytest(name: str, files: list[str], keyword: str, dry: bool, seconds: float) -> Section:
    """Run a selection of the tests and count."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider"]
        command += ["-k", keyword, "--tb=line", f"--junitxml={report}"]
        emulation = {} if dry else {"DENOISE_EXT_CUDA_EMULATION": "off"}
        done = run(command, seconds, OMP_NUM_THREADS="2", **emulation)
        counted = _counts(report) if report.exists() else None
    if done.status is None:  # the clock is no fault of the kernels; what failed until then is
        failed = not set("FE").isdisjoint("".join(_PROGRESS.findall(done.output)))
        return Section(name, "failed" if failed else "skipped", f"not done after {seconds:.0f} s",
                       done.seconds, last_lines(done.output))  # fmt: skip
    if counted is None or done.status not in (0, 1, 5):
        return Section(name, "failed", f"pytest ended with {done.status}", done.seconds,
                       last_lines(done.output))  # fmt: skip
    total, failed, skipped = counted
    note = f"{total - failed - skipped} passed, {failed} failed, {skipped} skipped"
    status = "failed" if failed else "passed" if total > skipped else "skipped"
    return Section(name, status, note, done.seconds, last_lines(done.output) if failed else [])


_PROGRESS = re.compile(r"^([.FEsxX]+)(?: +\[ *\d+%\])?$", re.MULTILINE)


def _counts(report: Path) -> tuple[int, int, int]:
    """(tests, failures and errors, skipped) of a JUnit file."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    totals = [0, 0, 0]
    for suite in suites:
        totals[0] += int(suite.get("tests", 0))
        totals[1] += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        totals[2] += int(suite.get("skipped", 0))
    return totals[0], totals[1], totals[2]


def primitives(dry: bool, seconds: float) -> Section:
    """Does ldmatrix do what the kernels think it does?"""
    keyword = "emulated and test_mma" if dry else "not emulated"
    return pytest("primitives", ["tests/cuda/test_cuda_primitives.py"], keyword, dry, seconds)


def operator_tests(dry: bool) -> list[str]:
    """The files with tests of the operators."""
    if dry:
        return ["tests/ops/test_ops_forward.py"]
    files = [*ROOT.glob("tests/ops/test_ops_*.py"), ROOT / "tests/ops/test_large_offsets.py"]
    return sorted(str(path.relative_to(ROOT)) for path in files)


def operators(dry: bool, seconds: float) -> list[Section]:
    """The tests of every operator, a process each: one lost CUDA context spoils one of them."""
    files, selection = operator_tests(dry), "cuda and "
    if dry:
        selection = "cuda-emulated and unbatched and float32 and test_matches_reference and "

    def test(name: str) -> Section:
        return pytest(f"tests: {name}", files, f"{selection}{OPERATORS[name]}", dry, seconds)

    with ThreadPoolExecutor(min(len(OPERATORS), max((os.cpu_count() or 2) // 2, 1))) as pool:
        return list(pool.map(test, OPERATORS))


def device(dry: bool, seconds: float) -> Section:
    """CUDA graphs, streams, threads, several devices."""
    return pytest("tests: device", ["tests/cuda/test_cuda_device.py"], "test", dry, seconds)


# --- compute-sanitizer ---------------------------------------------------------------------------

TOOLS = ("memcheck", "racecheck", "synccheck")
_UNAVAILABLE = ("Device not supported", "not supported on this", "Unable to find injection library")


def find_sanitizer() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = (shutil.which("compute-sanitizer", path=f"{home}/bin") for home in homes if home)
    return shutil.which("compute-sanitizer") or next(filter(None, found), None)


def sanitizer_command(tool: str, program: str, output: Path) -> list[str]:
    command = [program, "--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no"]
    command += ["--kernel-name", "kernel_substring=denoise_ext"]
    return [*command, sys.executable, str(WORKER), "--tiny", "--own-only", f"--output={output}"]


def sanitizer(dry: bool, seconds: float) -> list[Section]:
    """Our kernels on small shapes under NVIDIA's checkers."""
    program = find_sanitizer()
    if dry:
        return [Section("compute-sanitizer", "skipped", "a dry run: there is nothing it could see")]
    if program is None:
        return [Section("compute-sanitizer", "skipped", "not installed")]

    def check(tool: str) -> Section:
        name = f"compute-sanitizer {tool}"
        with tempfile.TemporaryDirectory() as folder:
            done = run(
                sanitizer_command(tool, program, Path(folder, "lines")), seconds,
                PYTORCH_NO_CUDA_MEMORY_CACHING="1",
            )  # fmt: skip
        summary = [line for line in done.output.splitlines() if "SUMMARY" in line]
        note = summary[-1].strip("= ") if summary else f"ended with {done.status}"
        if any(text in done.output for text in _UNAVAILABLE):
            return Section(name, "skipped", "does not work on this machine", done.seconds)
        if done.status is None:
            return Section(name, "skipped", f"not done after {seconds:.0f} s", done.seconds)
        status = "passed" if done.status == 0 else "failed"
        details = last_lines(done.output) if done.status else []
        return Section(name, status, note, done.seconds, details)

    with ThreadPoolExecutor(len(TOOLS)) as pool:
        return list(pool.map(check, TOOLS))


# --- timing --------------------------------------------------------------------------------------


def timing(dry: bool, seconds: float, lines: Path) -> Section:
    """Every case of the worker; after one that took the CUDA context with it, the next process."""
    start = time.monotonic()
    details: list[str] = []
    done_cases: list[str] = []
    while True:
        left = seconds - (time.monotonic() - start)
        if left < 5 and done_cases:
            details.append("no time left for the remaining cases")
            break
        command = [sys.executable, str(WORKER), f"--output={lines}", f"--seconds={left - 8:.0f}"]
        command += ["--dry-run"] if dry else []
        ended = run([*command, "--skip", *done_cases], left)
        found = records.read(lines)
        begun = [record["started"] for record in found if "started" in record]
        finished = {record["case"] for record in found if "case" in record}
        stopped = ended.status is None
        status = "skipped" if stopped else "failed"
        why = (
            "stopped when the time was up" if stopped else f"its process ended with {ended.status}"
        )
        with open(lines, "a", encoding="utf-8") as file:
            for name in begun:
                if name not in finished:
                    records.write(file, records.unfinished(name, why, status))
        if ended.status == 0:
            break
        if stopped and not dry:
            details.append("stopped when the time was up")
            break
        details += last_lines(ended.output)
        if dry or not begun or begun == done_cases:
            return Section("timing", "failed", "the worker failed",
                           time.monotonic() - start, details)  # fmt: skip
        done_cases = begun
    status = "passed" if finished else "skipped"
    return Section("timing", status, "", time.monotonic() - start, details)
