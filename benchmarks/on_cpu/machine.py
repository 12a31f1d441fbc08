"""The machine: its ceilings, measured in the process that measures the rest, and what it is."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import denoise_ext
from on_cpu.competitors import RUNTIMES

SOURCE = Path(__file__).with_name("peak.cpp")
COPIED_BYTES = 2**27  # by each thread; far more than any cache
TURNS = 7
ROUNDS = 4_000_000  # about 0.1 s


def compile_peak(isa: str, folder: Path) -> ctypes.CDLL:
    """peak.cpp for an instruction set; OSError or CalledProcessError where that fails."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise OSError("there is no C++ compiler")
    native = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
    target = ["-mavx2", "-mfma"] if isa == "avx2" else [native]
    library = folder / "peak.so"
    flags = ["-O3", "-std=c++17", "-ffp-contract=fast", "-shared", "-fPIC", *target]
    command = [*compiler.split(), *flags, str(SOURCE), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    return ctypes.CDLL(str(library))


def rate(work: Callable[[int], float], threads: int, pool: ThreadPoolExecutor) -> float:
    """The best turn's: what all threads did together, per second."""
    rates = []
    for _ in range(TURNS):
        start = time.perf_counter()
        done = sum(pool.map(work, range(threads)))
        rates.append(done / (time.perf_counter() - start))
    return max(rates)


def multiply_add_rate(threads: int, isa: str, tiny: bool) -> tuple[float, str]:
    """(operations per second, how they were measured)."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        try:
            library = compile_peak(isa, Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            side = 64 if tiny else 2048
            a = torch.rand(side, side)
            done = rate(lambda _: (a @ a, 2.0 * side**3)[1], 1, pool)
            return done, f"matrix product, for {SOURCE.name} did not compile: {error}"
        library.multiply_add.restype = ctypes.c_double
        rounds = ctypes.c_long(1000 if tiny else ROUNDS)
        return rate(lambda _: library.multiply_add(rounds), threads, pool), "FMA in registers"


def copy_rate(threads: int, tiny: bool) -> float:
    """Bytes per second, read and written, of copying memory in every thread."""
    size = 2**16 if tiny else COPIED_BYTES
    buffers = [(bytearray(size), bytearray(size)) for _ in range(threads)]
    pointers = [[(ctypes.c_char * size).from_buffer(b) for b in pair] for pair in buffers]

    def copy(thread: int) -> float:
        ctypes.memmove(*pointers[thread], size)
        return 2.0 * size

    with ThreadPoolExecutor(threads) as pool:
        return rate(copy, threads, pool)


def ceilings(isa: str, tiny: bool = False) -> dict[str, object]:
    threads = torch.get_num_threads()
    flops, how = multiply_add_rate(threads, isa, tiny)
    return {
        "gflop_per_s": flops / 1e9,
        "gflop_measured_by": how,
        "copy_gb_per_s": copy_rate(threads, tiny) / 1e9,
    }


def versions() -> dict[str, str]:
    found = dict(denoise_ext.info()["versions"])
    for name in RUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def facts() -> dict[str, object]:
    """What a number means nothing without."""
    cpu = denoise_ext.info()["cpu"]
    return {
        "processor": cpu["processor"],
        "cores": os.cpu_count(),
        "instruction_set": cpu["isa_in_use"],
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
