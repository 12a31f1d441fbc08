"""Compile the CPU kernels and the operators with AddressSanitizer and UndefinedBehaviorSanitizer.

The library is ``denoise_ext._native`` for the CPU alone, in a folder of its own: the product's
stays as it is.  What has not changed is not compiled again (``cuda_emulator/build.py``).
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from cuda_emulator.build import (
    ROOT,
    Source,
    compile_all,
    link,
    locked,
    torch_flags,
    torch_libraries,
)

OUTPUT = ROOT / "build" / "sanitize"
# Every finding ends the process. -O1 keeps lines exact and compiles in minutes.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++20", "-O1", "-g1", "-fPIC", "-ffp-contract=fast", "-fvisibility=hidden"]
FLAGS += ["-fno-omit-frame-pointer", "-Wall", "-Wextra", *SANITIZERS]


def _flags() -> list[str]:
    """The settings of setup.py that the sources read, for a build without CUDA."""
    import torch

    release = torch.__version__.split("+")[0]
    facts = [f"-DDENOISE_EXT_TORCH_VERSION={release}", f"-DDENOISE_EXT_TORCH_MINIMUM={release}"]
    python = [f"-isystem{sysconfig.get_path('include')}", "-DTORCH_EXTENSION_NAME=_native"]
    return [*FLAGS, *torch_flags()[0], *facts, *python]


def build() -> Path:
    """Build the library and return its path."""
    sources = [p for p in sorted((ROOT / "csrc").rglob("*.cpp")) if p.parent.name != "cuda"]
    flags = _flags()
    with locked(OUTPUT):
        objects = compile_all([Source(path, flags) for path in sources], OUTPUT)
        # An extension module leaves Python's symbols to the program that loads it.
        extra = [*torch_libraries(), "-fsanitize=undefined", "-Wl,-z,undefs"]
        return link(objects, OUTPUT / "_native.so", "asan", extra)
