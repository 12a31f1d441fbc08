"""One process that checks and times cases, and writes a line of JSON for each.

A process of its own, because a kernel that touches foreign memory takes the whole CUDA context
with it: benchmarks/gpu.py then starts the next one after the case that failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from denoise_ext import ops  # noqa: E402
from denoise_ext.ops._library import kernel_devices  # noqa: E402
from on_gpu.cases import Case, Contender, Targets, Tensors  # noqa: E402
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


def all_cases(compiled: bool = True) -> list[Case]:
    """Every case, the main ones of all kinds first, so that a short run has them.

    torch.compile takes up to 45 s to get ready: its contenders come after everything else, in cases
    of their own, or not at all.
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
            later.append(replace(case, name=name, others=slow, targets=Targets()))
    return now + later if compiled else now


def worst_difference(result: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    if result.shape != expected.shape:
        raise ValueError(f"shape {tuple(result.shape)}, ours is {tuple(expected.shape)}")
    expected = expected.float()
    difference = (result.float() - expected).abs().max()
    return float(difference / expected.abs().max().clamp_min(1e-30))


def is_lost(error: BaseException) -> bool:
    """Whether the CUDA context is unusable after this error."""
    text = str(error)
    return "CUDA error" in text and "out of memory" not in text


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


class Runner:
    """Runs cases on one machine until the time is up."""

    def __init__(self, machine: Machine, deadline: float, own_only: bool, tiny: bool) -> None:
        self.machine = machine
        self.deadline = deadline
        self.own_only = own_only
        self.tiny = tiny

    def time_left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, case: Case) -> dict[str, object]:
        """The record of one case."""
        shape = case.dry_shape if self.tiny else case.shape
        record: dict[str, object] = {
            "case": case.name, "group": case.group, "shape": shape, "status": "timed",
            "bytes": case.moved_bytes(shape), "operations": case.operations(shape),
            "targets": asdict(case.targets), "kernel": "", "results": {},
            "arithmetic": case.arithmetic,
        }  # fmt: skip
        missing = self._missing(case)
        if missing is not None:
            return record | {"status": "skipped", "note": missing}
        if self.time_left() < 2:
            return record | {"status": "skipped", "note": NO_TIME}
        # Under compute-sanitizer nothing is timed, so no tensors are needed that take turns.
        sets = 1 if self.own_only else self.machine.set_count(record["bytes"])
        device = torch.device(self.machine.device)
        inputs = [case.make(shape, device, 100 * seed) for seed in range(sets)]
        record["kernel"], record["variants"] = self._kernel(case)
        expected = case.ours(inputs[0])
        if not bool(torch.isfinite(expected.float()).all()):
            return record | {"status": "failed", "note": "the result is not finite"}
        if self.own_only:
            self.machine.synchronize()
            return record
        recorded, notes = self._record_all(case, inputs, expected)
        self._time(record, recorded, notes)
        wrong = [note for note in notes.values() if "differs" in note]
        if "denoise_ext" not in recorded and notes["denoise_ext"] == NO_TIME:
            return record | {"status": "skipped", "note": NO_TIME}
        if wrong or "denoise_ext" not in recorded:
            record["status"] = "failed"
        return record

    def _missing(self, case: Case) -> str | None:
        if self.machine.dry:
            from cuda_emulator import emulator

            present = case.needs in emulator().operator_names()
        else:
            present = "cuda" in kernel_devices(case.needs)
        return None if present else f"{case.needs} has no CUDA kernel in this build"

    def _kernel(self, case: Case) -> tuple[str, list[str]]:
        """(the kernels chosen for the full shape, all there are), as ops.explain tells."""
        if case.explained is None:
            return "", []
        op, args, kwargs = case.explained(case.make(case.shape, torch.device("meta"), 0))
        text = ops.explain(op, *args, device=self.machine.explained_as, **kwargs)
        # A gradient's steps have headings, and "none" where one is not needed.
        lines = [line.split(": ", 1) for line in text.splitlines() if not line.endswith(":")]
        told = [(name, said) for name, said in lines if name != "none"]
        chosen = [name for name, said in told if said.startswith("chosen")]
        return ", ".join(chosen), [name for name, _ in told]

    def _function(self, contender: Contender) -> Callable[[Tensors], Tensor]:
        return self.machine.compile(contender.run) if contender.compiled else contender.run

    def _record_all(
        self, case: Case, inputs: list[Tensors], expected: Tensor
    ) -> tuple[dict[str, Recorded], dict[str, str]]:
        """Everyone who agrees with us, ready to be timed; and why the others are not."""
        recorded, notes = {}, {}
        for name, contender in case.contenders.items():
            allowed = COMPILE_SECONDS if contender.compiled else CONTENDER_SECONDS
            allowed = 600.0 if self.machine.dry else allowed
            limit = min(allowed, self.time_left())
            if limit < 1:
                notes[name] = NO_TIME
                continue
            try:
                with time_limit(limit):
                    recorded[name], notes[name] = self._record(case, contender, inputs, expected)
            except TimeoutError as error:
                notes[name] = NO_TIME if limit < allowed else str(error)
            except Exception as error:
                if self.machine.dry and contender.dry_error is not None:
                    if isinstance(error, contender.dry_error):
                        notes[name] = "not on the CPU"
                        continue
                    raise
                if self.machine.dry or is_lost(error) or name == "denoise_ext":
                    raise
                notes[name] = one_line(error)
        return {name: one for name, one in recorded.items() if one is not None}, notes

    def _record(
        self, case: Case, contender: Contender, inputs: list[Tensors], expected: Tensor
    ) -> tuple[Recorded | None, str]:
        run = self._function(contender)
        prepared = [contender.prepare(tensors) for tensors in inputs]
        worst = worst_difference(run(prepared[0]), expected)
        if not worst <= case.tolerance:
            return None, f"differs from ours by {worst:.2g} of the largest value"
        calls = [lambda tensors=tensors: run(tensors) for tensors in prepared]
        one = prepare(self.machine, calls)
        return one, "" if one.by_graph or self.machine.dry else "calls from Python, no CUDA graph"

    def _time(
        self, record: dict[str, object], recorded: dict[str, Recorded], notes: dict[str, str]
    ) -> None:
        once = sum(self.machine.milliseconds(one.replay) for one in recorded.values())
        budget = min(CASE_MS, 500 * max(self.time_left(), 0))
        rounds = MOST_ROUNDS if not once > 0 else int(budget / once)
        rounds = 2 if self.machine.dry else min(max(rounds, FEWEST_ROUNDS), MOST_ROUNDS)
        timings = compare(self.machine, recorded, rounds) if recorded else {}
        record["results"] = {
            name: {"note": note, **(asdict(timings[name]) if name in timings else {})}
            for name, note in notes.items()
        }


