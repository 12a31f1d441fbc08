"""``denoise-ext decompress INPUT... -o OUT``."""

from __future__ import annotations

import argparse

from denoise_ext.cli._codec_jobs import CodecWork, add_codec_arguments
from denoise_ext.cli._restore_jobs import run_work
from denoise_ext.cli.common import add_input_arguments, suffix_type

DESCRIPTION = """\
The files are those of `denoise-ext compress` (docs/compression.md). A file with a damaged tile is
an error that names the tile. With --partial the rest is written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = f"{parser.description}\n\n{DESCRIPTION}"
    add_input_arguments(parser)
    parser.add_argument(
        "--format", metavar="SUFFIX", type=suffix_type,
        help="write tif, webp, ... (default: OUT's suffix; in a folder png)",
    )  # fmt: skip
    parser.add_argument(
        "--partial",
        action="store_true",
        help="write files with damaged tiles, too; notes name them",
    )
    add_codec_arguments(parser)
    parser.set_defaults(quality=None)


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    work = CodecWork("decompress", args.model, {"partial": args.partial})
    work.load()  # the format is known before files are listed
    if args.format is None and not _has_format(args.output):
        args.format = ".png"
    return run_work(args, work, "decompressing", "decompressed")


def _has_format(output: str) -> bool:
    from denoise_ext.io.codecs import suffix_of

    return suffix_of(output.rpartition("/")[2])[1] is not None
