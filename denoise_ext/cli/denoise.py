"""``denoise-ext denoise INPUT... -o OUT``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from denoise_ext.cli.common import (
    EXIT_SOME_FAILED,
    CliError,
    Models,
    add_model_arguments,
    colour_channels,
    one_line,
    progress_bar,
    report_failures,
    sigma_type,
)


@dataclass(frozen=True)
class Job:
    """One file to denoise and where the result goes."""

    source: Path
    target: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="image files, folders (their images) or quoted glob patterns",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT",
        help="a file (for one input file) or a folder, which is made where missing; files in it"
        " keep their names, and their sub-folders with --recursive",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="strength: standard deviation of the noise on the 0-255 scale (also for 16-bit"
        " images); most models need it",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--recursive", action="store_true", help="take in sub-folders")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    found, failures = _find(args.inputs, args.recursive)
    as_folder = _output_is_folder(args.output, args.inputs, len(found) + len(failures))
    jobs, clashes = _plan(found, Path(args.output), as_folder)
    failures += clashes
    models = Models(args.model, args.device, args.backend)
    _check_sigma(models, args.sigma)
    start = time.perf_counter()
    written = 0
    with progress_bar(args.quiet) as progress:
        task = progress.add_task("denoising", total=len(jobs))
        for job in jobs:
            progress.update(task, description=job.source.name)
            try:
                _denoise_file(job, models, args.sigma, args.overwrite, make_folder=as_folder)
                written += 1
            except (CliError, ValueError, RuntimeError, OSError, MemoryError) as error:
                failures.append((str(job.source), one_line(error)))
            progress.advance(task)
    if written and not args.quiet:
        seconds = time.perf_counter() - start
        what = "1 image" if written == 1 else f"{written} images"
        print(f"{what} denoised in {seconds:.1f} s -> {args.output}")
    if failures:
        report_failures(failures, len(failures) + written)
        return EXIT_SOME_FAILED
    return 0


def _find(inputs: list[str], recursive: bool) -> tuple[list, list[tuple[str, str]]]:
    """Every file once, and the inputs that stand for none. CliError where nothing is left."""
    from denoise_ext.io import ImageError, find_images

    found: dict[str, object] = {}
    failures = []
    for argument in inputs:
        try:
            for image in find_images(argument, recursive):
                found.setdefault(os.path.realpath(image.path), image)
        except ImageError as error:
            failures.append((argument, str(error)))
    if not found:
        raise CliError("; ".join(reason for _, reason in failures))
    return list(found.values()), failures


def _output_is_folder(output: str, inputs: list[str], count: int) -> bool:
    from denoise_ext.io import IMAGE_SUFFIXES

    out = Path(output)
    if out.is_dir() or output.endswith(("/", os.sep)):
        return True
    one_file = count == 1 and len(inputs) == 1 and Path(inputs[0]).is_file()
    if out.suffix.lower() in IMAGE_SUFFIXES:
        if not one_file:
            raise CliError(f"output {output!r} is one file, but the inputs are not: name a folder")
        return False
    if out.exists():
        raise CliError(f"output {output!r} exists and is neither a folder nor an image file")
    # a name without a suffix is a folder to make; one with an unknown suffix is a mistake
    if one_file and out.suffix:
        from denoise_ext.io import check_can_write

        check_can_write(out)
    return True


def _plan(
    found: Iterable, output: Path, as_folder: bool
) -> tuple[list[Job], list[tuple[str, str]]]:
    """Which file goes where; two sources for one target are a failure of the second."""
    jobs: dict[str, Job] = {}
    clashes = []
    for image in found:
        target = output / image.relative if as_folder else output
        key = os.path.normpath(target)
        if key in jobs:
            other = str(jobs[key].source)
            clashes.append((str(image.path), f"{str(target)!r} is already the output of {other!r}"))
        else:
            jobs[key] = Job(image.path, target)
    return list(jobs.values()), clashes


def _check_sigma(models: Models, sigma: float | None) -> None:
    """A missing --sigma is one usage error, not one failure per file."""
    if sigma is None and models.for_channels(1).needs_sigma:
        name = models.name_for(1) if models.name is not None else "the default model"
        raise CliError(
            f"--sigma is required: {name} needs the noise level (0-255 scale; 5 is faint, 25"
            " strong, 50 very strong)"
        )


def _denoise_file(
    job: Job, models: Models, sigma: float | None, overwrite: bool, make_folder: bool
) -> None:
    from denoise_ext.inference import denoise
    from denoise_ext.io import check_can_write, read_image_file, write_image

    if job.target.exists() or not make_folder:
        check_can_write(job.target, overwrite)  # before the work, not after it
    image = read_image_file(job.source)
    network = models.for_channels(colour_channels(image.pixels))
    if make_folder:  # only now: a folder of unreadable files leaves no empty one behind
        _make_folder(job.target.parent)
        check_can_write(job.target, overwrite)
    result = denoise(image.pixels, network, sigma)
    write_image(job.target, result, overwrite, icc_profile=image.icc_profile, exif=image.exif)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CliError(f"cannot make folder {str(folder)!r}: {reason}") from error