def without_nan(value: object) -> object:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and value != value else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="file to append to")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--own-only", action="store_true", help="run ours, time nothing")
    parser.add_argument("--tiny", action="store_true", help="the small shapes")
    parser.add_argument("--skip", nargs="*", default=[], help="cases that are done")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    machine = DryRun() if args.dry_run else Gpu()
    runner = Runner(machine, deadline, args.own_only, args.tiny or args.dry_run)
    with (
        open(args.output, "a", encoding="utf-8") as lines,
        torch.inference_mode(),
        machine.operators(),
    ):
        return run_cases(runner, set(args.skip), lambda line: _write(lines, line))


def _write(lines, record: dict[str, object]) -> None:
    lines.write(json.dumps(without_nan(record)) + "\n")
    lines.flush()


def run_cases(runner: Runner, done: set[str], write: Callable[[dict], None]) -> int:
    if not done:
        write({"facts": runner.machine.facts()})
        if not runner.own_only:
            ceilings = measure_ceilings(runner.machine, 2 if runner.machine.dry else 11)
            write({"ceilings": asdict(ceilings)})
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
            write({"case": case.name, "group": case.group, "status": "failed",
                   "note": one_line(error)})  # fmt: skip
            if is_lost(error):
                return LOST_CONTEXT
            record = None
        if record is not None:
            write(record)
        runner.machine.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
