"""Processes that begin at once: each is forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

import pytest


def warm_context() -> ForkServerContext:
    """How to start them. They have the environment of the first call: hand on what has changed.

    One process serves all tests of another, so that it imports what any of them needs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "denoise_ext.training", "killable_warm"])
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 hands no path on, and ignores what it cannot import.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context
