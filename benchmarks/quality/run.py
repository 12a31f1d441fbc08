"""The command ``python benchmarks/quality.py``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from denoise_ext import info
from denoise_ext._loader import native_error
from denoise_ext._timing import QUIET_LOAD
from denoise_ext.cli.common import one_line, progress_bar, sigma_type, whole_number
from denoise_ext.io import check_target, write_atomically
from denoise_ext.tasks import Protocol
from quality import filters, measure, methods, plot
from quality.filters import Chosen
from quality.methods import Method, Skipped
from quality.table import markdown, middle_sigma
from quality.test_sets import TestSet, find_test_sets, training_crops

SIGMAS = (15.0, 25.0, 50.0)
EXAMPLE = """\
example:
  python benchmarks/quality.py data --out quality            writes quality.md, .json and .png
  python benchmarks/quality.py data --out quality --resume   measures what is new, and all times"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="quality.py",
        description="Measure PSNR, SSIM, time and size of every shipped network, published"
        " checkpoint and filter on Set12, BSD68, CBSD68, Kodak24, Set5, Set14 and photographs that"
        " no recipe trains on, on the CPU.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "data", nargs="?", metavar="DATA",
        help="folder with test/Set12, test/BSD68, ... (default: $DENOISE_EXT_DATA)",
    )  # fmt: skip
    parser.add_argument(
        "--out", required=True, metavar="NAME", help="write NAME.md, NAME.json and NAME.png"
    )
    parser.add_argument(
        "--checkpoints", metavar="FOLDER",
        help="checkpoint files of others (default: DATA/published_weights)",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, nargs="+", default=SIGMAS, metavar="S",
        help="noise levels to add, on the 0-255 scale (default: 15 25 50)",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the noise (default: 0)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true",
        help="keep what NAME.json has of the same weights, images and protocol; times are new",
    )  # fmt: skip
    existing.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything and write the three files; returns the exit code."""
    args = parse(argv)
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"quality.py: error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    data = _data_folder(args)
    if native_error() is not None:
        raise ValueError(f"this benchmark measures the native kernels: {native_error()}")
    earlier = _earlier(args)
    protocol = Protocol(args.seed, round_output=False)
    sigmas = sorted(set(args.sigma))
    sets = find_test_sets(data)
    document = _facts(protocol, sigmas, sets)
    found, chosen, skipped = _methods(args, data, sets, sigmas, protocol)
    document["filters"] = [one.as_dict() for one in chosen]
    document["skipped"] = [{"name": one.name, "reason": one.reason} for one in skipped]
    _measure(args, document, found, sets, protocol, earlier)
    _time(document, found, args.quiet)
    _write(args, document)


def _data_folder(args: argparse.Namespace) -> Path:
    if 0 in args.sigma:
        raise ValueError("--sigma must be > 0: there is nothing to remove at 0")
    given = args.data or os.environ.get("DENOISE_EXT_DATA")
    if given is None:
        raise ValueError("DATA or $DENOISE_EXT_DATA is required: a folder with test/BSD68, ...")
    if not Path(given).is_dir():
        raise ValueError(f"{given}: no such folder")
    return Path(given)


def _targets(out: str) -> dict[str, Path]:
    return {end: Path(f"{out}.{end}") for end in ("md", "json", "png")}


def _earlier(args: argparse.Namespace) -> dict[str, Any]:
    """What --resume goes on from; {} for nothing. Raises where a file cannot be written."""
    targets = _targets(args.out)
    for target in targets.values():
        check_target(target, args.overwrite or args.resume)
    if not (args.resume and targets["json"].exists()):
        return {}
    try:
        document = json.loads(targets["json"].read_text("utf-8"))
        return {key: document[key] for key in ("protocol", "sets", "methods")}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{targets['json']}: not written by quality.py ({error!r})") from None


def _facts(protocol: Protocol, sigmas: list[float], sets: list[TestSet]) -> dict[str, Any]:
    facts = info()
    return {
        "denoise_ext": facts["versions"]["denoise_ext"],
        "torch": torch.__version__,
        "machine": {
            "processor": facts["cpu"]["processor"],
            "instruction_set": facts["cpu"]["isa_in_use"],
            "threads": torch.get_num_threads(),
        },
        "written": datetime.now(UTC).date().isoformat(),
        "protocol": dataclasses.asdict(protocol) | {"in_words": protocol.describe()},
        "sigmas": sigmas,
        "sets": {
            one.name: {
                "channels": one.channels, "images": len(one.images), "sha256": one.sha256
            }
            for one in sets
        },
        "methods": [],
    }  # fmt: skip


def _methods(
    args: argparse.Namespace,
    data: Path,
    sets: list[TestSet],
    sigmas: list[float],
    protocol: Protocol,
) -> tuple[list[Method], list[Chosen], list[Skipped]]:
    """What fits the images there are; the filters' parameters; what is missing."""
    kinds = {one.channels for one in sets}
    folder = Path(args.checkpoints) if args.checkpoints else data / "published_weights"
    checkpoints, skipped = methods.published_checkpoints(folder)
    chosen, absent = _choose_filters(data, sorted(kinds), sigmas, protocol, args.quiet)
    found = [
        *(methods.noisy_image(channels) for channels in sorted(kinds)),
        *map(filters.method, chosen),
        *methods.shipped_networks(),
        *checkpoints,
    ]
    return [one for one in found if one.channels in kinds], chosen, [*skipped, *absent]


