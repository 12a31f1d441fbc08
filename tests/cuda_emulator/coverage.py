"""Which lines of csrc/cuda the tests run, emulated: ``make cuda-coverage``.

Builds the kernels and what chooses among them with GCC's counters, runs the tests that reach them,
every variant, and prints each line that none has run.  Arguments are pytest's, in place of that
choice of tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cuda_emulator.build import OUTPUT, ROOT, build_operators

FOLDER = OUTPUT / "coverage"
KERNELS = ROOT / "csrc" / "cuda"
TESTS = ["-k", "not test_cuda_checker and not test_cuda_faults and not test_cuda_asan",
         "tests/cuda", "tests/ops/test_ops_forward.py", "tests/ops/test_ops_gradients.py",
         "tests/ops/test_infinite_gradients.py", "tests/ops/test_large_offsets.py"]  # fmt: skip
# Of a line's end: no call of an operator reaches it.
UNREACHED = "// not reached"


def run_tests(chosen: list[str]) -> int:
    """pytest's exit code; the counters of all its processes add up."""
    for counts in FOLDER.glob("*.gcda"):
        counts.unlink()
    environment = {**os.environ, "DENOISE_EXT_CUDA_EMULATION": "coverage"}
    command = [sys.executable, "-m", "pytest", "-q", "--all", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *chosen], cwd=ROOT, env=environment, check=False).returncode


def line_counts() -> dict[Path, Counter[int]]:
    """File of csrc/cuda -> line -> how often it ran, in all objects that have it."""
    counts: dict[Path, Counter[int]] = defaultdict(Counter)
    for notes in sorted(FOLDER.glob("*.gcno")):
        command = ["gcov", "--json-format", "--stdout", str(notes)]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
        for file in json.loads(done.stdout)["files"]:
            path = Path(file["file"]).resolve()
            if path.parent != KERNELS:
                continue
            for line in file["lines"]:
                counts[path][line["line_number"]] += line["count"]
    return counts


def main() -> int:
    """Print the lines that were not run; 1 if there is one that a call can reach."""
    build_operators("coverage")
    failed = run_tests(sys.argv[1:] or TESTS)
    lines = run = 0
    for path, counts in sorted(line_counts().items()):
        text = path.read_text().splitlines()
        known = {n: c for n, c in counts.items() if not text[n - 1].endswith(UNREACHED)}
        lines, run = lines + len(known), run + sum(count > 0 for count in known.values())
        for number, count in sorted(known.items()):
            if count == 0:
                print(f"{path.relative_to(ROOT)}:{number}: {text[number - 1].strip()}")
    print(f"{run} of {lines} lines of csrc/cuda were run: {100 * run / max(1, lines):.1f} %")
    return 1 if failed or run < lines else 0


if __name__ == "__main__":
    sys.exit(main())
