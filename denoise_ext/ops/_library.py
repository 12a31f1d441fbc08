"""Find the native operators; give the reason if one is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from denoise_ext._loader import native, native_error

_DEVICE_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


def _missing(name: str) -> str | None:
    """Why the operator ``name`` cannot be called, or None when it can."""
    if native_error() is not None:
        return native_error()
    if not hasattr(torch.ops.denoise_ext, name):
        return f"the compiled library is older than this source tree and has no {name}; rebuild it"
    return None


def native_op(name: str) -> tuple[Callable[..., Any], bool]:
    """The operator ``torch.ops.denoise_ext.<name>`` and True, or one that raises, and False.

    The second value is whether fake kernels and gradients can be registered.
    """
    reason = _missing(name)
    if reason is None:
        return getattr(torch.ops.denoise_ext, name).default, True

    def unavailable(*args: object) -> NoReturn:
        native()  # raises with the loader's reason where the whole library is missing
        raise RuntimeError(f"denoise_ext.ops.{name} is unavailable: {reason}")

    return unavailable, False


def kernel_devices(name: str) -> frozenset[str]:
    """The device types that the operator ``name`` has a kernel for (``meta``: shapes alone)."""
    if _missing(name) is not None:
        return frozenset()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return frozenset(
        device for device, key in _DEVICE_KEYS.items() if has_kernel(f"denoise_ext::{name}", key)
    ) | {"meta"}


def raise_no_kernel(name: str, input: Tensor, devices: frozenset[str]) -> NoReturn:
    """Explain why ``name`` cannot run on the device of ``input``."""
    native()
    reason = _missing(name)
    if reason is not None:
        raise RuntimeError(f"denoise_ext.ops.{name} is unavailable: {reason}")
    raise ValueError(
        f"input is on {input.device}, where denoise_ext.ops.{name} has no kernel in this build "
        f"(it has them for: {', '.join(sorted(devices - {'meta'}))}); "
        f"denoise_ext.reference.{name} runs on every device"
    )


def forbid_double_backward(name: str) -> None:
    """Make differentiating through a backward operator a clear error instead of a silent zero."""

    def backward(ctx: object, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            f"denoise_ext::{name} is not differentiable: second derivatives are not implemented; "
            "denoise_ext.reference computes the same function and is differentiable twice"
        )

    torch.library.register_autograd(f"denoise_ext::{name}", backward)
