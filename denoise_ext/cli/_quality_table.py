"""``denoise-ext evaluate --table``."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoise_ext.cli.common import CliError, progress_bar

if TYPE_CHECKING:
    from denoise_ext.quality.filters import Chosen
    from denoise_ext.quality.methods import Method, Skipped
    from denoise_ext.quality.test_sets import TestSet
    from denoise_ext.tasks import Protocol

_SIGMAS = (15.0, 25.0, 50.0)
# What the command has for single models and folders.
_NOT_FOR_TABLES = (
    "model", "pairs", "recursive", "clip", "no_round", "crop", "gray", "per_image", "json",
)  # fmt: skip


def run_table(args: argparse.Namespace) -> int:
    """Measure everything, write the three files; returns the exit code."""
    from denoise_ext._loader import native_error
    from denoise_ext.quality.test_sets import find_test_sets
    from denoise_ext.tasks import Protocol

    data = _check(args)
    if native_error() is not None:
        raise CliError(f"--table measures this package's kernels: {native_error()}")
    earlier = _earlier(args)
    protocol = Protocol(args.seed, round_output=False)
    sigmas = sorted(set(args.sigma or _SIGMAS))
    sets = find_test_sets(data)
    document = _facts(protocol, sigmas, sets)
    methods, chosen, skipped = _methods(args, data, sets, sigmas, protocol)
    document["filters"] = [one.as_dict() for one in chosen]
    document["skipped"] = [{"name": one.name, "reason": one.reason} for one in skipped]
    _measure(args, document, methods, sets, protocol, earlier)
    _time(document, methods, args.quiet)
    _write(args, document)
    return 0


def _check(args: argparse.Namespace) -> Path:
    """The data folder, if the arguments fit each other."""
    for name in _NOT_FOR_TABLES:
        if getattr(args, name):
            raise CliError(f"--{name.replace('_', '-')} is not for --table")
    if tuple(args.part) != (0.0, 1.0):
        raise CliError("--part is for --pairs")
    if args.device not in ("auto", "cpu") or args.backend != "native":
        raise CliError("--table measures this package's kernels on the CPU: no --device, --backend")
    if args.out is None:
        raise CliError("--table needs --out NAME: it writes NAME.md, NAME.json and NAME.png")
    if args.resume and args.overwrite:
        raise CliError("--resume and --overwrite exclude each other")
    if 0 in (args.sigma or ()):
        raise CliError("--sigma must be > 0 with --table: there is nothing to remove at 0")
    if len(args.inputs) > 1:
        raise CliError(f"--table takes one folder (with test/BSD68, ...), got {len(args.inputs)}")
    given = args.inputs[0] if args.inputs else os.environ.get("DENOISE_EXT_DATA")
    if given is None:
        raise CliError("--table needs a folder with test/BSD68, ...: INPUT or $DENOISE_EXT_DATA")
    if not Path(given).is_dir():
        raise CliError(f"{given}: no such folder")
    return Path(given)


def _targets(out: str) -> dict[str, Path]:
    return {end: Path(f"{out}.{end}") for end in ("md", "json", "png")}


def _earlier(args: argparse.Namespace) -> dict[str, Any]:
    """What --resume goes on from; {} for nothing. Raises where a file cannot be written."""
    from denoise_ext.io import check_target

    targets = _targets(args.out)
    for target in targets.values():
        check_target(target, args.overwrite or args.resume)
    if not (args.resume and targets["json"].exists()):
        return {}
    try:
        document = json.loads(targets["json"].read_text("utf-8"))
        return {key: document[key] for key in ("protocol", "sets", "methods")}
    except (ValueError, TypeError, KeyError) as error:
        raise CliError(f"{targets['json']}: not written by --table ({error!r})") from None


def _facts(protocol: Protocol, sigmas: list[float], sets: list[TestSet]) -> dict[str, Any]:
    import dataclasses

    import torch

    from denoise_ext import info

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
    from denoise_ext.quality import methods as known
    from denoise_ext.quality.filters import method

    kinds = {one.channels for one in sets}
    folder = Path(args.checkpoints) if args.checkpoints else data / "published_weights"
    checkpoints, skipped = known.published_checkpoints(folder)
    chosen, absent = _choose_filters(data, sorted(kinds), sigmas, protocol, args.quiet)
    found = [
        *(known.noisy_image(channels) for channels in sorted(kinds)),
        *map(method, chosen),
        *known.shipped_networks(),
        *checkpoints,
    ]
    return [one for one in found if one.channels in kinds], chosen, [*skipped, *absent]


def _choose_filters(
    data: Path, kinds: list[int], sigmas: list[float], protocol: Protocol, quiet: bool
) -> tuple[list[Chosen], list[Skipped]]:
    from denoise_ext.quality import filters
    from denoise_ext.quality.methods import Skipped
    from denoise_ext.quality.test_sets import training_crops

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
    methods: list[Method],
    sets: list[TestSet],
    protocol: Protocol,
    earlier: dict[str, Any],
) -> None:
    """Fill in the figures; the JSON file is written after every method, for --resume."""
    from denoise_ext.quality.measure import figures, measured_sigmas

    sigmas = document["sigmas"]
    kinds = {images.channels: [] for images in sets}
    for images in sets:
        kinds[images.channels].append(images)

    def steps(one: Method, images: TestSet) -> int:
        return len(images.images) * len(measured_sigmas(one, sigmas))

    total = sum(steps(one, images) for one in methods for images in kinds[one.channels])
    with progress_bar(args.quiet) as progress:
        task = progress.add_task("measuring", total=total)
        for one in methods:
            row = _row(one)
            for images in kinds[one.channels]:
                progress.update(task, description=f"{one.name}, {images.name}")
                known = _known(earlier, document, row, images.name)
                if known is None:
                    tick = partial(progress.advance, task)
                    known = figures(one, images, sigmas, protocol, tick)
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


def _known(
    earlier: dict[str, Any], document: dict[str, Any], row: dict[str, Any], set_name: str
) -> list[dict[str, float]] | None:
    """The figures that an earlier run has of the same weights, images and protocol."""
    if earlier.get("protocol") != document["protocol"]:
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


def _time(document: dict[str, Any], methods: list[Method], quiet: bool) -> None:
    """Times of this run: those of an earlier one would be of another machine's mood."""
    from denoise_ext._timing import QUIET_LOAD
    from denoise_ext.quality import measure
    from denoise_ext.quality.table import middle_sigma

    sigma = middle_sigma(document)
    document["timing"] = {
        "how": f"one image of {measure.SIDE}x{measure.SIDE}, noise of sigma {sigma:g}; networks as"
        " `denoise-ext denoise` runs them (planned, float32, weights packed before), filters by"
        " one call; all methods by turns in one process, after a warm-up",
        "quiet_below": QUIET_LOAD,
        "other_load": {},
    }
    kinds = sorted({one.channels for one in methods})
    with progress_bar(quiet) as progress:
        for channels in progress.track(kinds, description="taking times"):
            group = [one for one in methods if one.channels == channels]
            found, load = measure.times(group, sigma, measure.SECONDS)
            document["timing"]["other_load"][str(channels)] = load
            for row in document["methods"]:
                if row["channels"] == channels:
                    row["seconds_per_megapixel"] = found.get(row["name"])


def _write_json(args: argparse.Namespace, document: dict[str, Any]) -> None:
    from denoise_ext.io import write_atomically

    text = json.dumps(document, indent=1) + "\n"
    target = _targets(args.out)["json"]
    write_atomically(target, lambda s: s.write(text.encode()), args.overwrite or args.resume)


def _write(args: argparse.Namespace, document: dict[str, Any]) -> None:
    from denoise_ext.io import write_atomically
    from denoise_ext.quality import picture
    from denoise_ext.quality.table import markdown

    targets, drawn = _targets(args.out), None
    try:
        drawn = picture.draw(document)
    except ImportError:
        print("no picture: matplotlib is not installed: pip install denoise-ext[quality]")
    if drawn is not None:
        write_atomically(targets["png"], lambda stream: stream.write(drawn), overwrite=True)
    text = markdown(document, targets["png"].name if drawn is not None else None)
    write_atomically(targets["md"], lambda stream: stream.write(text.encode()), overwrite=True)
    _write_json(args, document)
    written = ", ".join(str(path) for end, path in targets.items() if end != "png" or drawn)
    print(f"{text}\nwritten: {written}")
