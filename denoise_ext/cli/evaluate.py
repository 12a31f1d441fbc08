"""``denoise-ext evaluate INPUT... --sigma S``."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from denoise_ext.cli.common import (
    EXIT_SOME_FAILED,
    CliError,
    add_max_pixels_argument,
    add_model_arguments,
    importing_torch,
    max_pixels,
    one_line,
    output_console,
    progress_bar,
    report_failures,
    run_options,
    sigma_type,
    whole_number,
)

if TYPE_CHECKING:
    from denoise_ext.tasks import Denoiser, Protocol, Scores

_BY_NOISE = "the one that suits each image's noise"
Rows = list[tuple[Path, float | None, "Scores"]]  # file, sigma (None: estimated), figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="clean images: files, folders, glob patterns (with --pairs: one folder)",
    )
    parser.add_argument(
        "--sigma", type=sigma_type, nargs="+", metavar="S",
        help="noise levels to add, on the 0-255 scale (with --pairs: the level that the model gets;"
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
    parser.add_argument("--recursive", action="store_true", help="include sub-folders")
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


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    with importing_torch():
        from denoise_ext.io import check_target, list_images
        from denoise_ext.runtime.model_names import member
        from denoise_ext.tasks import Protocol
        from denoise_ext.tasks.processor import load_denoiser

    if not (args.sigma or args.pairs):
        raise CliError("--sigma is required without --pairs: the noise levels to add")
    partners = _partners(args)
    files = list(partners) or list_images(args.inputs, args.recursive)
    if args.json is not None:
        check_target(args.json, args.overwrite)
    protocol = Protocol(
        args.seed, args.clip, not args.no_round, args.crop, args.gray, bool(partners)
    )
    denoiser = load_denoiser(args.model, run_options(args))
    sigmas: list[float | None] = list(dict.fromkeys(args.sigma or [None]))
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
                scores, channels = _scores(*pair, denoiser, sigmas, protocol, limit)
                rows += [(file, sigma, score) for sigma, score in scores]
                automatic = args.model is None and None in sigmas
                used.add(_BY_NOISE if automatic else member(args.model, channels))
            except (CliError, ValueError, RuntimeError, OSError, MemoryError) as error:
                failures.append((str(file), one_line(error)))
            progress.advance(task)
    if rows:
        _print(rows, sigmas, protocol, sorted(used), args)
        if args.json is not None:
            _write_json(args, rows, sigmas, protocol, sorted(used), failures)
    if failures:
        report_failures(failures, len(files))
        return EXIT_SOME_FAILED
    return 0


def _partners(args: argparse.Namespace) -> dict[Path, Path]:
    """Noisy file -> clean file, for --part; nothing without --pairs."""
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


def _scores(
    file: Path,
    partner: Path | None,
    denoiser: Denoiser,
    sigmas: list[float | None],
    protocol: Protocol,
    limit: int,
) -> tuple[list[tuple[float | None, Scores]], int]:
    """(sigma with its figures, channels of the image without alpha)."""
    from denoise_ext.io import read_image
    from denoise_ext.tasks import clean_pixels, evaluate_image, evaluate_pair

    scores: list[tuple[float | None, Scores]]
    pixels = clean_pixels(read_image(file, max_pixels=limit), protocol)
    if partner is None:
        levels = [s for s in sigmas if s is not None]
        scores = [(s, evaluate_image(denoiser, pixels, s, protocol)) for s in levels]
    else:
        clean = clean_pixels(read_image(partner, max_pixels=limit), protocol)
        scores = [(s, evaluate_pair(denoiser, pixels, clean, s, protocol)) for s in sigmas]
    return scores, 1 if pixels.ndim == 2 else pixels.shape[2]


def _averages(rows: Rows, sigma: float | None) -> dict[str, float]:
    scores = [score.as_dict() for _, s, score in rows if s == sigma]
    return {key: sum(s[key] for s in scores) / len(scores) for key in scores[0]}


def _print(
    rows: Rows,
    sigmas: list[float | None],
    protocol: Protocol,
    used: list[str],
    args: argparse.Namespace,
) -> None:
    from rich.table import Table

    from denoise_ext.runtime import choose_device

    device = choose_device(args.device, args.backend)
    console = output_console()
    console.print(f"model:  {', '.join(used)} on {device}, {args.backend} backend")
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
    failures: list[tuple[str, str]],
) -> None:
    import dataclasses

    import torch

    from denoise_ext import __version__
    from denoise_ext.io import write_atomically
    from denoise_ext.runtime import choose_device

    document = {
        "denoise_ext": __version__,
        "torch": torch.__version__,
        "model": used,
        "device": str(choose_device(args.device, args.backend)),
        "backend": args.backend,
        "protocol": dataclasses.asdict(protocol) | {"in_words": protocol.describe()},
        "averages": [{"sigma": s} | _json_numbers(_averages(rows, s)) for s in sigmas],
        "images": [
            {"file": str(file), "sigma": sigma, **_json_numbers(score.as_dict())}
            for file, sigma, score in rows
        ],
        "failed": [{"file": name, "reason": reason} for name, reason in failures],
    }
    text = json.dumps(document, indent=2) + "\n"
    write_atomically(args.json, text.encode(), args.overwrite)
    print(f"figures of every image: {args.json}")


def _json_numbers(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity, which is the PSNR of equal images: null."""
    return {key: value if math.isfinite(value) else None for key, value in scores.items()}
