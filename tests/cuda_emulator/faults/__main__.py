"""Try faults under the emulator: reads lines of JSON, answers each with one.

A line is [library, call, variant, multiprocessors]; the answer lists [seed, kind of error or None,
message].  Each runs in a fork of its own, because one process can load one library of emulated
operators only and importing torch takes longer than most calls.
"""

from __future__ import annotations

import json
import os
import re
import sys

import torch

from cuda_emulator import emulated_cuda
from cuda_emulator.faults.calls import CALLS, TOLERANCE

SEEDS = (0, 1)
torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as in conftest.py


def run(name: str, variant: str, multiprocessors: int, seed: int) -> tuple[str | None, str]:
    """(kind of error or None, message)."""
    try:
        with emulated_cuda(seed, variant=variant, multiprocessors=multiprocessors):
            error = CALLS[name]()
    except RuntimeError as failure:
        kind = re.search(r"CUDA emulator: ([a-z ]+): ", str(failure))
        return (kind[1] if kind else "other error"), str(failure)
    return (None, "") if error <= TOLERANCE else ("wrong result", f"relative error {error:.3g}")


def answer(library: str, call: str, variant: str, multiprocessors: int) -> None:
    os.environ["DENOISE_EXT_EMULATED_LIBRARY"] = library
    outcomes = [[seed, *run(call, variant, multiprocessors, seed)] for seed in SEEDS]
    print(json.dumps(outcomes), flush=True)


def main() -> int:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answer(*json.loads(line))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 0:
            print(json.dumps([[None, "crash", f"exit code {code}"]]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
