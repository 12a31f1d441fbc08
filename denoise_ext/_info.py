"""Facts about this installation: what is used, and why something is not.

The module is private because `denoise_ext.info` is the function.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

import numpy
import torch

from denoise_ext import __version__, _cache
from denoise_ext._loader import native, native_error
from denoise_ext.ops import __all__ as _OPERATORS
from denoise_ext.ops import kernel_devices


def info() -> dict[str, Any]:
    """Versions, instruction sets, CUDA and what is off, as a dictionary of JSON types.

    Keys:
        versions: denoise_ext, python, torch, numpy, platform.
        native: loaded (bool), error (str or None), file, and the build's facts: compiler,
            torch_built_with, torch_minimum.
        cpu: processor, isa_in_use, isa_available (best first), isa_forced_by (environment
            variable, or None), threads, error.
        cuda: in_build (bool), driver (bool: NVIDIA's is installed), driver_version (the newest
            CUDA that it serves, or None), version (CUDA of the build), architectures,
            architectures_of ("a wheel", "an editable build", which has fewer, or
            "TORCH_CUDA_ARCH_LIST"), torch (the CUDA version of PyTorch or None), devices (name,
            capability), operators (those with a CUDA kernel), usable (bool: the operators run on a
            GPU here), error (why not).
        cache: folder of the decisions that `accelerate` keeps (None: off), entries, bytes.
        operators: name -> devices it has a kernel for.

    Works without the native library, too, and has the reason why it is missing.

    Example:
        >>> facts = denoise_ext.info()
        >>> facts["native"]["loaded"]
        True
    """
    error = native_error()
    build = {} if error else native().build_info()
    operators = {name: sorted(kernel_devices(name) - {"meta"}) for name in _OPERATORS}
    return {
        "versions": {
            "denoise_ext": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "platform": platform.platform(),
        },
        "native": {
            "loaded": error is None,
            "error": error,
            "file": None if error else native().__file__,
            "compiler": build.get("compiler"),
            "torch_built_with": build.get("torch_built_with"),
            "torch_minimum": build.get("torch_minimum"),
        },
        "cpu": _cpu(error),
        "cuda": _cuda(error, build, operators),
        "cache": _cached(),
        "operators": operators,
    }


def _cached() -> dict[str, Any]:
    place = _cache.folder()
    entries, size = _cache.size()
    return {"folder": None if place is None else str(place), "entries": entries, "bytes": size}


def _cpu(native_missing: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "processor": _processor(),
        "isa_in_use": None,
        "isa_available": [],
        "isa_forced_by": os.environ.get("DENOISE_EXT_CPU_ISA") or None,
        "threads": torch.get_num_threads(),
        "error": "the native library is not loaded" if native_missing else None,
    }
    if not native_missing:
        facts["isa_available"] = list(native().isa_available())
        try:
            facts["isa_in_use"] = native().isa_in_use()
        except RuntimeError as error:  # DENOISE_EXT_CPU_ISA names what this processor cannot run
            facts["error"] = str(error)
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cuda(
    native_missing: str | None, build: dict[str, Any], operators: dict[str, list[str]]
) -> dict[str, Any]:
    status = {"devices": [], "error": None} if native_missing else native().cuda_status()
    if status["error"] and build.get("cuda") and not _has_driver():
        status = {**status, "error": "no NVIDIA driver found"}
    with_kernel = [name for name, devices in operators.items() if "cuda" in devices]
    reason = (
        _why_unusable(native_missing, build, status, with_kernel)
        or _why_device_unusable(build, status["devices"])
    )  # fmt: skip
    return {
        "in_build": bool(build.get("cuda")),
        "driver": _has_driver(),
        "driver_version": status.get("driver_version"),
        "version": build.get("cuda_version"),
        "architectures": build.get("cuda_archs"),
        "architectures_of": build.get("cuda_archs_of"),
        "torch": torch.version.cuda,
        "devices": [dict(device) for device in status["devices"]],
        "operators": with_kernel,
        "usable": reason is None,
        "error": reason,
    }


def _has_driver() -> bool:
    """Whether NVIDIA's driver is there: its kernel module (Linux), or its library (WSL)."""
    if os.path.exists("/proc/driver/nvidia/version"):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _why_unusable(
    native_missing: str | None,
    build: dict[str, Any],
    status: dict[str, Any],
    with_kernel: list[str],
) -> str | None:
    if native_missing:
        return "the native library is not loaded"
    if not build["cuda"]:
        return status["error"]
    if not with_kernel:
        return "the build was made with nvcc, but no operator has a CUDA kernel yet"
    if status["error"]:
        return status["error"]
    if torch.version.cuda is None:
        return (
            f"PyTorch {torch.__version__} is built without CUDA; install a CUDA build of PyTorch"
            " (this package need not be rebuilt)"
        )
    if not torch.cuda.is_available():
        return "PyTorch cannot use the GPU (torch.cuda.is_available() is False)"
    return None


def _why_device_unusable(build: dict[str, Any], devices: list[dict[str, str]]) -> str | None:
    """None when one of the GPUs runs code of the build's architectures."""
    archs = str(build.get("cuda_archs") or "")
    if any(runs_on(archs, device["capability"]) for device in devices):
        return None
    found = ", ".join(f"{d['name']} ({d['capability']})" for d in devices)
    return f"the build holds code for {archs or 'nothing'}, the GPU is {found or 'none'}"


def runs_on(archs: str, capability: str) -> bool:
    """Whether code for `archs` runs on a GPU of this compute capability.

    Machine code of X.Y runs on GPUs of major version X with a minor version of at least Y; PTX
    ("+PTX", or "-virtual" for PTX alone) is compiled by the driver for capabilities from X.Y on.

    Args:
        archs: as in TORCH_CUDA_ARCH_LIST, separated by space, comma or semicolon: "7.5 9.0+PTX";
            or "8.0-virtual".
        capability: "8.6".
    """
    major, minor = (int(part) for part in capability.split("."))
    for arch in archs.replace(",", " ").replace(";", " ").split():
        number = arch.removesuffix("+PTX").removesuffix("-virtual")
        have_major, _, have_minor = number.partition(".")
        if not (have_major.isdigit() and have_minor.rstrip("af").isdigit()):
            continue
        have = (int(have_major), int(have_minor.rstrip("af")))
        exact = not have_minor.isdigit()  # 9.0a: this capability alone
        if have == (major, minor) or (not exact and have[0] == major and have[1] <= minor):
            return True
        if arch.endswith(("+PTX", "-virtual")) and have <= (major, minor):
            return True
    return False
