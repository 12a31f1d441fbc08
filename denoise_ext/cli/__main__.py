"""``python -m denoise_ext.cli`` and the script ``denoise-ext``: a process with one command."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any, NoReturn

from denoise_ext.cli import main


def process() -> NoReturn:
    """Run the command that the process was started with, and end the process."""
    code = main()
    if sys.argv[1:2] == ["denoise"]:
        _end_at_once(code)
    sys.exit(code)


def _end_at_once(code: int) -> None:
    """End as the interpreter does, but let the system free the memory.

    Taking PyTorch's modules apart object by object takes as long as denoising a photograph.  All
    files are written and closed by now.
    """
    _threads: Any = threading
    _threads._shutdown()  # ends idle workers of executors too, which joining them does not
    atexit._run_exitfuncs()
    flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # as it is where the process began without one
                stream.flush()
        except (OSError, ValueError):  # nobody reads it any more: the interpreter reports that
            flushed = False
    if flushed:
        os._exit(code)


if __name__ == "__main__":
    process()
