"""Silencing the warnings of decoders, in any number of threads at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_inside = 0
_silence: warnings.catch_warnings | None = None


@contextmanager
def no_warnings() -> Iterator[None]:
    """No warning is shown while any thread is inside ("corrupt EXIF" and the like).

    `warnings.catch_warnings` alone is not enough: two threads that overlap would leave the filters
    of one of them behind for good.
    """
    global _inside, _silence
    with _LOCK:
        if _inside == 0:
            _silence = warnings.catch_warnings()
            _silence.__enter__()
            warnings.simplefilter("ignore")
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                _silence.__exit__(None, None, None)
