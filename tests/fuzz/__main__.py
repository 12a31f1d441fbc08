"""``python tests/fuzz``: run fuzz targets, or one case again."""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(TESTS), str(TESTS / "support")]

print_now = functools.partial(print, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Run random cases of every target.")
    parser.add_argument("--minutes", type=float, help="stop after so long (default: 1)")
    parser.add_argument("--cases", type=int, help="stop after so many cases of every target")
    parser.add_argument("--seed", type=int, help="of the first cases (default: random)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--only", default="", help="targets whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--case", metavar="TARGET:SEED", help="repeat one case in this process")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def repeat(targets: dict, case: str) -> int:
    """Run one case here, where a debugger sees it."""
    from fuzz import target
    from fuzz.worker import limit_memory, run_case

    target.verbose = True
    name, seed = case.rsplit(":", 1)
    limit_memory()
    outcome, text = run_case(targets[name], int(seed))
    print_now(f"{case}: {outcome}\n{text}".strip())
    return outcome == "finding"


def main() -> int:
    arguments = parse()
    if os.environ.get("DENOISE_EXT_SANITIZED_LIBRARY"):
        import sanitize.library  # noqa: F401  (loads it)
    from fuzz.runner import Run
    from fuzz.targets import all_targets
    from fuzz.worker import serve

    targets = {t.name: t for t in all_targets() if arguments.only in t.name}
    if arguments.list:
        print_now("\n".join(targets))
    elif arguments.serve:
        print_now("ready")
        serve(targets)
    elif arguments.case:
        return repeat(targets, arguments.case)
    else:
        seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
        minutes = 1.0 if arguments.minutes is None and arguments.cases is None else None
        minutes = minutes if arguments.minutes is None else arguments.minutes
        print_now(f"{len(targets)} targets, {arguments.jobs} processes, seed {seed}")
        run = Run(
            list(targets.values()), seed, minutes=minutes, cases=arguments.cases,
            jobs=arguments.jobs, report=print_now,
        )  # fmt: skip
        return bool(run.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
