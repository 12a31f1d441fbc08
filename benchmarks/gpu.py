"""Check and time every CUDA kernel on this machine's GPU: ``python benchmarks/gpu.py``.

Takes the library that is there or compiles it, runs the tests of the primitives and of every
operator on the GPU, compute-sanitizer on small shapes where it works, then times each kernel
against PyTorch, cuDNN, torch.compile and plain CUDA.  Needs torch >= 2.11, numpy, pytest, and to
compile, nvcc.  Stays within ``--minutes``; what did not fit is in the report as skipped.
Ends with 0 when nothing failed, 1 when something did, 2 without a GPU.

``--dry-run`` goes through all of it on the CPU, on small shapes, with the emulated kernels, and
times nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from harness import records  # noqa: E402
from harness.provenance import commit  # noqa: E402
from harness.report import problems  # noqa: E402
from on_gpu import report, sections  # noqa: E402
from on_gpu.sections import Section  # noqa: E402

# Seconds at most for each step, and what has to be left for timing when one begins.
LIMITS = {"build": 150, "primitives": 45, "operators": 120, "device": 45, "sanitizer": 75}
LEFT_FOR_TIMING = 150
MARGIN = 10  # seconds for starting, stopping and writing


def provenance(dry: bool) -> dict[str, object]:
    import numpy
    import torch

    from denoise_ext import __version__

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "dry_run": dry,
        "commit": commit(),
        "denoise_ext": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
    }


def why_not_here() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return "there is no GPU that PyTorch can use (--dry-run works without)"
    return None


class Schedule:
    """Shares out the time."""

    def __init__(self, minutes: float, dry: bool) -> None:
        self.dry = dry  # on a busy build server too
        self.deadline = time.monotonic() + (3600 if dry else 60 * minutes - MARGIN)

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def limit(self, step: str) -> float:
        limit = 1800.0 if self.dry else LIMITS[step]
        return max(min(limit, self.left() - LEFT_FOR_TIMING), 5.0)


def announce(section: Section) -> Section:
    print(f"{section.name}: {section.status} {section.note}", flush=True)
    for line in section.details:
        print(f"    {line}", flush=True)
    return section


def run_sections(dry: bool, schedule: Schedule, lines: Path) -> list[Section]:
    done = []

    def add(new: Section | list[Section]) -> None:
        done.extend(announce(one) for one in (new if isinstance(new, list) else [new]))

    add(sections.build(dry, schedule.limit("build")))
    if done[-1].status == "failed":
        return done
    add(sections.primitives(dry, schedule.limit("primitives")))
    add(sections.operators(dry, schedule.limit("operators")))
    add(sections.device(dry, schedule.limit("device")))
    add(sections.sanitizer(dry, schedule.limit("sanitizer")))
    add(sections.timing(dry, schedule.left(), lines))
    return done


def write_results(summary: dict, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")
    target = folder / f"{name}.md"
    target.write_text(report.markdown(summary))
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, nothing timed")
    parser.add_argument("--minutes", type=float, default=7.5, help="in all (7.5)")
    parser.add_argument("--output", type=Path, help="folder (benchmarks/results; dry run: build)")
    parser.add_argument("--name", help="of the two files (default: gpu and the device's name)")
    args = parser.parse_args()
    if not args.dry_run and (reason := why_not_here()):
        print(f"gpu.py: {reason}", file=sys.stderr)
        return 2
    facts = provenance(args.dry_run)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "records.jsonl")
        lines.touch()
        done = run_sections(args.dry_run, Schedule(args.minutes, args.dry_run), lines)
        found = records.read(lines)
    summary = report.summarise(facts, done, found)
    device = str(summary["provenance"].get("gpu", "")).removeprefix("NVIDIA ").lower()
    name = args.name or ("dry_run" if args.dry_run else f"gpu_{device.replace(' ', '_')}")
    usual = ROOT / "build" if args.dry_run else HERE / "results"
    target = write_results(summary, args.output or usual, name)
    print("\n" + target.read_text())
    print(f"written: {target} and .json")
    bad = [one["name"] for one in summary["sections"] if one["status"] == "failed"]
    return int(bool(bad or problems(summary["cases"])))


if __name__ == "__main__":
    sys.exit(main())
