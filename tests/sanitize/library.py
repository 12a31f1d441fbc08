"""Let ``denoise_ext`` find another build of its native library, and the variables it needs."""

from __future__ import annotations

import importlib.util
import os
import sys


def use_library(path: str) -> None:
    """Load `path` as ``denoise_ext._native``, before anything imports ``denoise_ext``."""
    import torch  # noqa: F401  (its shared libraries must be loaded before ours)

    if "denoise_ext" in sys.modules:
        raise RuntimeError("denoise_ext is imported already, with the library beside it")
    spec = importlib.util.spec_from_file_location("denoise_ext._native", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["denoise_ext._native"] = module
    spec.loader.exec_module(module)


if path := os.environ.get("DENOISE_EXT_SANITIZED_LIBRARY"):  # pytest -p sanitize.library
    use_library(path)
