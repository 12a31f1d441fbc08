"""Choose the device: "auto", "cpu" or "cuda"; give the reason if it cannot be used."""

from __future__ import annotations

import torch

from denoise_ext._choices import check_choice
from denoise_ext._loader import native_error
from denoise_ext.ops import kernel_devices

BACKENDS = ("native", "torch")


def choose_device(
    device: str | torch.device | None = "auto", backend: str = "native"
) -> torch.device:
    """The device to compute on.

    Args:
        device: "auto" (or None): a CUDA GPU where `backend` can use one, else the CPU. "cpu",
            "cuda", "cuda:1" or a `torch.device`: that one or an error.
        backend: "native" (this package's kernels; on a GPU these must be in the build) or "torch"
            (plain PyTorch layers, any device PyTorch can use).

    Raises:
        ValueError: unknown device or backend name.
        RuntimeError: a device that cannot be used; the message gives the reason.

    Example:
        >>> denoise_ext.runtime.choose_device("cpu")
        device(type='cpu')
    """
    check_backend(backend)
    if device is None or device == "auto":
        return torch.device("cpu" if why_no_cuda(backend) else "cuda")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from None
    if chosen.type == "cuda":
        reason = why_no_cuda(backend)
        if reason:
            raise RuntimeError(f"device {str(device)!r} cannot be used: {reason}")
        if chosen.index is not None and chosen.index >= torch.cuda.device_count():
            raise ValueError(
                f"device {str(device)!r} does not exist: there are {torch.cuda.device_count()} GPUs"
            )
    elif chosen.type != "cpu":
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {str(device)!r}")
    return chosen


def why_no_cuda(backend: str = "native") -> str | None:
    """Return the reason why no CUDA GPU can be used, or None."""
    if torch.version.cuda is None:
        return f"the installed PyTorch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no usable CUDA GPU or driver"
    if backend == "torch":
        return None
    if native_error() is not None:
        return native_error()
    if "cuda" not in kernel_devices("conv2d"):
        return (
            "this build of denoise_ext has no CUDA kernel for convolutions (`denoise-ext info`"
            ' has the reason); the "torch" backend can use the GPU'
        )
    return None


def check_backend(backend: str) -> None:
    """Raise ValueError unless `backend` is one of BACKENDS."""
    check_choice("backend", backend, BACKENDS)
