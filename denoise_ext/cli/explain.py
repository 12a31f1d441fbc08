"""``denoise-ext explain IMAGE -o report.html``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from denoise_ext.cli.common import (
    CliError,
    add_max_pixels_argument,
    add_memory_arguments,
    add_model_arguments,
    add_precision_argument,
    add_value_range_argument,
    check_value_range,
    importing_torch,
    max_pixels,
    run_options,
    sigma_type,
    whole_number,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("image", metavar="IMAGE", help="one image file")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the report, .html")
    parser.add_argument(
        "--part", type=_part, metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="a part of the image, in pixels; larger images than 2 million pixels need one",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="standard deviation of the noise on the 0-255 scale (default: by the noise)",
    )  # fmt: skip
    parser.add_argument(
        "--probes", type=whole_number(0), default=16, metavar="N",
        help="random probes for the uncertainty, of two passes each; 0: none (default: 16)",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=whole_number(0), default=3, metavar="N",
        help="images that could be the clean one; 0: none (default: 3)",
    )  # fmt: skip
    add_value_range_argument(parser)
    add_model_arguments(parser)
    add_precision_argument(parser)
    add_memory_arguments(parser)
    add_max_pixels_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    check_value_range(args)
    options = run_options(args)
    with importing_torch():
        from dataclasses import asdict, replace

        from denoise_ext.io import Metadata, check_target, read_picture
        from denoise_ext.io.read import as_shown
        from denoise_ext.report import explain

    check_target(args.output, args.overwrite)
    picture = read_picture(args.image, max_pixels=max_pixels(args))
    if len(picture.frames) > 1:
        raise CliError(f"{args.image!r} holds {len(picture.frames)} frames; a report is about one")
    frame, own = as_shown(picture)
    if args.part is not None:
        frame = frame[_place(args.part, *frame.shape[:2])]
    upright = replace(picture, frames=(frame,), value_range=own, shapes=(), metadata=Metadata())

    def progress(what: str) -> None:
        if not args.quiet:
            print(f"{what} ...", file=sys.stderr, flush=True)

    report = explain(
        upright, args.sigma, args.model, title=Path(args.image).name, value_range=args.value_range,
        probes=args.probes, samples=args.samples, progress=progress, **asdict(options),
    )  # fmt: skip
    report.save(args.output, args.overwrite)
    if not args.quiet:
        result = report.result
        if result.expected_psnr is None:
            print(f"expected PSNR: none, {result.uncertainty_reason}")
        else:
            error = result.expected_psnr_error
            print(f"expected PSNR: {result.expected_psnr:.2f} dB, give or take {error:.2f}")
        print(f"report: {args.output}")
    return 0


def _part(text: str) -> tuple[int, int, int, int]:
    numbers = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text)
    if numbers is None or "0" in (numbers[3], numbers[4]):
        raise argparse.ArgumentTypeError(
            f"must be LEFT,TOP,WIDTH,HEIGHT in pixels, width and height >= 1, got {text!r}"
        )
    left, top, width, height = map(int, numbers.groups())
    return left, top, width, height


def _place(part: tuple[int, int, int, int], height: int, width: int) -> tuple[slice, slice]:
    left, top, columns, rows = part
    if left + columns > width or top + rows > height:
        raise CliError(
            f"--part {','.join(map(str, part))}: the image has {width} x {height} pixels"
        )
    return slice(top, top + rows), slice(left, left + columns)
