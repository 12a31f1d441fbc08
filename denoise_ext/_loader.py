"""Loads the native library once and keeps the reason when that fails.

Importing the extension module registers every ``torch.ops.denoise_ext.*`` operator, so nothing
else in the package imports it directly: one place decides, one place explains.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch  # its shared libraries must be loaded before ours

from denoise_ext._tf32 import tf32_allowed

_MINIMUM_TORCH = (2, 11)


def _load() -> tuple[ModuleType | None, str | None]:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _MINIMUM_TORCH:
        return None, (
            f"torch {torch.__version__} is installed, but denoise_ext needs torch >= "
            f"{'.'.join(map(str, _MINIMUM_TORCH))} (its operators use that release's stable ABI)"
        )
    try:
        module = importlib.import_module("denoise_ext._native")
    except ModuleNotFoundError as error:
        if error.name != "denoise_ext._native":
            raise
        return None, (
            "the compiled library denoise_ext._native is not there; in a source tree build it "
            "with `make build` (or `pip install --no-build-isolation -e .`)"
        )
    except ImportError as error:
        return None, f"the compiled library denoise_ext._native does not load: {error}"
    module.set_tf32_query(tf32_allowed)
    return module, None


_module, _error = _load()


def native() -> ModuleType:
    """Return the compiled module.

    Raises:
        RuntimeError: it could not be loaded; the message has the reason and a remedy.
    """
    if _module is None:
        raise RuntimeError(
            f"denoise_ext's native operators are unavailable: {_error}. "
            "denoise_ext.reference works without them (plain PyTorch, slower)."
        )
    return _module


def native_error() -> str | None:
    """Return why the native library is unavailable, or None when it is loaded."""
    return _error
