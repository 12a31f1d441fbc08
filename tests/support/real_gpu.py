"""Whether there is a GPU to test on."""

from __future__ import annotations

import torch

from denoise_ext._loader import native_error
from denoise_ext.ops._library import kernel_devices


def missing_gpu() -> str | None:
    """What these tests need and this machine or build lacks."""
    if reason := native_error():
        return f"the native library: {reason}"
    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use"
    if "cuda" not in kernel_devices("conv2d"):
        return "the build has no CUDA kernels"
    return None
