"""One subject, in a process of its own: `python worker.py nets --seconds 60 --lines FILE`.

The environment (allocator, instruction set, threads) is the parent's affair: `on_cpu.subjects`.
Every finished case is one line of JSON in FILE, so that what was measured outlives a crash.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from denoise_ext._timing import Call, compare  # noqa: E402
from on_cpu import conv_cases, filter_cases, machine, network_cases  # noqa: E402
from on_cpu.cases import Absent, Case, Work  # noqa: E402
from on_cpu.quality import quality  # noqa: E402

CASES = {
    "nets": network_cases.network_cases,
    "stock": network_cases.stock_cases,
    "kernels": conv_cases.kernel_cases,
    "edges": conv_cases.edge_cases,
    "transposed": conv_cases.transposed_cases,
    "filters": filter_cases.filter_cases,
    "training": network_cases.training_cases,
    "avx2": conv_cases.avx2_cases,
}


def run_case(case: Case, seconds: float, tiny: bool) -> dict[str, object]:
    """Set everyone up, compare the results, then the times (not when tiny)."""
    start = time.monotonic()
    record: dict[str, object] = {
        "case": case.name,
        "targets": [asdict(target) for target in case.targets],
        "contenders": {},
    }
    work = case.build(tiny)
    record |= {"operations": work.operations, "moved_bytes": work.moved_bytes}
    calls, record["contenders"] = set_up(work)
    if tiny:
        return record | {"status": "dry"}
    left = seconds - (time.monotonic() - start)
    comparison = compare(calls, left)
    for name, timing in comparison.timings.items():
        record["contenders"][name] |= asdict(timing)
    return record | {
        "status": "timed",
        "other_load": comparison.other_load,
        "quiet": comparison.quiet,
        "seconds": time.monotonic() - start,
    }


def set_up(work: Work) -> tuple[dict[str, Call], dict[str, dict]]:
    """(those who take part, what there is to say about everyone)."""
    calls: dict[str, Call] = {}
    said: dict[str, dict] = {}
    expected: Tensor | None = None
    for contender in work.contenders:
        try:
            call = contender.make()
            value = call()
            if contender.result is not None:
                result = contender.result(value).detach().clone()
                expected = result if expected is None else expected
                said[contender.name] = {"difference": agree(result, expected, work.tolerance)}
        except Absent as reason:
            said[contender.name] = {"absent": str(reason)}
        except Exception as error:  # whoever's it is: the others are still worth their times
            traceback.print_exc()
            said[contender.name] = {"failed": one_line(error)}
        else:
            said.setdefault(contender.name, {}).update(contender.rates or {})
            calls[contender.name] = call
    return calls, said


def one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def agree(result: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest difference as a part of the expected result's scale, or ValueError."""
    if result.shape != expected.shape:
        raise ValueError(f"another shape: {tuple(result.shape)}, not {tuple(expected.shape)}")
    scale = 255.0 if expected.dtype == torch.uint8 else float(expected.abs().max())
    part = float((result.double() - expected.double()).abs().max()) / scale
    if not part <= tolerance:
        raise ValueError(f"another result: off by {part:.1e} of the scale, not {tolerance:.1e}")
    return part


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=[*CASES, "quality"])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lines", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    cases = [case for case in CASES.get(args.subject, list)() if args.only in case.name]
    with args.lines.open("a") as lines:

        def keep(record: dict[str, object]) -> None:
            print(json.dumps(record), file=lines, flush=True)

        facts = machine.facts()
        top = machine.ceilings(facts["instruction_set"], args.tiny)
        keep({"facts": facts, "ceilings": None if args.tiny else top})
        if args.subject == "quality":
            keep(quality(args.tiny))
        for number, case in enumerate(cases):
            print(f"{args.subject}: {case.name}", flush=True)
            # What earlier cases left over or took too much of is everybody's.
            share = case.weight / sum(later.weight for later in cases[number:])
            try:
                record = run_case(case, share * (end - time.monotonic()), args.tiny)
            except Exception as error:  # the next case is still worth its time
                traceback.print_exc()
                record = {"case": case.name, "status": "failed", "note": one_line(error)}
                record |= {"contenders": {}, "targets": []}
            keep(record)


if __name__ == "__main__":
    main()
