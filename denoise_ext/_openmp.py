"""OpenMP's threads, which PyTorch and this package's kernels share."""

from __future__ import annotations

import ctypes
import sys


def release_threads() -> None:
    """End the OpenMP threads that wait for the calling thread; it gets new ones when it needs them.

    For a thread that leaves the arithmetic to another one from here on.  Each thread has threads of
    its own.  Where more are alive than processors, GNU's OpenMP lets all that wait sleep at once,
    and a small picture takes up to 1.3 times as long.
    """
    if not sys.platform.startswith("linux"):
        return
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if pause is not None:  # another OpenMP, or none
        pause(1)  # omp_pause_soft
