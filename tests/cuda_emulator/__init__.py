"""Run the CUDA kernels without a GPU, on CPU tensors: ``with emulated_cuda(): ops.conv2d(...)``.

See README.md beside this file.
"""

from __future__ import annotations

import ctypes
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from cuda_emulator.build import MODES, build_operators, compiler_library, cuda_include
from denoise_ext._tf32 import tf32_allowed

NAMESPACE = "denoise_ext_emulated"
STATISTICS = (
    "blocks", "threads", "switches", "barriers", "collectives", "matrix_multiplies", "copies",
    "checked_accesses", "matrices_loaded", "matrix_wavefronts",
)  # fmt: skip
# The orders in which tests run threads and blocks. The random one is the same in every process of a
# test run.
if not os.environ.get("DENOISE_EXT_EMULATOR_SEED"):
    os.environ["DENOISE_EXT_EMULATOR_SEED"] = str(random.randrange(2, 2**32))
SEEDS = {"ascending": 0, "descending": 1, "random": int(os.environ["DENOISE_EXT_EMULATOR_SEED"])}


class Emulator:
    """The loaded library of emulated operators."""

    def __init__(self, path: Path) -> None:
        self.path = path
        torch.ops.load_library(str(path))
        self._library = ctypes.CDLL(str(path))
        self._library.cuda_emulator_variants.restype = ctypes.c_char_p
        self._tf32_query = ctypes.CFUNCTYPE(ctypes.c_bool)(tf32_allowed)  # the library has no other
        self._library.cuda_emulator_set_tf32_query(self._tf32_query)
        self.configure()

    def configure(
        self,
        seed: int = 0,
        preempt: int = 0,
        compute_capability: int = 90,
        multiprocessors: int = 2,
        variant: str = "",
        driver: int = 13000,
    ) -> None:
        """How launches run from now on.

        ``seed``: the order of threads and blocks: 0 ascending, 1 descending, else random.
        ``preempt``: shadow build: switch threads at one in so many checked accesses; 0: only
        where a thread waits.  ``compute_capability`` and ``multiprocessors`` describe the device
        that operators see.  ``variant``: the kernels to take wherever they can run, whatever the
        estimated costs say.  ``driver``: the newest CUDA that the driver serves, 1000 * major +
        10 * minor; the runtime is 13.0.
        """
        order = (ctypes.c_uint32(seed), ctypes.c_uint32(preempt))
        self._library.cuda_emulator_configure(
            *order, compute_capability, multiprocessors, variant.encode(), driver
        )

    def variants(self) -> list[str]:
        """The kernels that could have run since :meth:`configure`, chosen or not."""
        return sorted(set(self._library.cuda_emulator_variants().decode().split()))

    def statistics(self) -> dict[str, int]:
        """What has been run since the library was loaded."""
        counters = (ctypes.c_uint64 * len(STATISTICS))()
        self._library.cuda_emulator_statistics(counters)
        return dict(zip(STATISTICS, counters, strict=True))

    def operator(self, name: str):
        """The emulated CUDA implementation of an operator, as a function of the same arguments."""
        op = getattr(getattr(torch.ops, NAMESPACE), name).default

        def run(*args, **kwargs):
            self._library.cuda_emulator_forget_memory()
            return op(*args, **kwargs)

        return run

    def operator_names(self) -> list[str]:
        registered = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
        return [n.split("::")[1] for n in registered if n.startswith(f"{NAMESPACE}::")]


def mode() -> str:
    """The build that this process uses; asan's library must be loaded before everything else."""
    return os.environ.get("DENOISE_EXT_CUDA_EMULATION", "shadow")


def missing() -> str | None:
    """Why kernels cannot be compiled for the emulator here, or None when they can."""
    if mode() == "off":
        return "switched off by DENOISE_EXT_CUDA_EMULATION"
    if cuda_include() is None:
        return "the CUDA toolkit's headers are not installed (set CUDA_HOME)"
    return None


def is_forced() -> bool:
    """Whether this process tests nothing but the emulated kernels."""
    return os.environ.get("DENOISE_EXT_CUDA_EMULATION") in MODES


def asan_environment() -> dict[str, str]:
    """Variables for a process that loads the asan build."""
    # The C++ library too, or AddressSanitizer does not find the exceptions it is to intercept.
    libraries = [compiler_library("libasan.so"), compiler_library("libstdc++.so")]
    # Python and torch leave memory to the process's end; only the emulated kernels are on trial.
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}


def seeds_text() -> str:
    return f"{mode()} build, random order DENOISE_EXT_EMULATOR_SEED={SEEDS['random']}"


@cache
def emulator() -> Emulator:
    """Build and load the emulated operators, once per process."""
    given = os.environ.get("DENOISE_EXT_EMULATED_LIBRARY")
    return Emulator(Path(given) if given else build_operators(mode()))


@contextmanager
def emulated_cuda(seed: int = 0, **options: int | str) -> Iterator[Emulator]:
    """Let ``torch.ops.denoise_ext`` run its emulated CUDA kernels on CPU tensors.

    Options are those of :meth:`Emulator.configure`.  A fault of a kernel is a RuntimeError that
    names its kind, source lines, thread and block.
    """
    machine = emulator()
    machine.configure(seed=seed, **options)
    with torch.library._scoped_library("denoise_ext", "IMPL") as library:
        for name in machine.operator_names():
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Warning only once for all operators")
                library.impl(name, machine.operator(name), "CPU")
        yield machine
