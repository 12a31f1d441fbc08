"""One process that checks and times cases, and writes a line of JSON for each.

A kernel that touches foreign memory takes the whole CUDA context of its process with it.
benchmarks/gpu.py then starts the next process after the case that failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("", "benchmarks", "tests", "tests/support")]

import torch  # noqa: E402

from denoise_ext import ops  # noqa: E402
from denoise_ext.ops._library import kernel_devices  # noqa: E402
from harness import records  # noqa: E402
from harness.cases import OURS, Absent  # noqa: E402
from harness.records import one_line  # noqa: E402
from harness.worker import set_up  # noqa: E402
from on_gpu.cases import KernelCase  # noqa: E402
from on_gpu.conv_cases import conv_cases  # noqa: E402
from on_gpu.filter_cases import filter_cases  # noqa: E402
from on_gpu.gradient_cases import gradient_cases  # noqa: E402
from on_gpu.machine import (  # noqa: E402
    DryRun,
    Gpu,
    Machine,
    Recorded,
    compare,
    measure_ceilings,
    prepare,
    time_limit,
)
from on_gpu.network_cases import network_cases  # noqa: E402

LOST_CONTEXT = 3  # exit status: this process can no longer use the GPU
COMPILE_SECONDS, CONTENDER_SECONDS = 45.0, 20.0  # not in a dry run
NO_TIME = "no time left"
MOST_ROUNDS, FEWEST_ROUNDS, CASE_MS = 21, 5, 1500.0


def all_cases(compiled: bool = True) -> list[KernelCase]:
    """Every case, the main ones of all kinds first, so that a short run has them.

    torch.compile takes up to 45 s to get ready: its contenders come last, in cases of their own, or
    not at all.
    """
    kinds = conv_cases(), gradient_cases(), filter_cases()
    first = [case for kind in kinds for case in kind[:4]]
    cases = [*first, *network_cases(), *(case for kind in kinds for case in kind[4:])]
    now, later = [], []
    for case in cases:
        slow = {name: one for name, one in case.others.items() if one.compiled}
        fast = {name: one for name, one in case.others.items() if not one.compiled}
        now.append(replace(case, others=fast))
        if slow:
            name = f"{case.name}, beside torch.compile"
            later.append(replace(case, name=name, others=slow, targets=()))
    return now + later if compiled else now


def is_lost(error: BaseException) -> bool:
    """Whether the CUDA context is unusable after this error."""
    text = str(error)
    return "CUDA error" in text and "out of memory" not in text


class Runner:
    """Runs cases on one machine until the time is up."""

    def __init__(self, machine: Machine, deadline: float, own_only: bool, tiny: bool) -> None:
        self.machine = machine
        self.deadline = deadline
        self.own_only = own_only
        self.tiny = tiny

    def time_left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, case: KernelCase) -> dict[str, object]:
        """The record of one case."""
        shape = case.dry_shape if self.tiny else case.shape
        record: dict[str, object] = {
            "case": case.name, "group": case.group, "shape": shape, "status": "timed",
            "moved_bytes": case.moved_bytes(shape), "operations": case.operations(shape),
            "targets": [asdict(target) for target in case.targets], "kernel": "", "contenders": {},
            "arithmetic": case.arithmetic,
        }  # fmt: skip
        missing = self._missing(case)
        if missing is not None:
            return record | {"status": "skipped", "note": missing}
        if self.time_left() < 2:
            return record | {"status": "skipped", "note": NO_TIME}
        # Under compute-sanitizer nothing is timed: one set of tensors is enough.
        sets = 1 if self.own_only else self.machine.set_count(record["moved_bytes"])
        device = torch.device(self.machine.device)
        tensors = [case.make(shape, device, 100 * seed) for seed in range(sets)]
        record["kernel"], record["variants"] = self._kernel(case)
        if self.own_only:
            case.ours(tensors[0])
            self.machine.synchronize()
            return record
        work = case.work(shape, tensors, self.machine.compile)
        slow = {name for name, way in case.others.items() if way.compiled}
        recorded, contenders = set_up(
            work,
            finish=partial(prepare, self.machine),
            guard=lambda contender: self._limit(contender.name in slow),
            fatal=is_lost,
        )
        if contenders[OURS].get("absent") == NO_TIME:
            return record | {"status": "skipped", "note": NO_TIME}
        for name, one in self._time(recorded).items():
            python = not (recorded[name].by_graph or self.machine.dry)
            contenders[name] |= one | ({"note": "called from Python"} if python else {})
        return record | {"contenders": contenders}

    def _missing(self, case: KernelCase) -> str | None:
        if self.machine.dry:
            from cuda_emulator import emulator

            present = case.needs in emulator().operator_names()
        else:
            present = "cuda" in kernel_devices(case.needs)
        return None if present else f"{case.needs} has no CUDA kernel in this build"

    def _kernel(self, case: KernelCase) -> tuple[str, list[str]]:
        """(the kernels chosen for the full shape, all there are), by ops.explain."""
        if case.explained is None:
            return "", []
        op, args, kwargs = case.explained(case.make(case.shape, torch.device("meta"), 0))
        text = ops.explain(op, *args, device=self.machine.explained_as, **kwargs)
        # A gradient's steps have headings, and "none" where one is not needed.
        lines = [line.split(": ", 1) for line in text.splitlines() if not line.endswith(":")]
        kernels = [(name, state) for name, state in lines if name != "none"]
        chosen = [name for name, state in kernels if state.startswith("chosen")]
        return ", ".join(chosen), [name for name, _ in kernels]

    @contextmanager
    def _limit(self, slow: bool) -> Iterator[None]:
        """Absent for a contender that takes too long to get ready."""
        allowed = COMPILE_SECONDS if slow else CONTENDER_SECONDS
        allowed = 600.0 if self.machine.dry else allowed
        limit = min(allowed, self.time_left())
        if limit < 1:
            raise Absent(NO_TIME)
        try:
            with time_limit(limit):
                yield
        except TimeoutError as error:
            raise Absent(NO_TIME if limit < allowed else str(error)) from error

    def _time(self, recorded: dict[str, Recorded]) -> dict[str, dict[str, float]]:
        if self.machine.dry or not recorded:
            return {}
        once = sum(self.machine.milliseconds(one.replay) for one in recorded.values())
        budget = min(CASE_MS, 500 * max(self.time_left(), 0))
        rounds = min(max(int(budget / once), FEWEST_ROUNDS), MOST_ROUNDS)
        timings = compare(self.machine, recorded, rounds)
        return {name: asdict(one) for name, one in timings.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="file to append to")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--own-only", action="store_true", help="run ours, time nothing")
    parser.add_argument("--tiny", action="store_true", help="the small shapes")
    parser.add_argument("--skip", nargs="*", default=[], help="cases that are done")
    args = parser.parse_args()
    # Exact float32 on both sides; the cases with tf32 allow it by themselves.
    torch.backends.cudnn.allow_tf32 = False
    deadline = time.monotonic() + args.seconds
    machine = DryRun() if args.dry_run else Gpu()
    runner = Runner(machine, deadline, args.own_only, args.tiny or args.dry_run)
    with (
        open(args.output, "a", encoding="utf-8") as lines,
        torch.inference_mode(),
        machine.operators(),
    ):
        return run_cases(runner, set(args.skip), partial(records.write, lines))


def run_cases(runner: Runner, done: set[str], write: Callable[[dict], None]) -> int:
    if not done:
        write({"facts": runner.machine.facts()})
        if not runner.own_only:
            write({"ceilings": measure_ceilings(runner.machine, 2 if runner.machine.dry else 11)})
        runner.machine.release()
    for case in all_cases(compiled=not runner.own_only):
        if case.name in done:
            continue
        write({"started": case.name})
        try:
            record = runner.run(case)
        except Exception as error:
            if runner.machine.dry:
                raise
            write(records.unfinished(case.name, one_line(error), group=case.group))
            if is_lost(error):
                return LOST_CONTEXT
            record = None
        if record is not None:
            write(record)
        runner.machine.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
