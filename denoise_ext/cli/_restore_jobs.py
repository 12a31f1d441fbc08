"""Files and streams of ``denoise-ext deblur`` and ``upscale``: batches that continue."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from denoise_ext.cli._denoise_jobs import JobList, check_quality_of, list_jobs
from denoise_ext.cli._denoise_report import Report
from denoise_ext.cli.common import EXIT_SOME_FAILED, CliError, importing_torch, max_pixels

if TYPE_CHECKING:
    from denoise_ext.io import Picture
    from denoise_ext.tasks import Result


class Work(Protocol):
    """What is done to each picture."""

    def load(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Callable[[Picture], Result]:
        """The function that restores a picture; ``progress`` takes steps done and in all."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """All that a result depends on besides its input."""
        ...


def fingerprint_of(
    task: str,
    model: str | None,
    sigma: float | None,
    precision: str,
    backend: str,
    value_range: tuple[float, float] | None,
    **others: object,
) -> dict[str, Any]:
    """`Work.fingerprint` of a task with a network; `others`: what only this task has."""
    from denoise_ext import __version__
    from denoise_ext.tasks.processor import weights_sha256

    return {
        "version": __version__,
        "task": task,
        "weights": weights_sha256(model),
        "sigma": sigma,
        "precision": precision,
        "backend": backend,
        "value_range": value_range,
        **others,
    }


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """--resume, --json, --quiet."""
    parser.add_argument(
        "--resume", action="store_true", help="skip what an earlier run has done, by hashes"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON line for each file and for the summary"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.set_defaults(dry_run=False)


def run_work(args: argparse.Namespace, work: Work, doing: str, done: str) -> int:
    """Restore what the arguments name; returns the exit code."""
    if "-" in (*args.inputs, args.output):
        from denoise_ext.cli._denoise_stream import run_stream

        return run_stream(args, work)
    with importing_torch():
        found = list_jobs(args.inputs, args.output, args.recursive, args.format or "", (1, 1))
    check_quality_of(found, args.quality)
    if args.resume and not found.is_folder:
        raise CliError("--resume needs a folder as output: for one file, repeat the command")
    with Report(
        len(found.jobs), found.failures, args.output, found.notes, quiet=args.quiet,
        as_json=args.json, doing=doing, done=done,
    ) as report:  # fmt: skip
        _run_jobs(found, work, report, args)
    report.finish()
    return EXIT_SOME_FAILED if report.failures else 0


def _run_jobs(found: JobList, work: Work, report: Report, args: argparse.Namespace) -> None:
    from denoise_ext.jobs.batch import Worker, known_jobs, run_batch
    from denoise_ext.jobs.manifest import Manifest
    from denoise_ext.jobs.storage import LocalStorage

    manifest = None
    if found.is_folder and found.jobs:
        manifest = Manifest(found.output, (1, 1), siblings=args.resume)
    worker = Worker(
        work.load(report.step),
        work.fingerprint() if manifest else None,
        storage=LocalStorage(manifest, make_folders=manifest is not None),
        overwrite=args.overwrite,
        quality=args.quality,
        max_pixels=max_pixels(args),
    )
    with manifest or contextlib.nullcontext():
        known = known_jobs(found.jobs, manifest) if manifest and args.resume else found.jobs
        for outcome in run_batch(known, worker):
            report.add(outcome)
