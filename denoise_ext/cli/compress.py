"""``denoise-ext compress INPUT... -o OUT``."""

from __future__ import annotations

import argparse

from denoise_ext.cli._codec_jobs import CodecWork, add_codec_arguments
from denoise_ext.cli._restore_jobs import run_work
from denoise_ext.cli.common import add_input_arguments, quality_type, sigma_type

DESCRIPTION = """\
A network compresses each image and removes its noise (docs/compression.md). 8 and 16 bits, gray
and colour; alpha is kept without a loss. A bad file does not stop the others: it is listed at the
end, and the exit code is 3."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = f"{parser.description}\n\n{DESCRIPTION}"
    add_input_arguments(parser)
    parser.add_argument(
        "--quality", type=quality_type, default=50, metavar="Q",
        help="0 to 100: fewer bytes for a lower one (default: 50)",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="standard deviation of the noise on the 0-255 scale; 0: the images are clean (default:"
        " estimated for each image)",
    )  # fmt: skip
    add_codec_arguments(parser)
    parser.set_defaults(format=".dxc")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    work = CodecWork("compress", args.model, {"sigma": args.sigma})
    work.load()  # the format is known before files are listed
    return run_work(args, work, "compressing", "compressed")
