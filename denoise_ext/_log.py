"""The package's loggers. ``import denoise_ext`` alone does not load ``logging``."""

from __future__ import annotations

import logging

# Silent until a program sets up logging; docs/inference.md names the loggers.
logging.getLogger("denoise_ext").addHandler(logging.NullHandler())


def get_logger(name: str) -> logging.Logger:
    """Return the logger ``name``, which is ``denoise_ext`` or below it."""
    return logging.getLogger(name)
