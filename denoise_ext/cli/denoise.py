"""``denoise-ext denoise INPUT... -o OUT``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from denoise_ext.cli._denoise_jobs import JobList, check_quality_of, list_jobs
from denoise_ext.cli._denoise_report import Report, printable
from denoise_ext.cli.common import (
    EXIT_SOME_FAILED,
    CliError,
    add_file_arguments,
    add_guide_arguments,
    add_input_arguments,
    add_memory_arguments,
    add_model_arguments,
    add_precision_argument,
    add_value_range_argument,
    check_guide,
    check_value_range,
    importing_torch,
    in_options,
    max_pixels,
    number_type,
    run_options,
    sigma_type,
    strength_type,
    whole_number,
)

if TYPE_CHECKING:
    from pathlib import Path

    from denoise_ext.jobs.batch import Outcome, Worker
    from denoise_ext.jobs.manifest import Manifest
    from denoise_ext.jobs.storage import Job, Storage
    from denoise_ext.tasks.processor import Processor

DESCRIPTION = """\
Reading, denoising and writing overlap. A bad file does not stop the others: it is listed at the
end, and the exit code is 3. OUT/.denoise-ext records what is done. To continue a run that was
interrupted, killed or found the disk full, repeat the command with --resume."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = f"{parser.description}\n\n{DESCRIPTION}"
    add_input_arguments(parser)
    _add_denoising_arguments(parser)
    add_file_arguments(parser)
    _add_run_arguments(parser)


