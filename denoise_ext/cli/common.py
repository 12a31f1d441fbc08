"""Shared by the commands: errors and exit codes, arguments, options of a run, tables."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from denoise_ext._precision import PRECISIONS
from denoise_ext._suggestions import did_you_mean
from denoise_ext.cli._progress import ProgressLines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from denoise_ext.runtime import RunOptions

EXIT_FAILED, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_KEPT, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip


@contextlib.contextmanager
def importing_torch() -> Iterator[None]:
    """Import torch inside, without the garbage collector where this is the first time.

    Modules are no garbage.  Looking through half a million of their objects over and over takes
    a fifth of the import.  They are left out of later collections, too.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class CliError(Exception):
    """Wrong usage or input: shown as one line, exit code 2."""


# The library's messages name its parameters; what stands in quotes is left alone.
_PARAMETERS = re.compile(
    r"""(?<![\w-])axes="(?P<axes>[A-Z]+)"|'[^']*'|"[^"]*"|\b(?P<flag>overwrite|recursive)=True\b"""
    r"|(?P<range>\bvalue_range=\(black, white\))"
    r"|(?<![\w-])(?P<name>max_pixels|max_memory|value_range|give (?:sigma|axes(?!=)))\b"
    r"|^(?P<first>axes|device|sigma|tile)(?=[:= ])"
)


def in_options(message: str) -> str:
    """A message of the library with the command line's options in place of its parameters.

    >>> in_options("'a.png' exists; overwrite=True replaces it")
    "'a.png' exists; --overwrite replaces it"
    """

    def option(match: re.Match[str]) -> str:
        if match["axes"]:
            return f"--axes {match['axes']}"
        if match["range"]:
            return "--value-range BLACK WHITE"
        name = match["flag"] or match["name"] or match["first"]
        if name is None:
            return match[0]
        given = "give " if name.startswith("give ") else ""
        return f"{given}--{name.removeprefix('give ').replace('_', '-')}"

    return _PARAMETERS.sub(option, message)


def one_line(error: BaseException) -> str:
    """The first line of an error's message (torch appends C++ stacks to some), naming options."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MemoryError) and not lines:
        return "not enough memory"
    return in_options(lines[0].strip()) if lines else type(error).__name__


def sigma_type(text: str) -> float:
    """argparse type of a noise level on the 0-255 scale."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be finite and >= 0 (0-255 scale), got {text}")
    return value


def strength_type(text: str) -> float:
    """argparse type of a strength: 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return value


def quality_type(text: str) -> int:
    """argparse type of a quality: 0 to 100."""
    value = whole_number(0)(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"must be from 0 to 100, got {value}")
    return value


def whole_number(minimum: int) -> Callable[[str], int]:
    """argparse type of an integer >= minimum."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be >= {minimum}, got {value}")
        return value

    return convert


def size_type(text: str) -> int:
    """argparse type of an amount of memory, as 1.5GB or 512MiB: bytes."""
    match = re.fullmatch(r"([0-9]+|[0-9]*\.[0-9]+) *([kmgt]?i?)b", text.strip().lower())
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise argparse.ArgumentTypeError(
            f"must be a number and a unit, as 1.5GB: KB, MB, GB, TB (powers of 1000) or KiB, MiB,"
            f" GiB, TiB (powers of 1024), got {text!r}"
        )
    size = int(Decimal(match[1]) * unit)
    if size < 1:
        raise argparse.ArgumentTypeError(f"must be 1 byte at least, got {text!r}")
    return size


def tile_type(text: str) -> str | int | None:
    """argparse type of --tile: "auto", none (None) or a side in pixels."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"must be auto, none or a side in pixels (1 at least), got {text!r}"
        )
    return int(text)


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """--import, which `denoise_ext.cli.main` carries out before the command runs."""
    parser.add_argument(
        "--import", action="append", default=[], metavar="MODULE", dest="imports",
        help="import a Python module that registers models of your own; searched like python -m,"
        " the current folder last (repeatable)",
    )  # fmt: skip


def import_modules(names: list[str]) -> None:
    """Import what --import names. CliError with module and reason for one that cannot be."""
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there must not hide an installed module
    for name in names:
        if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
            raise CliError(f"--import takes a module's name, such as my_net, got {name!r}")
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever a foreign module does
            if os.environ.get("DENOISE_EXT_DEBUG") == "1":
                raise
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise CliError(f"--import {name}: {reason}") from error


def add_max_pixels_argument(parser: argparse.ArgumentParser) -> None:
    """--max-pixels."""
    parser.add_argument(
        "--max-pixels", type=whole_number(1), metavar="N",
        help="refuse larger images before decoding (default: 200 million)",
    )  # fmt: skip


def max_pixels(args: argparse.Namespace) -> int:
    """The limit as given, or the default."""
    from denoise_ext.io import DEFAULT_MAX_PIXELS

    return args.max_pixels or DEFAULT_MAX_PIXELS


def number_type(text: str) -> float:
    """argparse type of a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, got {text}")
    return value


def suffix_type(text: str) -> str:
    """argparse type of a format that is written: its suffix, with the point."""
    from denoise_ext.io.codecs import CODECS

    suffix = "." + text.lower().lstrip(".")
    known = [s for codec in CODECS if codec.write is not None for s in codec.suffixes]
    if suffix not in known:
        names = [s[1:] for s in known]
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(names)}, got {text!r}{did_you_mean(suffix[1:], names)}"
        )
    return suffix


