"""Which lines of csrc/cuda the tests run, emulated: ``make cuda-coverage``.

Builds the kernels and what chooses among them with GCC's counters, runs the tests that reach them,
every variant, and prints each line that none has run and that ``EXCUSED`` does not have.  Arguments
are test files, in place of that choice.  Each file runs in a process of its own, one per core at
once: processes of pytest-xdist end without writing counters.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cuda_emulator.build import OUTPUT, ROOT, build_operators

FOLDER = OUTPUT / "coverage"
KERNELS = ROOT / "csrc" / "cuda"
# These have builds of their own, or none.
OTHERS = {"test_cuda_checker.py", "test_cuda_faults.py", "test_cuda_asan.py"}
TESTS = [
    *sorted(path for path in ROOT.glob("tests/cuda/test_*.py") if path.name not in OTHERS),
    *(
        ROOT / "tests" / "ops" / f"test_{name}.py"
        for name in ("ops_forward", "ops_gradients", "infinite_gradients", "large_offsets")
    ),
]

# Functions that no emulated call runs, by name, and why.
EXCUSED_FUNCTIONS = {
    "explain": "ops.explain asks the library itself, in tests/ops/test_explain.py",
}
# File, text of a line, and why no emulated call runs it.
_EXPLAINED = "ops.explain gives it, in tests/cuda/test_cuda_reasons.py: no memory has such sizes"
_DTYPES = "operators let no such dtype through"
_ROOM = "every GPU since compute capability 7.5 has that much; a guard for others"
_COUNTS = "it runs as often as its neighbours; gcov gives 0 to it"
EXCUSED = {
    ("activation_grad.cu", "unpack<Storage>(__ldg("): _COUNTS,
    ("bilateral_tile.cu", "const float scaled ="): _COUNTS,
    ("bilateral_tile.cuh", "it counts rows and columns in 32 bits"): _EXPLAINED,
    ("bilateral_tile.cuh", "does not fit a block's shared memory"): _EXPLAINED,
    ("common.cuh", "case DType::kUInt8:"): _DTYPES,
    ("common.cuh", "cudaErrorInvalidValue"): _DTYPES,
    ("conv_conditions.h", "case DType::kUInt8:"): _DTYPES,
    ("conv_depthwise.cpp", "kernel must be at most 7 x 7"): _EXPLAINED,
    ("conv_depthwise.cpp", "need more shared memory than this GPU"): f"{_EXPLAINED}; {_ROOM}",
    ("conv_first.cpp", "kernel must be at most 7 x 7"): _EXPLAINED,
    ("conv_first.cpp", "bfloat16 needs a GPU of compute capability 8.0"): _EXPLAINED,
    ("conv_first.cpp", "image is too large"): _EXPLAINED,
    ("conv_first.cpp", "so many output channels"): _EXPLAINED,
    ("conv_gemm_kernel.cuh", "static_cast<const unsigned char*>(table),"): _COUNTS,
    ("conv_gemm.cpp", "takes strides of conv_transpose2d"): _EXPLAINED,
    ("conv_gemm.cpp", "below 2^29 only"): _EXPLAINED,
    ("conv_gemm.cpp", "needs more shared memory per block"): _ROOM,
    ("conv_last.cpp", "image is too large"): _EXPLAINED,
    ("conv_last.cpp", "so many input channels"): _EXPLAINED,
    ("conv_rowring.cu", "cudaErrorInvalidValue"): "row_ring_cannot_run names the kernel sizes",
    ("conv_rowring_plan.cpp", "below 2^29 only"): _EXPLAINED,
    ("conv_rowring_plan.cpp", "needs more shared memory per block"): _ROOM,
    ("conv_transpose_phases.cpp", "below 2^29 only"): _EXPLAINED,
    ("conv_transpose_phases.cpp", "needs more shared memory"): _ROOM,
    ("conv_weight_grad_tiled.cu", "cudaErrorInvalidValue"): _DTYPES,
    ("vectors.cuh", "cudaErrorInvalidValue"): _DTYPES,
}


def run_tests(files: list[Path]) -> bool:
    """Whether all of them passed; prints what pytest prints of those that did not."""
    for counts in FOLDER.glob("*.gcda"):
        counts.unlink()
    environment = {**os.environ, "DENOISE_EXT_CUDA_EMULATION": "coverage", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--all", "-p", "no:cacheprovider"]

    def run(file: Path) -> bool:
        done = subprocess.run(
            [*command, str(file)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        passed = done.returncode in (0, 5)  # 5: no test of the file is for the emulator
        last = (done.stdout.strip().splitlines() or [done.stderr])[-1]
        print(f"{file.name}: {last if passed else done.stdout + done.stderr}", flush=True)
        return passed

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return all(list(pool.map(run, files)))


def read_counts() -> tuple[dict[Path, Counter[int]], dict[Path, set[int]]]:
    """File of csrc/cuda -> line -> how often it ran, in all objects; and lines of excused ones."""
    counts: dict[Path, Counter[int]] = defaultdict(Counter)
    excused: dict[Path, set[int]] = defaultdict(set)
    named = re.compile(rf"\b({'|'.join(EXCUSED_FUNCTIONS)})[<(]")
    for notes in sorted(FOLDER.glob("*.gcno")):
        command = ["gcov", "--json-format", "--stdout", str(notes)]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
        for file in json.loads(done.stdout)["files"]:
            path = Path(file["file"]).resolve()
            if path.parent != KERNELS:
                continue
            for line in file["lines"]:
                counts[path][line["line_number"]] += line["count"]
            for function in file["functions"]:
                if named.search(function["demangled_name"]):
                    lines = range(function["start_line"], function["end_line"] + 1)
                    excused[path].update(lines)
    return counts, excused


def main() -> int:
    """Print the lines that were not run; return 1 if there is one, or if a test fails."""
    build_operators("coverage")
    passed = run_tests([Path(name) for name in sys.argv[1:]] or TESTS)
    counts, excused = read_counts()
    lines = run = without_reason = 0
    for path, of_line in sorted(counts.items()):
        text = path.read_text().splitlines()
        lines, run = lines + len(of_line), run + sum(count > 0 for count in of_line.values())
        texts = [part for name, part in EXCUSED if name == path.name]
        for number, count in sorted(of_line.items()):
            line = text[number - 1].strip()
            if count or number in excused[path] or any(part in line for part in texts):
                continue
            print(f"{path.relative_to(ROOT)}:{number}: {line}")
            without_reason += 1
    print(f"{run} of {lines} lines of csrc/cuda were run: {100 * run / max(1, lines):.1f} %")
    print(f"{lines - run - without_reason} others have a reason, {without_reason} have none")
    return 0 if passed and not without_reason else 1


if __name__ == "__main__":
    sys.exit(main())
