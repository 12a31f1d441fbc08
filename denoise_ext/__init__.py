"""Image denoising for PyTorch: fast operators, drop-in layers, trained models, a command line."""

# pyright: reportUnsupportedDunderAll=false
from __future__ import annotations

import importlib

__version__ = "0.2.0.dev0"

_SUBPACKAGES = (
    "analysis", "codec", "data", "engine", "export", "integrations", "io", "jobs", "metrics",
    "models", "nn", "ops", "reference", "report", "resampling", "restore", "runtime", "service",
    "tasks", "training",
)  # fmt: skip

# The most used names, under the package's own name.
_NAMES = {
    "Denoiser": "tasks", "NoiseProfile": "tasks", "VideoDenoiser": "tasks", "accelerate": "engine",
    "analyse_noise": "tasks", "denoise": "tasks", "info": "_info",
}  # fmt: skip

__all__ = ["__version__", *_NAMES, *_SUBPACKAGES]  # for checkers: `__init__.pyi`


def __getattr__(name: str) -> object:
    """Import subpackages on first use, so that ``denoise-ext --help`` need not load torch."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"denoise_ext.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"denoise_ext.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'denoise_ext' has no attribute {name!r}")
