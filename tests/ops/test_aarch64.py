"""The kernels on 64-bit Arm: cross-compiled, and run in an emulator."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = {
    "gcc": ["aarch64-linux-gnu-g++"],
    "clang": ["clang++", "--target=aarch64-linux-gnu"],
}
EMULATOR = "qemu-aarch64"
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror"]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("aarch64")]


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], text=True, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module", params=COMPILERS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of csrc/cpu and native/kernels.cpp, without a warning."""
    compiler = COMPILERS[request.param]
    folder = tmp_path_factory.mktemp("aarch64")
    (folder / "empty.cpp").write_text("#include <vector>\nint main() {}\n")
    command = [*compiler, "-static", str(folder / "empty.cpp"), "-o", str(folder / "empty")]
    if (
        shutil.which(compiler[0]) is None
        or subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0
    ):
        pytest.skip(f"needs {' '.join(compiler)} and the libraries of aarch64-linux-gnu")
    sources = [*sorted(ROOT.glob("csrc/cpu/**/*.cpp")), ROOT / "tests/native/kernels.cpp"]
    objects = [folder / f"{number}.o" for number in range(len(sources))]

    def compile_one(source: Path, target: Path) -> None:
        run(*compiler, *FLAGS, "-c", source, "-o", target)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, objects))
    run(*compiler, "-static", *objects, "-o", folder / "kernels")
    return folder / "kernels"


def test_kernels_compile(program):
    assert program.stat().st_size > 0


def test_kernels_compute(program):
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"needs {EMULATOR}")
    said = run(EMULATOR, program)
    assert "instruction set: neon" in said
    assert said.count("conv2d") == 12
    assert said.count("weight gradient") == 14
    assert said.count("gaussian_blur2d") == 2
