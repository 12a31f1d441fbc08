"""Run one call under the emulator, and print as JSON how it ended: ``python -m ... CALL``.

In a process of its own because one process can load one library of emulated operators only.
"""

from __future__ import annotations

import json
import re
import sys

from cuda_emulator import emulated_cuda
from cuda_emulator.faults.calls import CALLS, TOLERANCE


def run(name: str, seed: int) -> tuple[str | None, str]:
    """(kind of error or None, message)."""
    try:
        with emulated_cuda(seed):
            error = CALLS[name]()
    except RuntimeError as failure:
        kind = re.search(r"CUDA emulator: ([a-z ]+): ", str(failure))
        return (kind[1] if kind else "other error"), str(failure)
    return (None, "") if error <= TOLERANCE else ("wrong result", f"relative error {error:.3g}")


def main() -> int:
    for name in sys.argv[1:]:
        for seed in (0, 1):
            print(json.dumps([name, seed, *run(name, seed)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
