"""The filters of plain.cu, compiled on first use: by nvcc, or for a dry run by the emulator."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from harness.cases import channels_last

SOURCE = Path(__file__).with_name("plain.cu")
ROOT = SOURCE.parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests/support")]


def compile_with_nvcc(capability: str, target: Path) -> None:
    from cuda_report import find_tool

    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise RuntimeError("needs nvcc")
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", "-std=c++17", f"-arch=sm_{capability}", "-shared", "-Xcompiler=-fPIC"]
    subprocess.run([nvcc, *flags, str(SOURCE), "-o", str(target)], check=True)


@cache
def _library(on_gpu: bool) -> ctypes.CDLL:
    if on_gpu:
        major, minor = torch.cuda.get_device_capability()
        path = ROOT / "build" / "gpu_benchmark" / f"plain_sm_{major}{minor}.so"
        if not path.exists() or path.stat().st_mtime < SOURCE.stat().st_mtime:
            compile_with_nvcc(f"{major}{minor}", path)
    else:
        from cuda_emulator.build import build_test_library

        path = build_test_library(SOURCE, "shadow")
    library = ctypes.CDLL(str(path))
    pointer, integer, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    size = [integer, integer, integer]
    library.plain_bilateral.argtypes = [pointer, pointer, *size, real, real, pointer]
    library.plain_gaussian.argtypes = [pointer, pointer, pointer, *size, pointer]
    return library


def _check(x: Tensor) -> tuple[int, int]:
    n, channels, rows, cols = x.shape
    if (n, channels) != (1, 3) or x.dtype != torch.float32 or channels_last(x) is not x:
        raise ValueError(f"x must be (1, 3, H, W), float32, channels_last, got {x.shape} {x.dtype}")
    return rows, cols


def _stream(x: Tensor) -> int | None:
    return torch.cuda.current_stream().cuda_stream if x.is_cuda else None


def bilateral(x: Tensor, radius: int, sigma_color: float, sigma_space: float) -> Tensor:
    """Circular window, L1 distance of colours, reflected border; x (1, 3, H, W) float32."""
    rows, cols = _check(x)
    y = torch.empty_like(x)
    error = _library(x.is_cuda).plain_bilateral(
        x.data_ptr(), y.data_ptr(), rows, cols, radius,
        -0.5 / sigma_color**2, -0.5 / sigma_space**2, _stream(x),
    )  # fmt: skip
    if error:
        raise RuntimeError(f"plain_bilateral: CUDA error {error}")
    return y


def gaussian(x: Tensor, taps: Tensor) -> Tensor:
    """All k x k taps, reflected border; x (1, 3, H, W) float32, taps (k,) of sum 1."""
    rows, cols = _check(x)
    y = torch.empty_like(x)
    error = _library(x.is_cuda).plain_gaussian(
        x.data_ptr(), taps.data_ptr(), y.data_ptr(), rows, cols, len(taps) // 2, _stream(x)
    )
    if error:
        raise RuntimeError(f"plain_gaussian: CUDA error {error}")
    return y