def _choose_filters(
    data: Path, kinds: list[int], sigmas: list[float], protocol: Protocol, quiet: bool
) -> tuple[list[Chosen], list[Skipped]]:
    wanted, absent = [], []
    for one in (filters.GAUSSIAN, filters.BILATERAL, filters.non_local_means()):
        (absent if isinstance(one, Skipped) else wanted).append(one)
    try:
        crops = {channels: training_crops(data, channels) for channels in kinds}
    except ValueError as error:
        reason = f"its parameters are chosen on training images: {error}"
        return [], [*absent, *(Skipped(one.name, reason) for one in wanted)]
    chosen = []
    with progress_bar(quiet) as progress:
        task = progress.add_task("choosing parameters", total=len(wanted) * len(kinds))
        for channels in kinds:
            for one in wanted:
                progress.update(task, description=f"choosing parameters: {one.name}")
                chosen.append(filters.choose(one, channels, crops[channels], sigmas, protocol))
                progress.advance(task)
    return chosen, absent


def _measure(
    args: argparse.Namespace,
    document: dict[str, Any],
    found: list[Method],
    sets: list[TestSet],
    protocol: Protocol,
    earlier: dict[str, Any],
) -> None:
    """Fill in the figures; the JSON file is written after every method, for --resume."""
    sigmas = document["sigmas"]
    kinds = {images.channels: [] for images in sets}
    for images in sets:
        kinds[images.channels].append(images)

    def steps(one: Method, images: TestSet) -> int:
        return len(images.images) * len(measure.measured_sigmas(one, sigmas))

    total = sum(steps(one, images) for one in found for images in kinds[one.channels])
    with progress_bar(args.quiet) as progress:
        task = progress.add_task("measuring", total=total)
        for one in found:
            row = _row(one)
            for images in kinds[one.channels]:
                progress.update(task, description=f"{one.name}, {images.name}")
                known = known_figures(earlier, document, row, images.name)
                if known is None:
                    tick = partial(progress.advance, task)
                    known = measure.figures(one, images, sigmas, protocol, tick)
                else:
                    progress.advance(task, steps(one, images))
                row["figures"][images.name] = known
            document["methods"].append(row)
            _write_json(args, document)
            args.overwrite = True  # it is ours now


def _row(one: Method) -> dict[str, Any]:
    """A method of the document, not yet measured."""
    return {
        "name": one.name, "kind": one.kind, "channels": one.channels, "identity": one.identity,
        "parameters": one.parameters, "bytes": one.file_bytes, "only_sigma": one.only_sigma,
        "figures": {}, "seconds_per_megapixel": None,
    }  # fmt: skip


def known_figures(
    earlier: dict[str, Any], document: dict[str, Any], row: dict[str, Any], set_name: str
) -> list[dict[str, float]] | None:
    """The figures that an earlier run has of the same weights, images and protocol."""
    if _settings(earlier) != _settings(document):
        return None
    if earlier["sets"].get(set_name) != document["sets"][set_name]:
        return None
    key = ("name", "channels", "identity", "only_sigma")
    for other in earlier["methods"]:
        if all(other.get(name) == row[name] for name in key):
            known = {one["sigma"]: one for one in other["figures"].get(set_name, [])}
            wanted = [s for s in document["sigmas"] if row["only_sigma"] in (None, s)]
            return [known[s] for s in wanted] if all(s in known for s in wanted) else None
    return None


def _settings(document: dict[str, Any]) -> dict[str, Any]:
    """The protocol without its description, whose wording may change."""
    return {key: x for key, x in document.get("protocol", {}).items() if key != "in_words"}


def _time(document: dict[str, Any], found: list[Method], quiet: bool) -> None:
    """Times of this run: times of different runs are not comparable."""
    sigma = middle_sigma(document)
    document["timing"] = {
        "how": f"one image of {measure.SIDE}x{measure.SIDE}, noise of sigma {sigma:g}; networks as"
        " `denoise-ext denoise` runs them (by `Denoiser`: planned, float32, weights packed before),"
        " filters by one call; all methods interleaved in one process, after a warm-up",
        "quiet_below": QUIET_LOAD,
        "other_load": {},
    }
    kinds = sorted({one.channels for one in found})
    with progress_bar(quiet) as progress:
        task = progress.add_task("taking times", total=len(kinds))
        for channels in kinds:
            group = [one for one in found if one.channels == channels]
            times, load = measure.times(group, sigma, measure.SECONDS)
            document["timing"]["other_load"][str(channels)] = load
            for row in document["methods"]:
                if row["channels"] == channels:
                    row["seconds_per_megapixel"] = times.get(row["name"])
            progress.advance(task)


def _write_json(args: argparse.Namespace, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1) + "\n"
    target = _targets(args.out)["json"]
    write_atomically(target, text.encode(), args.overwrite or args.resume)


def _write(args: argparse.Namespace, document: dict[str, Any]) -> None:
    targets, drawn = _targets(args.out), None
    try:
        drawn = plot.draw(document)
    except ImportError:
        print("no picture: matplotlib is not installed: pip install matplotlib")
    if drawn is not None:
        write_atomically(targets["png"], drawn, overwrite=True)
    text = markdown(document, targets["png"].name if drawn is not None else None)
    write_atomically(targets["md"], text.encode(), overwrite=True)
    _write_json(args, document)
    written = ", ".join(str(path) for end, path in targets.items() if end != "png" or drawn)
    print(f"{text}\nwritten: {written}")
