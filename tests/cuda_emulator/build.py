"""Compile the CUDA kernels with the C++ compiler, into a library of operators for CPU tensors.

``python tests/cuda_emulator/build.py shadow`` (``asan``, ``coverage``) prints the library's path.
What has not changed is not compiled again: an object's key is a hash of its command and all it
includes.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUTPUT = ROOT / "build" / "cuda_emulator"
SHARED = OUTPUT / "operators"
HEADER = SHARED / "precompiled.h"  # of csrc/ops; GCC takes the compiled form that lies beside it
MODES = ("shadow", "asan", "coverage")
JOBS = int(os.environ.get("MAX_JOBS", "2"))

UNDEFINED = "bounds,alignment,shift,signed-integer-overflow,integer-divide-by-zero,return,bool,enum"
SANITIZERS = {
    # The thread sanitizer's calls, which runtime/shadow.cpp takes. Loops must not become calls of
    # memset or memcpy: those it does not see.
    "shadow": [
        f"-fsanitize=thread,{UNDEFINED}",
        "--param=tsan-instrument-func-entry-exit=0",
        "-fno-tree-loop-distribute-patterns",
    ],
    # Each check is a call: as code at the place of the access it takes three times as long to
    # compile. Undefined behaviour is found by the shadow build, which runs all that this one runs.
    "asan": [
        "-fsanitize=address",
        "--param=asan-instrumentation-with-call-threshold=0",
        "-fno-omit-frame-pointer",
    ],
    "coverage": ["--coverage"],
}
# What runtime/torch_hooks.cpp stands in for.
REPLACED = ("cuda/device.cu", "cuda/variants.cpp", "ops/memory.cpp")
CHECKERS = {
    "shadow": ("shadow.cpp", "shadow_memory.cpp"),
    "asan": ("address_sanitizer.cpp",),
    "coverage": ("no_checker.cpp",),
}


class BuildError(RuntimeError):
    """The compiler's or linker's own words."""


def cuda_include() -> Path | None:
    """The folder of the CUDA toolkit's headers, or None; no compiler and no driver is needed."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [Path(home, "include") for home in homes if home]
    folders += sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("cu*/include"))
    found = (f for f in folders if (f / "cuda_runtime.h").exists() and (f / "cuda_fp16.h").exists())
    return next(found, None)


@cache
def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


