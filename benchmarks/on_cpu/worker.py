"""One suite, in a process of its own: `python worker.py nets --seconds 60 --lines FILE`.

`on_cpu.suites` sets the environment (allocator, instruction set, threads).
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402

from denoise_ext._timing import compare  # noqa: E402
from harness import records  # noqa: E402
from harness.cases import Case  # noqa: E402
from harness.records import one_line  # noqa: E402
from harness.worker import set_up  # noqa: E402
from on_cpu import conv_cases, filter_cases, machine, network_cases  # noqa: E402
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
    """Set all contenders up, compare the results, then the times (not when tiny)."""
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("suite", choices=[*CASES, "quality"])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lines", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    cases = [case for case in CASES.get(args.suite, list)() if args.only in case.name]
    with args.lines.open("a") as lines:
        facts = machine.facts()
        top = machine.ceilings(facts["instruction_set"], args.tiny)
        records.write(lines, {"facts": facts, "ceilings": None if args.tiny else top})
        if args.suite == "quality":
            records.write(lines, quality(args.tiny))
        for number, case in enumerate(cases):
            print(f"{args.suite}: {case.name}", flush=True)
            # Time that earlier cases left over, or took too much, is shared by all later ones.
            share = case.weight / sum(later.weight for later in cases[number:])
            try:
                record = run_case(case, share * (end - time.monotonic()), args.tiny)
            except Exception as error:  # the next case is still worth its time
                traceback.print_exc()
                record = records.unfinished(case.name, one_line(error))
            records.write(lines, record)


if __name__ == "__main__":
    main()