def add_value_range_argument(parser: argparse.ArgumentParser) -> None:
    """--value-range."""
    parser.add_argument(
        "--value-range", type=number_type, nargs=2, metavar=("BLACK", "WHITE"),
        help="numbers in the files that mean black and white, such as 0 4095 for 12 bits in 16;"
        " a --sigma of 255 is the distance between them (default: by the file's type; DICOM, NIfTI"
        " and others without a range: smallest and largest number)",
    )  # fmt: skip


def check_value_range(args: argparse.Namespace) -> None:
    """CliError unless --value-range is in order."""
    if args.value_range and not args.value_range[0] < args.value_range[1]:
        raise CliError("--value-range: BLACK must be less than WHITE")


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """What is read, and where it goes."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="image files, folders (their images), quoted glob patterns, @FILE (a list of these,"
        " one per line) or - (standard input)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT",
        help="a folder, a file (for one input file) or - (standard output); in a folder, which is"
        " created, files keep their names, and with --recursive their sub-folders",
    )  # fmt: skip


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """--format, --quality, --overwrite, --recursive, --max-pixels."""
    parser.add_argument(
        "--format", metavar="SUFFIX", type=suffix_type,
        help="write tif, png, ... (default: OUT's suffix; in a folder the input's)",
    )  # fmt: skip
    parser.add_argument(
        "--quality", metavar="Q", type=quality_type,
        help="0 to 100, for JPEG, WebP and AVIF: fewer bytes for a lower one (default: without a"
        " loss; JPEG and AVIF: 95)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--recursive", action="store_true", help="include sub-folders")
    add_max_pixels_argument(parser)


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """--precision."""
    parser.add_argument(
        "--precision", default="default",
        choices=tuple(PRECISIONS),
        help="arithmetic of the convolutions; strict: direct sums; fast: slightly less exact than"
        " default (on a GPU: tf32 never with strict, by PyTorch's setting with default, always"
        " with fast); bfloat16, float16: half the memory, with float32 on overflow of float16"
        " (default: default)",
    )  # fmt: skip


def add_memory_arguments(parser: argparse.ArgumentParser, sharing: str = "") -> None:
    """--tile, --max-memory. `sharing`: who shares the memory, if more than one image."""
    parser.add_argument(
        "--tile", type=tile_type, default="auto", metavar="N|auto|none",
        help="tiles of at most N x N pixels, overlap included, without seams; auto: by the memory;"
        " none: whole images (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--max-memory", type=size_type, metavar="SIZE",
        help=f"working memory{sharing} besides images and weights, such as 1.5GB or 512MiB"
        " (default: 1GiB, more for large receptive fields, at most half of the free memory)",
    )  # fmt: skip


def add_model_arguments(
    parser: argparse.ArgumentParser,
    default: str = "the shipped one that suits each image and its noise",
) -> None:
    """--model, --import, --device, --backend."""
    parser.add_argument(
        "--model", metavar="NAME|CHECKPOINT",
        help="a model with trained weights (see `denoise-ext models --trained`) or a checkpoint"
        f" file; default: {default}",
    )  # fmt: skip
    add_import_argument(parser)
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda",
        help="where to compute; auto uses a GPU if one is available (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--backend", default="native", choices=("native", "torch"),
        help="this package's kernels, or the same network in plain PyTorch (default: native)",
    )  # fmt: skip


def add_guide_arguments(parser: argparse.ArgumentParser, size: str) -> None:
    """--guide and --holes; ``size`` is that of the guide."""
    parser.add_argument(
        "--guide", metavar="FILE",
        help="an aligned picture of the same scene that shows edges, such as the photograph of a"
        f" depth map, {size}; the model must take a guide",
    )  # fmt: skip
    parser.add_argument(
        "--holes", default="none", choices=("none", "keep", "fill"),
        help="with --guide: pixels that are 0 or not finite are numbers like others, stay as they"
        " are, or get numbers that fit (default: none)",
    )  # fmt: skip


def check_guide(args: argparse.Namespace) -> None:
    """CliError for --holes without --guide."""
    if args.holes != "none" and args.guide is None:
        raise CliError(f"--holes {args.holes} needs --guide")


def run_options(args: argparse.Namespace) -> RunOptions:
    """Return the options of a run from a command's arguments; defaults for those it lacks."""
    with importing_torch():
        from denoise_ext.runtime import RunOptions

    names = [field.name for field in dataclasses.fields(RunOptions)]
    return RunOptions(**{name: getattr(args, name) for name in names if hasattr(args, name)})


@contextlib.contextmanager
def log_on_stderr(name: str) -> Iterator[None]:
    """Print the records of a logger at INFO and above as plain lines on stderr."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def output_console() -> Console:
    """For tables on stdout; as wide as needed where that is a file or a pipe."""
    from rich.console import Console

    width = None if sys.stdout is not None and sys.stdout.isatty() else 160
    return Console(file=sys.stdout, width=width, highlight=False, markup=False)


def progress_bar(quiet: bool, *fields: str) -> Progress | ProgressLines:
    """A progress bar on stderr, or where that is no terminal a line every 10 seconds.

    `fields` of its task are shown too.  What draws bars is imported for terminals alone.
    """
    if quiet or not sys.stderr.isatty():
        return ProgressLines(*fields, quiet=quiet)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(f"{{task.fields[{field}]}}") for field in fields),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )


def report_failures(failures: list[tuple[str, str]], total: int) -> None:
    """List on stderr which files failed and why."""
    print(f"denoise-ext: error: {len(failures)} of {total} files failed:", file=sys.stderr)
    for name, reason in failures:
        named = reason if name in reason else f"{name}: {reason}"
        print(f"  {named}", file=sys.stderr)
