"""Benchmarks on the CPU: `python benchmarks/cpu.py --minutes 10` measures all and keeps it.

Each suite has a process of its own, and is written to `results/` as soon as it is done. README.md
has the method.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from harness.provenance import commit, processor  # noqa: E402
from on_cpu import plots, report  # noqa: E402
from on_cpu.suites import SUITES, measure  # noqa: E402


def cores() -> int:
    """Those this process may use, each counted once however many threads it runs at a time."""
    import torch

    return torch.get_num_threads()


def read(target: Path) -> dict:
    return json.loads(target.read_text()) if target.is_file() else {"subjects": {}}


def write(summary: dict, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n")
    pictures, problem = plots.draw(summary, target)
    target.with_suffix(".md").write_text(report.markdown(summary, pictures))
    if problem:
        print(f"no plots: {problem}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="for all suites (10)")
    parser.add_argument(
        "--only", nargs="+", choices=SUITES, metavar="SUITE", default=list(SUITES),
        help=f"measure these, keep the file's others: {', '.join(SUITES)}",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true", help="leave out what the file has of this commit"
    )
    parser.add_argument("--threads", type=int, help="for all contenders (default: physical cores)")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, no clock")
    parser.add_argument("--output", type=Path, help="folder (results; dry run: build)")
    parser.add_argument("--name", help="of the files (cpu and the processor's name)")
    return parser.parse_args()


def main() -> int:
    args = parse()
    threads = args.threads or cores()
    slug = re.sub(r"[^a-z0-9]+", "_", processor().lower()).strip("_")
    name = args.name or ("cpu_dry_run" if args.dry_run else f"cpu_{slug}_{threads}_threads")
    usual = ROOT / "build" if args.dry_run else HERE / "results"
    target = (args.output or usual) / f"{name}.json"
    summary = read(target)
    version = commit()
    wanted = [
        suite
        for suite in args.only
        if not (args.resume and report.is_complete(summary["subjects"].get(suite), version))
    ]
    end = time.monotonic() + 60 * args.minutes
    for number, suite in enumerate(wanted):
        if time.monotonic() > end and not args.dry_run:
            print(f"time is up before {', '.join(wanted[number:])}: --resume measures the rest")
            break
        shares = [SUITES[later].share for later in wanted[number:]]
        seconds = (end - time.monotonic()) * shares[0] / sum(shares)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        load = os.getloadavg()[0]
        found = measure(suite, seconds, threads, args.dry_run, args.cases)
        found |= {"commit": version, "started": started, "load_average_before": load}
        summary["subjects"][suite] = found
        summary["dry_run"] = args.dry_run
        write(summary, target)
        print(report.outcome(suite, found), flush=True)
    print(f"\n{target.with_suffix('.md').read_text()}\nwritten: {target}, .md and pictures")
    results = [summary["subjects"].get(suite) for suite in wanted]
    return int(any(result is None or report.problems(result) for result in results))


if __name__ == "__main__":
    sys.exit(main())
