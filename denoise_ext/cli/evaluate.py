"""``denoise-ext evaluate INPUT... --sigma S``; with --table: `_quality_table`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from denoise_ext.cli._quality_table import run_table
from denoise_ext.cli.common import (
    EXIT_SOME_FAILED,
    CliError,
    Models,
    add_max_pixels_argument,
    add_model_arguments,
    colour_channels,
    max_pixels,
    one_line,
    output_console,
    progress_bar,
    report_failures,
    sigma_type,
    whole_number,
)

if TYPE_CHECKING:
    from denoise_ext.tasks import Protocol, Scores

Rows = list[tuple[Path, float | None, "Scores"]]  # file, sigma (None: estimated), figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="clean images: files, folders, glob patterns (with --pairs: one folder)",
    )
    parser.add_argument(
        "--sigma", type=sigma_type, nargs="+", metavar="S",
        help="noise levels to add, on the 0-255 scale (with --pairs: what the model is told;"
        " estimated for every image if not given)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", nargs=2, metavar=("NOISY", "CLEAN"),
        help="measure on noisy files and their clean partners, and add no noise: two patterns"
        " below the folder INPUT, e.g. '*_real.JPG' '*_mean.JPG'",
    )  # fmt: skip
    parser.add_argument(
        "--part", nargs=2, type=float, default=(0.0, 1.0), metavar=("FROM", "TO"),
        help="only this part of the sorted pairs, e.g. 0.5 1 for the second half",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument("--recursive", action="store_true", help="take in sub-folders")
    add_max_pixels_argument(parser)
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--clip", action="store_true",
        help="clip the noisy images to the image range (default: not, as in published tables)",
    )  # fmt: skip
    parser.add_argument(
        "--no-round", action="store_true", help="measure the output before it is rounded to 8 bits"
    )
    parser.add_argument(
        "--crop", type=whole_number(0), default=0, metavar="N",
        help="leave out a border of N pixels (default: 0)",
    )  # fmt: skip
    parser.add_argument("--gray", action="store_true", help="turn colour images into gray first")
    parser.add_argument("--per-image", action="store_true", help="also list every image")
    parser.add_argument("--json", metavar="FILE", help="write the figures of every image here")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    table = parser.add_argument_group(
        "the table of everything",
        "every shipped network, published checkpoint and filter on Set12, BSD68, CBSD68 and\n"
        "Kodak24 (what is there of them in INPUT/test; INPUT: $DENOISE_EXT_DATA if not given), at\n"
        "sigma 15, 25 and 50 unless --sigma says otherwise; the output is not rounded",
    )
    table.add_argument("--table", action="store_true", help="measure all, with times")
    table.add_argument(
        "--out", metavar="NAME", help="write NAME.md, NAME.json and the picture NAME.png"
    )
    table.add_argument(
        "--checkpoints", metavar="FOLDER",
        help="checkpoint files of others (default: INPUT/published_weights)",
    )  # fmt: skip
    table.add_argument(
        "--resume", action="store_true",
        help="keep what NAME.json has of the same weights, images and protocol; times are new",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    if args.table:
        return run_table(args)
    for name in ("out", "checkpoints", "resume"):
        if getattr(args, name):
            raise CliError(f"--{name} is for --table")
    if not (args.inputs and (args.sigma or args.pairs)):
        raise CliError(
            "clean images INPUT and --sigma are required (but for --table, and --pairs"
            " needs no --sigma)"
        )
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from denoise_ext.io import check_target, list_images
    from denoise_ext.tasks import Protocol

    partners = _partners(args)
    files = list(partners) or list_images(args.inputs, args.recursive)
    if args.json is not None:
        check_target(args.json, args.overwrite)
    protocol = Protocol(
        args.seed, args.clip, not args.no_round, args.crop, args.gray, bool(partners)
    )
    models = Models(args.model, args.device, args.backend)
    sigmas = list(dict.fromkeys(args.sigma or [None]))
    rows: Rows = []
    failures: list[tuple[str, str]] = []
    used: set[str] = set()
    limit = max_pixels(args)
    with progress_bar(args.quiet) as progress:
        task = progress.add_task("evaluating", total=len(files))
        for file in files:
            progress.update(task, description=file.name)
            try:
                pair = file, partners.get(file)
                scores = _evaluate_file(*pair, models, sigmas, protocol, used, limit)
                rows += [(file, sigma, score) for sigma, score in scores]
            except (CliError, ValueError, RuntimeError, OSError, MemoryError) as error:
                failures.append((str(file), one_line(error)))
            progress.advance(task)
    if rows:
        _print(rows, sigmas, protocol, sorted(used), models, args)
        if args.json is not None:
            _write_json(args, rows, sigmas, protocol, sorted(used), models, failures)
    if failures:
        report_failures(failures, len(files))
        return EXIT_SOME_FAILED
    return 0


def _partners(args: argparse.Namespace) -> dict[Path, Path]:
    """Noisy file -> clean file, for the part asked for; nothing without --pairs."""
    from denoise_ext.io import find_pairs

    if args.pairs is None:
        if tuple(args.part) != (0.0, 1.0):
            raise CliError("--part is for --pairs")
        return {}
    if len(args.inputs) != 1:
        raise CliError(f"--pairs takes one folder, got {len(args.inputs)} inputs")
    if args.clip:
        raise CliError("--clip is about noise that is added; with --pairs there is none")
    start, stop = args.part
    if not 0 <= start < stop <= 1:
        raise CliError(f"--part must be FROM TO with 0 <= FROM < TO <= 1, got {start:g} {stop:g}")
    pairs = find_pairs(args.inputs[0], *args.pairs)
    pairs = pairs[round(start * len(pairs)) : round(stop * len(pairs))]
    if not pairs:
        raise CliError(f"--part {start:g} {stop:g} holds no pair")
    return dict(pairs)


def _evaluate_file(
    file: Path,
    partner: Path | None,
    models: Models,
    sigmas: list[float | None],
    protocol: Protocol,
    used: set[str],
    limit: int,
) -> list[tuple[float | None, Scores]]:
    from denoise_ext.io import read_image
    from denoise_ext.tasks import clean_pixels, evaluate_image, evaluate_pair

    pixels = clean_pixels(read_image(file, max_pixels=limit), protocol)
    channels = colour_channels(pixels)
    network = models.for_channels(channels)
    if partner is None:
        scores = [(sigma, evaluate_image(network, pixels, sigma, protocol)) for sigma in sigmas]
    else:
        clean = clean_pixels(read_image(partner, max_pixels=limit), protocol)
        scores = [(s, evaluate_pair(network, pixels, clean, s, protocol)) for s in sigmas]
    used.add(models.name_for(channels))
    return scores


def _averages(rows: Rows, sigma: float | None) -> dict[str, float]:
    scores = [score.as_dict() for _, s, score in rows if s == sigma]
    return {key: sum(s[key] for s in scores) / len(scores) for key in scores[0]}


def _print(
    rows: Rows,
    sigmas: list[float | None],
    protocol: Protocol,
    used: list[str],
    models: Models,
    args: argparse.Namespace,
) -> None:
    from rich.table import Table

    console = output_console()
    console.print(f"model:  {', '.join(used)} on {models.device}, {args.backend} backend")
    for line in protocol.describe():
        console.print(f"  {line}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("images", overflow="fold")
    for heading in ("sigma", "noisy PSNR", "noisy SSIM", "denoised PSNR", "denoised SSIM"):
        table.add_column(heading, justify="right")
    if args.per_image:
        for file, sigma, score in rows:
            table.add_row(file.name, *_cells(sigma, score.as_dict()))
    count = len(rows) // len(sigmas)
    for sigma in sigmas:
        name = f"average of {count}" if count > 1 else rows[0][0].name
        table.add_row(name, *_cells(sigma, _averages(rows, sigma)))
    console.print()
    console.print(table)


def _cells(sigma: float | None, scores: dict[str, float]) -> list[str]:
    figures = [f"{scores[key]:.{2 if 'psnr' in key else 4}f}" for key in scores]
    return ["auto" if sigma is None else f"{sigma:g}", *figures]


def _write_json(
    args: argparse.Namespace,
    rows: Rows,
    sigmas: list[float | None],
    protocol: Protocol,
    used: list[str],
    models: Models,
    failures: list[tuple[str, str]],
) -> None:
    import dataclasses

    import torch

    from denoise_ext import __version__
    from denoise_ext.io import write_atomically

    document = {
        "denoise_ext": __version__,
        "torch": torch.__version__,
        "model": used,
        "device": str(models.device),
        "backend": args.backend,
        "protocol": dataclasses.asdict(protocol) | {"in_words": protocol.describe()},
        "averages": [{"sigma": s} | _json_numbers(_averages(rows, s)) for s in sigmas],
        "images": [
            {"file": str(file), "sigma": sigma} | _json_numbers(score.as_dict())
            for file, sigma, score in rows
        ],
        "failed": [{"file": name, "reason": reason} for name, reason in failures],
    }
    text = json.dumps(document, indent=2) + "\n"
    write_atomically(args.json, lambda stream: stream.write(text.encode()), args.overwrite)
    print(f"figures of every image: {args.json}")


def _json_numbers(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity, which is the PSNR of equal images: null."""
    return {key: value if math.isfinite(value) else None for key, value in scores.items()}
