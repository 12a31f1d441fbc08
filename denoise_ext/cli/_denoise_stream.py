"""One image from standard input or to standard output."""

from __future__ import annotations

import argparse
import io as streams
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from denoise_ext.cli.common import CliError, max_pixels

if TYPE_CHECKING:
    from denoise_ext.io import Picture
    from denoise_ext.jobs.batch import Processed


class Loads(Protocol):
    """What loads the function that processes a picture."""

    def load(self) -> Callable[[Picture], Processed]:
        """The function."""
        ...


def run_stream(args: argparse.Namespace, processor: Loads) -> int:
    """Read, denoise, write; a failure writes nothing. Returns the exit code."""
    from denoise_ext.io import check_can_write, format_for, read_picture, write_picture

    process = processor.load()
    if len(args.inputs) != 1:
        raise CliError("- means one image: give no other input")
    for name in ("resume", "dry_run", "json"):
        if getattr(args, name):
            raise CliError(f"--{name.replace('_', '-')} is for files and folders, not for -")
    if args.output == "-":
        if sys.stdout is None:
            raise CliError("-o - writes to the standard output, which is closed")
    else:
        check_can_write(args.output, args.overwrite, args.quality)
    [source] = args.inputs
    if source == "-" and sys.stdin is None:
        raise CliError("- reads the standard input, which is closed")
    picture = read_picture(
        sys.stdin.buffer if source == "-" else source, max_pixels=max_pixels(args)
    )
    result = process(picture)
    stream = streams.BytesIO()
    if args.output == "-":
        kind = format_for(picture, args.format or "")
        write_picture(stream, result.image, format=kind, quality=args.quality)
        sys.stdout.buffer.write(stream.getvalue())
        sys.stdout.buffer.flush()
    else:
        write_picture(args.output, result.image, overwrite=args.overwrite, quality=args.quality)
    for note in () if args.quiet else result.image.notes:
        print(f"note: {note}", file=sys.stderr)
    if not args.quiet and result.treatment:
        print(result.treatment, file=sys.stderr)
    elif not args.quiet and result.sigma is not None:
        how = "estimated" if result.sigma_estimated else "as given"
        print(f"noise level (sigma, 0-255 scale): {result.sigma:.1f}, {how}", file=sys.stderr)
    return 0
