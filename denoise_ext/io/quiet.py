"""Silencing the warnings of decoders, in any number of threads at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from denoise_ext.io.shared import SharedContext


@contextmanager
def _ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


no_warnings: SharedContext = SharedContext(_ignored)
"""No warning is shown while any thread is inside ("corrupt EXIF" and the like)."""
