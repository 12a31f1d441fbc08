"""``denoise-ext adapt FOLDER -o NET.safetensors``."""

from __future__ import annotations

import argparse
import math
import sys

from denoise_ext.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_KEPT,
    add_import_argument,
    importing_torch,
    log_on_stderr,
    one_line,
    whole_number,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "images", nargs="+", metavar="FOLDER",
        help="noisy images: folders, files or patterns; with --pairs or --takes one folder",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", required=True, metavar="NET.safetensors",
        help="the adapted network, a checkpoint for --model; written only if it is better",
    )  # fmt: skip
    partners = parser.add_mutually_exclusive_group()
    partners.add_argument(
        "--pairs", nargs=2, metavar=("NOISY", "CLEAN"),
        help="two patterns below the folder, such as 'noisy/*.png' 'clean/*.png': files with the"
        " same text at the * are partners",
    )  # fmt: skip
    partners.add_argument(
        "--takes", nargs=2, metavar=("FIRST", "SECOND"),
        help="two patterns of two noisy takes of each scene that differ in noise alone",
    )  # fmt: skip
    parser.add_argument(
        "--start", metavar="NAME|CHECKPOINT",
        help="weights to start from and to compare with (default: the shipped network that most of"
        " the images are denoised with)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=minutes_type, default=10.0, metavar="N",
        help="how long to train (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"),
        help="where to train; auto uses a GPU if one is available (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=whole_number(1), metavar="N", help="CPU threads (default: PyTorch's)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N",
        help="of all random choices (default: 0)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_import_argument(parser)


def minutes_type(text: str) -> float:
    """argparse type of a time."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be finite and above 0, got {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    with importing_torch():
        from denoise_ext.training import adapt

    images = args.images[0] if len(args.images) == 1 else args.images
    try:
        with log_on_stderr("denoise_ext.training"):
            found = adapt(
                images, args.output, pairs=args.pairs, takes=args.takes, start=args.start,
                minutes=args.minutes, device=args.device, threads=args.threads or 0,
                seed=args.seed, overwrite=args.overwrite,
            )  # fmt: skip
    except FloatingPointError as error:
        print(f"denoise-ext: error: {one_line(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("denoise-ext: stopped; the same command continues it", file=sys.stderr)
        return EXIT_INTERRUPTED
    gain = f"{found.gain:+.2f} dB (standard error {found.gain_error:.2f})"
    least = f"{found.least_gain:+.2f} dB at the least favourable noise level"
    if found.kept:
        print(f"{found.path}: {gain} on held-out parts, {least}")
        return 0
    print(f"no file is written, {found.start} is kept: {gain} on held-out parts, {least}")
    return EXIT_KEPT
