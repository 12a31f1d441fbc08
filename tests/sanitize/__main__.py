"""``python tests/sanitize``: build, run the tests of the operators, then fuzz them.

``python tests/sanitize --case TARGET:SEED`` repeats a case that a fuzzer found there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATH = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
sys.path[:1] = PATH

TESTS = (
    "test_ops_forward", "test_ops_gradients", "test_ops_arguments", "test_conv2d_out",
    "test_conv2d_resampled_out", "test_conv_transpose2d_out", "test_conv_winograd",
    "test_conv_weight_grad", "test_bilateral_layouts", "test_weight_cache",
)  # fmt: skip
# Emulated CUDA kernels have a build of their own. What torch.compile and opcheck do is torch's.
CHOSEN = "not emulated and not large and not compile"
ASAN = (
    "detect_leaks=0",  # Python and torch leave memory to the process's end
    "allocator_may_return_null=1",  # as everywhere: torch raises, and the process goes on
    "max_allocation_size_mb=6144",
    "quarantine_size_mb=64",  # what is freed stays for a while: not too much of it
)


def environment(library: Path) -> dict[str, str]:
    """Variables of a process that runs the sanitized library."""
    from cuda_emulator import asan_environment

    variables = {**os.environ, **asan_environment(), "ASAN_OPTIONS": ":".join(ASAN)}
    variables["UBSAN_OPTIONS"] = "print_stacktrace=1"
    variables["DENOISE_EXT_SANITIZED_LIBRARY"] = str(library)
    variables["DENOISE_EXT_CUDA_EMULATION"] = "off"
    variables["PYTHONPATH"] = os.pathsep.join(PATH)
    return variables


def main() -> int:
    parser = argparse.ArgumentParser(prog="sanitize", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to fuzz (default: 5)")
    parser.add_argument("--seed", type=int, help="of the first cases (default: random)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--case", metavar="TARGET:SEED", help="repeat one case, and nothing else")
    arguments = parser.parse_args()
    from cuda_emulator.build import BuildError

    from sanitize.build import build

    try:
        variables = environment(build())
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    fuzz = [sys.executable, str(ROOT / "tests" / "fuzz")]
    if arguments.case:
        return subprocess.call([*fuzz, "--case", arguments.case], env=variables)
    files = [f"tests/ops/{name}.py" for name in TESTS]
    pytest = [sys.executable, "-m", "pytest", "-p", "sanitize.library", "-p", "no:cacheprovider"]
    workers = ["-n", str(arguments.jobs), "--benchmark-disable", "-k", CHOSEN]
    code = subprocess.call([*pytest, *workers, *files], cwd=ROOT, env=variables)
    options = ["--minutes", str(arguments.minutes), "--jobs", str(arguments.jobs)]
    options += [] if arguments.seed is None else ["--seed", str(arguments.seed)]
    return code or subprocess.call([*fuzz, "--only", "operators", *options], env=variables)


if __name__ == "__main__":
    sys.exit(main())