def _add_denoising_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="standard deviation of the noise on the 0-255 scale (also for 16-bit images);"
        " default: by the noise that each image has; blind models ignore it",
    )  # fmt: skip
    add_value_range_argument(parser)
    parser.add_argument(
        "--axes", type=_axes, metavar="AXES",
        help="a letter for each axis of the file's array or pages, such as ZYX, CYX, YXC, TZCYX; Y"
        " and X: rows and columns; S: samples (RGB); T, Z, C, N: each step is a gray picture"
        " (default: by the file; NPY and NPZ: YX, ZYX, YXS or ZYXS)",
    )  # fmt: skip
    parser.add_argument(
        "--strength", type=strength_type, default=1.0, metavar="X",
        help="blend of input and result; 0: the input, 1: the result (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--texture", type=strength_type, default=0.0, metavar="0..1",
        help="fine detail as in real pictures, partly made up: not for diagnoses or evidence; the"
        " file's metadata state it (PNG, JPEG, TIFF, WebP, AVIF) (default: 0)",
    )  # fmt: skip
    add_guide_arguments(parser, "of the same size")
    add_model_arguments(parser)
    add_precision_argument(parser)
    parser.add_argument(
        "--alpha", default="keep", choices=("keep", "denoise"),
        help="transparency: keep it, or denoise it as a gray image (default: keep)",
    )  # fmt: skip
    add_memory_arguments(parser, " (all --workers together; with ray: per actor)")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", action="store_true",
        help="skip what an earlier run has done: outputs whose input, model, options and content"
        " have the recorded hashes",
    )  # fmt: skip
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N",
        help="process shard I of N (1/N to N/N, the same files in every run)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=whole_number(1), default=1, metavar="N",
        help="images at a time, sharing the cores (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="ray: run on the cluster at RAY_ADDRESS, or in processes of this machine; inputs and"
        " OUT may be URLs (s3://, gs://, ...), OUT is a folder (default: local)",
    )  # fmt: skip
    parser.add_argument(
        "--actors", type=whole_number(1), metavar="N",
        help="with ray: number of actors (default: as many as the cluster has room for)",
    )  # fmt: skip
    parser.add_argument(
        "--cpus-per-actor", type=whole_number(1), default=1, metavar="N",
        help="with ray: cores and threads per actor (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--gpus-per-actor", type=_share, default=0.0, metavar="X",
        help="with ray: GPUs per actor; with 0.5 two share one (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be done, and do nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON line for each file and for the summary"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    check_value_range(args)
    check_guide(args)
    if not args.quiet:
        _state_texture(args)
    if "-" in (*args.inputs, args.output):
        from denoise_ext.cli._denoise_stream import run_stream

        return run_stream(args, _processor(args))
    with importing_torch():
        if args.sigma:  # once, and not for each file
            from denoise_ext.tasks.doubts import warn_of_sigma

            warn_of_sigma(args.sigma)
        found = list_jobs(
            args.inputs, args.output, args.recursive, args.format or "", args.shard,
            cluster=args.engine == "ray",
        )  # fmt: skip
    check_quality_of(found, args.quality)
    if args.resume and not found.is_folder:
        raise CliError("--resume needs a folder as output: for one file, repeat the command")
    if args.dry_run:
        return _print_jobs(found, args)
    outcomes = _on_ray(found, args) if args.engine == "ray" else _here(found, args)
    options = {"quiet": args.quiet, "as_json": args.json}
    with Report(len(found.jobs), found.failures, args.output, found.notes, **options) as report:
        for outcome in outcomes:
            report.add(outcome)
    report.finish()
    return EXIT_SOME_FAILED if report.failures else 0


def _state_texture(args: argparse.Namespace) -> None:
    """What a texture means, also where the model's name brings one."""
    with importing_torch():
        from denoise_ext.runtime.model_names import named_texture
    texture = named_texture(args.model, args.texture)[1]
    if texture:
        print(
            f"texture {texture:g}: fine detail is partly made up, not for diagnoses or evidence;"
            " the files' metadata state it",
            file=sys.stderr,
        )


def _processor(args: argparse.Namespace) -> Processor:
    """What is done to each picture, here or in the actors of a cluster."""
    run = run_options(args)
    from denoise_ext.tasks.processor import Processor

    names = (
        "model", "sigma", "strength", "alpha", "texture", "value_range", "axes", "guide", "holes",
    )  # fmt: skip
    return Processor(run=run, **{name: getattr(args, name) for name in names})


def _here(found: JobList, args: argparse.Namespace) -> Iterator[Outcome]:
    """Run the jobs in this process. Options that are wrong raise at once."""
    from denoise_ext.jobs.batch import Worker
    from denoise_ext.jobs.manifest import Manifest
    from denoise_ext.jobs.storage import LocalStorage

    processor, manifest = _processor(args), None
    process = processor.load(share=args.workers)
    if found.is_folder and found.jobs:
        manifest = Manifest(found.output, args.shard, siblings=args.resume)
    worker = Worker(
        process,
        processor.fingerprint() if manifest else None,
        storage=LocalStorage(manifest, make_folders=manifest is not None),
        overwrite=args.overwrite,
        quality=args.quality,
        max_pixels=max_pixels(args),
    )
    return _run_here(found.jobs, worker, manifest, args)


def _run_here(
    jobs: list[Job], worker: Worker, manifest: Manifest | None, args: argparse.Namespace
) -> Iterator[Outcome]:
    from denoise_ext.jobs.batch import known_jobs, run_batch

    with manifest or nullcontext(), _no_warnings():
        known = known_jobs(jobs, manifest) if manifest and args.resume else jobs
        yield from run_batch(known, worker, workers=args.workers)


def _on_ray(found: JobList, args: argparse.Namespace) -> Iterator[Outcome]:
    """Run the jobs on a cluster. Options that are wrong raise at once."""
    if args.imports:
        raise CliError("--import is not for --engine ray: its workers find entry points alone")
    if args.guide is not None:
        raise CliError("--guide is not for --engine ray: it is a file of this machine")
    from denoise_ext.jobs.ray import actor_setup, run_jobs

    setup = actor_setup(_processor(args), args.overwrite, max_pixels(args), args.quality)
    if args.model is not None:  # a wrong name is one error here, not one in every actor
        from denoise_ext.runtime import load_model

        load_model(args.model, "cpu", args.backend)
    return run_jobs(
        found.jobs, found.output, setup, overwrite=args.overwrite, resume=args.resume,
        shard=args.shard, actors=args.actors, cpus_per_actor=args.cpus_per_actor,
        gpus_per_actor=args.gpus_per_actor,
    )  # fmt: skip


def _print_jobs(found: JobList, args: argparse.Namespace) -> int:
    """--dry-run."""
    import json

    for note in found.notes if not (args.json or args.quiet) else ():
        print(f"note: {note}")
    for job, status in _statuses(found, args):
        source, target = printable(job.source), printable(job.target)
        status = in_options(status)
        if args.json:
            facts = {"event": "plan", "source": source, "target": target, "status": status}
            print(json.dumps(facts))
        elif not args.quiet:
            print(f"{source} -> {target}" + (f" ({status})" if status != "to do" else ""))
    for name, reason in found.failures:
        print(f"{printable(name)}: {in_options(reason)}", file=sys.stderr)
    return EXIT_SOME_FAILED if found.failures else 0


def _statuses(found: JobList, args: argparse.Namespace) -> Iterator[tuple[Job, str]]:
    import os
    from dataclasses import replace

    from denoise_ext.jobs.batch import Worker
    from denoise_ext.jobs.manifest import recorded

    folder: str | Path = found.output
    storage: Storage | None = None
    if args.engine == "ray":
        from denoise_ext.jobs.ray import manifest_folder
        from denoise_ext.jobs.urls import UrlStorage

        folder, storage = manifest_folder(found.output), UrlStorage()
    records = recorded(folder) if args.resume else {}
    fingerprint = _processor(args).fingerprint() if args.resume else None
    worker = Worker(
        None, fingerprint, storage=storage, overwrite=args.overwrite, quality=args.quality
    )
    for job in found.jobs:
        yield job, worker.status(replace(job, known=records.get(os.fsencode(job.name))))


@contextmanager
def _no_warnings() -> Iterator[None]:
    """`run` has warned of the options once. Nothing is left to repeat for each file."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _axes(text: str) -> str | None:
    from denoise_ext.tasks.axes import check_axes

    try:
        return check_axes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("axes ")) from None


def _share(text: str) -> float:
    value = number_type(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {text}")
    return value


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(n) for n in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, as 3/8, got {text!r}")
    return index, count
