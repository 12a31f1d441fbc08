"""Other people's networks: how fast they could be with direct sums, beside how fast they are.

    python benchmarks/roofline.py                        # what is installed
    python benchmarks/roofline.py --only resnet convnext

The roofline of a network adds up its convolutions and matrix products.  Each takes the time of its
multiplications at the speed of a large matrix product here, or that of its bytes at the speed of a
copy of as many bytes, whichever is longer.  All else is free, as if it were fused.  Winograd's
algorithm and sums of branches take less products than that: a network may lie above its roofline.

All times are CPU times of one thread, so that other processes disturb them little.  The networks
are those of other_networks.py, in channels_last where it is faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from denoise_ext.io import write_atomically
from harness.provenance import commit, processor
from other_networks import CASES, Case, called, contenders

_SIDE = 1536  # of the large matrix product
_SIZES = [2**n for n in range(14, 29, 2)]  # bytes of copies: from the first-level cache to memory


def cpu_ms(call: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - start)


def shortest(call: Callable[[], object], rounds: int = 9) -> float:
    """CPU time of the shortest of a few calls."""
    return min(cpu_ms(call) for _ in range(rounds + 1))


class Machine:
    """What one thread reaches here: multiplications and bytes in a millisecond."""

    def __init__(self) -> None:
        a, b = torch.rand(2, _SIDE, _SIDE)
        self.flops = 2 * _SIDE**3 / shortest(lambda: a @ b)
        self._bytes = [self._copied(size) for size in _SIZES]

    @staticmethod
    def _copied(size: int) -> float:
        x, y = torch.rand(2, size // 8)  # read and written
        repeats = max(1, 2**24 // size)
        return size * repeats / shortest(lambda: [y.copy_(x) for _ in range(repeats)])

    def bytes(self, size: int) -> float:
        """The speed of a copy that reads and writes ``size`` bytes in all."""
        return self._bytes[sum(limit < size for limit in _SIZES[1:])]


class Roofline(TorchDispatchMode):
    """Adds up the shortest times of all products that run in it."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine, self.flops, self.ms = machine, 0.0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            flops = count(*args, **kwargs, out_val=result)
            tensors = [x for x in pytree.tree_leaves((args, result)) if isinstance(x, Tensor)]
            size = sum(x.numel() * x.element_size() for x in tensors)
            self.flops += flops
            self.ms += max(flops / self.machine.flops, size / self.machine.bytes(size))
        return result


def measure(case: Case, machine: Machine, rounds: int) -> tuple[float, float, float, float]:
    """Milliseconds of the faster original, of ours and of the roofline; and 10^9 operations."""
    calls = [partial(called, net, x, case) for net, x in contenders(case).values()]
    with torch.no_grad(), Roofline(machine) as roofline:  # inference mode hides operators from it
        calls[0]()
    with torch.inference_mode():
        times: list[list[float]] = [[], [], []]
        for number in range(rounds + 1):  # the first one warms up
            for i in range(3):
                which = (i + number) % 3
                times[which].append(cpu_ms(calls[which]))
    first, second, ours = (median(column[1:]) for column in times)
    return min(first, second), ours, roofline.ms, roofline.flops / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="names that contain one of these")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="the same table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = Machine()
    lines = [
        f"Commit {commit()}, {processor()}, torch {torch.__version__}, one thread, CPU time.",
        f"A large matrix product: {machine.flops / 1e6:.0f} GFLOP/s.",
        "",
        "| network | GFLOP | original ms | ours ms | roofline ms | original / ours |"
        " original / roofline | roofline / ours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print(*lines, sep="\n", flush=True)
    parts = [part.lower() for part in options.only] or [""]
    for case in CASES:
        if not any(part in case.name.lower() for part in parts):
            continue
        try:
            original, ours, roofline, flops = measure(case, machine, options.rounds)
        except Exception as error:  # a package that is missing, or of another version
            lines.append(f"| {case.name} | {type(error).__name__} |")
        else:
            lines.append(
                f"| {case.name} | {flops:.1f} | {original:.1f} | {ours:.1f} | {roofline:.1f} |"
                f" {original / ours:.2f} | {original / roofline:.2f} | {roofline / ours:.2f} |"
            )
        print(lines[-1], flush=True)
    if options.output is not None:
        document = "\n".join(lines) + "\n"
        write_atomically(options.output, document.encode(), overwrite=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