def compiler_library(name: str) -> str:
    """The path of one of the compiler's own libraries."""
    command = [*_compiler(), f"-print-file-name={name}"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@cache
def _host_flags() -> list[str]:
    include = cuda_include()
    if include is None:
        raise BuildError(
            "the CUDA toolkit's headers (cuda_runtime.h, cuda_fp16.h) are not installed"
        )
    flags = ["-g1", "-fPIC", "-fvisibility=hidden", "-DDENOISE_EXT_WITH_CUDA"]
    flags += ["-DDENOISE_EXT_EMULATE_CUDA"]
    return [*flags, f"-I{HERE / 'include'}", f"-isystem{include}"]


def _common_flags(mode: str) -> list[str]:
    return [*_host_flags(), *(["-DCUDA_EMULATOR_SHADOW"] if mode == "shadow" else [])]


@cache
def torch_flags() -> tuple[list[str], list[str]]:
    """(compiling, linking) against torch's stable ABI, for the version that setup.py names."""
    from torch.utils.cpp_extension import include_paths, library_paths

    version = re.search(r'TORCH_TARGET_VERSION = "(\w+)"', (ROOT / "setup.py").read_text())[1]
    compiling = [f"-DTORCH_TARGET_VERSION={version}", *(f"-isystem{p}" for p in include_paths())]
    linking = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    return compiling, [*linking, "-lc10", "-ltorch", "-ltorch_cpu"]


def torch_libraries() -> list[str]:
    """The linker's flags for torch."""
    return torch_flags()[1]


@dataclass
class Source:
    """One file to compile, and how; shared: the same in each mode."""

    path: Path
    flags: list[str] = field(default_factory=list)
    shared: bool = False


def _kernel_flags(mode: str) -> list[str]:
    # -O1 -g keeps lines exact; -O0 for their counts. The warnings switched off are about CUDA's
    # pragmas and attributes.
    quiet = ["-Wall", "-Wno-unknown-pragmas", "-Wno-attributes", "-Wno-unused-function"]
    level = "-O0" if mode == "coverage" else "-O1"
    flags = ["-std=c++17", level, *quiet, *_common_flags(mode), *SANITIZERS[mode]]
    return [*flags, "-fno-sanitize-recover=all", "-x", "c++"]


def kernel_source(path: Path, mode: str) -> Source:
    return Source(path, _kernel_flags(mode))


def runtime_sources(mode: str) -> list[Source]:
    """The emulator itself, which no sanitizer may watch.

    To be linked first: of an inline function that kernels use too, the linker keeps the first copy.
    """
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", *_common_flags(mode)]
    names = ("conversions", "fiber", "launch", "messages", "scheduler", "shared_memory")
    files = [f"{name}.cpp" for name in (*names, "tensor_core", "undefined_behaviour", "warp")]
    return [Source(HERE / "runtime" / name, flags) for name in (*files, *CHECKERS[mode])]


def _host_options() -> list[str]:
    # No kernel is in these files: compiling takes longer than running.
    return ["-std=c++20", "-O0", "-Wall", "-Wextra", *_host_flags()]


def _with_torch() -> list[str]:
    return [*_host_options(), *torch_flags()[0]]


def operator_sources(mode: str, csrc: Path = ROOT / "csrc") -> list[Source]:
    """Kernels, the host code that chooses among them, and the operators of csrc/ops."""
    host = _host_options()
    chosen = [*host, "--coverage"] if mode == "coverage" else host
    with_torch = _with_torch()
    # An allocator for torch, which the stable ABI does not offer; AddressSanitizer has its own.
    with_torch_itself = [flag for flag in with_torch if "TORCH_TARGET_VERSION" not in flag]
    started = [*with_torch, "-Winvalid-pch", "-include", str(HEADER)]
    guarded = Source(HERE / "runtime" / "guarded_tensors.cpp", with_torch_itself)

    def files(folder: Path, pattern: str) -> list[Path]:
        names = {path: f"{path.parent.name}/{path.name}" for path in sorted(folder.glob(pattern))}
        return [path for path, name in names.items() if name not in REPLACED]

    # Not the folders below ops: operators of the CPU alone, and torch's current GPU.
    return [
        *(kernel_source(path, mode) for path in files(csrc / "cuda", "*.cu")),
        *(Source(path, chosen) for path in files(csrc / "cuda", "*.cpp")),
        *(Source(path, started, shared=True) for path in files(ROOT / "csrc" / "ops", "*.cpp")),
        Source(HERE / "runtime" / "torch_hooks.cpp", with_torch),
        *([guarded] if mode == "shadow" else []),
    ]


@cache
def _digest(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def dependencies_of(target: Path) -> list[Path]:
    """What an object was compiled from, as the compiler listed it; empty when it has not been."""
    listed = target.with_suffix(".d")
    if not listed.exists():
        return []
    text = listed.read_text().replace("\\\n", " ")
    names = re.split(r"(?<!\\)\s+", text.split(":", 1)[1].strip())
    return [Path(name.replace("\\ ", " ")).resolve() for name in names]


def _key(command: list[str], dependencies: list[Path]) -> str | None:
    """A hash of the command and of the files, or None when one is missing or none is known."""
    key = hashlib.sha256(" ".join(command).encode())
    for path in dependencies:
        if not path.exists():
            return None
        key.update(_digest(path, path.stat().st_mtime_ns).encode())
    return key.hexdigest() if dependencies else None


def _run(command: list[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{result.stdout}")


def _object_of(source: Source, folder: Path) -> Path:
    name = "-".join(source.path.parts[-2:])
    return folder / f"{name}.o"


def compile_object(source: Source, folder: Path) -> Path:
    """The source's object, compiled when its command or anything it includes has changed."""
    return _compile(source, _object_of(source, folder))


def compile_header() -> None:
    """What the files of csrc/ops start with, as in setup.py."""
    text = (ROOT / "csrc" / "ops" / HEADER.name).read_text()
    if not HEADER.exists() or HEADER.read_text() != text:
        HEADER.write_text(text)
    flags = [*_with_torch(), "-w", "-x", "c++-header"]
    _compile(Source(HEADER, flags), HEADER.with_name(f"{HEADER.name}.gch"))


def _compile(source: Source, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp = target.with_suffix(".key")
    command = [*_compiler(), *source.flags, "-MMD", "-MF", str(target.with_suffix(".d"))]
    command += ["-c", str(source.path), "-o", str(target)]
    key = _key(command, dependencies_of(target))
    if key is not None and target.exists() and stamp.exists() and stamp.read_text() == key:
        return target
    _run(command)
    stamp.write_text(_key(command, dependencies_of(target)) or "")
    return target


def compile_all(sources: list[Source], folder: Path) -> list[Path]:
    with ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(lambda source: compile_object(source, folder), sources))


def compile_operators(mode: str, folder: Path) -> list[Path]:
    """The objects of operator_sources(), those that the modes share in a folder of their own."""
    sources = operator_sources(mode)
    with locked(SHARED):
        compile_header()
        shared = compile_all([source for source in sources if source.shared], SHARED)
    own = compile_all([source for source in sources if not source.shared], folder)
    objects = {True: iter(shared), False: iter(own)}
    return [next(objects[source.shared]) for source in sources]


def link(objects: list[Path], target: Path, mode: str, extra: list[str]) -> Path:
    """A shared library, or a program where `target` has no suffix; only if an object is newer."""
    newest = max(path.stat().st_mtime_ns for path in objects)
    if target.exists() and target.stat().st_mtime_ns >= newest:
        return target
    kind = ["-shared", "-Wl,--no-undefined"] if target.suffix == ".so" else []
    runtimes = {"asan": ["-fsanitize=address"], "coverage": ["--coverage"]}.get(mode, [])
    command = [*_compiler(), *kind, *runtimes, *map(str, objects), *extra, "-ldl"]
    temporary = target.with_name(target.name + ".new")  # a process may have the old one mapped
    _run([*command, "-o", str(temporary)])
    temporary.replace(target)
    return target


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep two test runs in one tree from building into the same folder at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_operators(mode: str) -> Path:
    """Build the library that registers ``torch.ops.denoise_ext_emulated``, and return its path."""
    folder = OUTPUT / mode
    with locked(folder):
        objects = compile_all(runtime_sources(mode), folder) + compile_operators(mode, folder)
        return link(objects, folder / "libdenoise_ext_emulated.so", mode, torch_libraries())


def build_test_library(source: Path, mode: str) -> Path:
    """Build one kernel file of the tests, with the emulator, into a library for ctypes."""
    folder = OUTPUT / mode
    with locked(folder):
        objects = compile_all([*runtime_sources(mode), kernel_source(source, mode)], folder)
        return link(objects, folder / f"lib{source.stem}.so", mode, [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", choices=MODES)
    try:
        print(build_operators(parser.parse_args().mode))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
