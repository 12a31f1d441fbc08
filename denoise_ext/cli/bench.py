"""``denoise-ext bench``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from denoise_ext.cli.common import output_console, whole_number

if TYPE_CHECKING:
    from denoise_ext.cli._bench_cases import BenchCase

# Height and width of the images, and seconds for each row of the table.
FULL, QUICK = (512, 3.0), (256, 0.5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "what", nargs="?", default="all", choices=("kernels", "nets", "filters", "all"),
        help="single layers, whole networks, filters (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK[0]}x{QUICK[0]} images and fewer repetitions"
    )
    parser.add_argument(
        "--threads", type=whole_number(1), metavar="N",
        help="threads for all libraries (default: PyTorch's number)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing FILE")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    import torch

    from denoise_ext import info
    from denoise_ext.cli._bench_cases import bench_cases
    from denoise_ext.cli.common import CliError
    from denoise_ext.io import write_atomically

    facts = info()
    if not facts["native"]["loaded"]:
        raise CliError(f"there is nothing to measure: {facts['native']['error']}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    size, seconds = QUICK if args.quick else FULL
    console = output_console()
    console.print(
        f"denoise_ext {facts['versions']['denoise_ext']}, torch {facts['versions']['torch']}; "
        f"{facts['cpu']['processor']}, {facts['cpu']['isa_in_use']}, "
        f"{torch.get_num_threads()} threads\n"
    )
    with torch.no_grad():
        rows = [measure(case, seconds) for case in bench_cases(args.what, size)]
    _print_table(console, rows)
    if args.json is not None:
        document = {
            "versions": facts["versions"],
            "cpu": facts["cpu"] | {"threads": torch.get_num_threads()},
            "image": [size, size],
            "cases": rows,
        }
        text = json.dumps(document, indent=2) + "\n"
        write_atomically(args.json, text.encode(), args.overwrite)
        console.print(f"\nfigures: {args.json}")
    return 0


def measure(case: BenchCase, seconds: float) -> dict[str, Any]:
    """Check that all contenders compute the same, then time them interleaved."""
    from dataclasses import asdict

    from denoise_ext._timing import compare

    case.check()
    comparison = compare(case.contenders, seconds)
    return {
        "case": case.name,
        "seconds": {name: asdict(timing) for name, timing in comparison.timings.items()},
        "other_load": comparison.other_load,
        "quiet": comparison.quiet,
    }


def _print_table(console: Any, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("ms", "10 to 90 % of turns", "denoise_ext is"):
        table.add_column(heading, justify="right")
    for row in rows:
        noisy = "" if row["quiet"] else "  (the machine was not quiet)"
        table.add_row(row["case"] + noisy, style="bold")
        own = row["seconds"]["denoise_ext"]["median"]
        for name, timing in row["seconds"].items():
            ratio = timing["median"] / own
            words = f"{ratio:.2f}x as fast" if name != "denoise_ext" else ""
            spread = f"{1e3 * timing['low']:.2f} - {1e3 * timing['high']:.2f}"
            table.add_row(f"  {name}", f"{1e3 * timing['median']:.2f}", spread, words)
    console.print(table)
    console.print(
        "\nMedians of interleaved rounds. Results were compared first. Below 1x, this package is"
        " slower."
    )
