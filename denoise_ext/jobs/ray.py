"""Batches on a Ray cluster: Ray Data streams the files through a pool of actors.

    from denoise_ext.jobs.ray import denoise_files

    for outcome in denoise_files("s3://scans/raw", "s3://scans/clean", sigma=15, gpus_per_actor=1):
        print(outcome.job.name, outcome.status)

Each actor holds one network and overlaps reading, computing and writing. An actor or node that dies
is replaced, and its files are processed again. This is safe: outputs are written whole and depend
only on input, weights and options. The driver alone records finished files, in the same manifest as
on one machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from denoise_ext.io import DEFAULT_MAX_PIXELS, ImageError
from denoise_ext.jobs.batch import Outcome, Worker, failed, run_batch
from denoise_ext.jobs.manifest import Manifest, Record
from denoise_ext.jobs.storage import Job
from denoise_ext.jobs.urls import UrlStorage, find_files, is_url, local_path
from denoise_ext.runtime.model_names import load_model
from denoise_ext.runtime.options import RunOptions
from denoise_ext.tasks.processor import Processor
from denoise_ext.tasks.value_range import Range

_FILES_PER_TASK = 8  # what is done again when an actor dies; enough to overlap its stages


def denoise_files(
    inputs: str | Iterable[str],
    output: str,
    *,
    recursive: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    actors: int | None = None,
    cpus_per_actor: int = 1,
    gpus_per_actor: float = 0,
    value_range: Range | None = None,
    axes: str | None = None,
    **options: Any,
) -> Iterator[Outcome]:
    """Denoise files on the Ray cluster that this process is connected to, or on a local one.

    Args:
        inputs: files, folders, patterns: paths that every node can read, or fsspec URLs.
        output: a folder or URL; files keep their names and places below the inputs.
        recursive: include sub-folders.
        overwrite: replace existing outputs.
        resume: skip files that an earlier run with the same options has finished.
        max_pixels: refuse larger inputs before they are decoded.
        actors: how many; None: as many as the cluster has room for.
        cpus_per_actor, gpus_per_actor: what Ray reserves for each; the first is also its number of
            threads.
        value_range: the numbers that mean black and white, in place of each file's own.
        axes: letters for the axes of each file's array or pages, as a `Denoiser` takes them.
        options: of `denoise_ext.Denoiser`: model (a name or a checkpoint file, which is sent to the
            actors), sigma, strength, precision, backend, ...

    Yields:
        An `Outcome` for each file, in the order in which they finish.

    Raises:
        ImageError: nothing to do. ManifestError: another run is writing there.
        RuntimeError: Ray is not installed.
    """
    found = [f for path in _listed(inputs) for f in find_files(path, recursive)]
    folder = os.fspath(output).rstrip("/")
    jobs = [Job(os.fspath(f.path), f"{folder}/{f.relative}", f.relative) for f in found]
    given = {
        f.name: options.pop(f.name) for f in dataclasses.fields(RunOptions) if f.name in options
    }
    processor = Processor(run=RunOptions(**given), value_range=value_range, axes=axes, **options)
    setup = actor_setup(processor, overwrite, max_pixels)
    yield from run_jobs(
        jobs, output, setup, overwrite=overwrite, resume=resume, actors=actors,
        cpus_per_actor=cpus_per_actor, gpus_per_actor=gpus_per_actor,
    )  # fmt: skip


def run_jobs(
    jobs: Iterable[Job],
    output: str,
    make_worker: Callable[[], Worker],
    *,
    overwrite: bool = False,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    actors: int | None = None,
    cpus_per_actor: int = 1,
    gpus_per_actor: float = 0,
) -> Iterator[Outcome]:
    """`denoise_files` for jobs that are known, with workers made by a function in each actor."""
    ray = _import_ray()
    with Manifest(manifest_folder(output), shard, siblings=resume) as manifest:
        ready, refused = _claimed(jobs, manifest, overwrite, resume)
        yield from refused
        if not ready:
            return
        count = actors or _room(ray, cpus_per_actor, gpus_per_actor)
        tasks = max(1, min(len(ready), max(4 * count, len(ready) // _FILES_PER_TASK)))
        rows = [{"job": _to_json(job)} for job in ready]
        results = ray.data.from_items(rows, override_num_blocks=tasks).map_batches(
            _Actor,
            fn_constructor_args=(make_worker, cpus_per_actor),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(count, tasks))),
            batch_size=None,
            num_cpus=cpus_per_actor,
            num_gpus=gpus_per_actor,
        )
        for row in results.iter_rows():
            outcome = _outcome_from(row["outcome"])
            if outcome.record is not None:
                manifest.record(outcome.job.name, outcome.record)
            yield outcome


def actor_setup(
    processor: Processor, overwrite: bool, max_pixels: int, quality: int | None = None
) -> Callable[[], Worker]:
    """A function that makes a worker in an actor; a checkpoint file travels inside it."""
    model, checkpoint = processor.model, None
    if model is not None and Path(model).is_file():
        checkpoint = (Path(model).name, Path(model).read_bytes())
    fingerprint = processor.fingerprint()
    return partial(_make_worker, processor, checkpoint, fingerprint, overwrite, max_pixels, quality)


def manifest_folder(output: str | os.PathLike[str]) -> Path:
    """Where the manifest of an output lies: in it; for a URL, in the user's state folder."""
    output = os.fspath(local_path(output))
    if not is_url(output):
        return Path(output)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    name = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:16]
    return Path(state) / "denoise-ext" / name


class _Actor:
    """A worker in a process of its own, on any node."""

    def __init__(self, make_worker: Callable[[], Worker], threads: int) -> None:
        torch.set_num_threads(max(1, int(threads)))
        self._worker = make_worker()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        jobs = [_job_from(text) for text in batch["job"]]
        outcomes = run_batch(jobs, self._worker)
        return {"outcome": [_to_json(outcome) for outcome in outcomes]}


def _claimed(
    jobs: Iterable[Job], manifest: Manifest, overwrite: bool, resume: bool
) -> tuple[list[Job], list[Outcome]]:
    """Return the jobs whose targets this run may write, and the refused ones.

    An actor may die after writing, before it reports. A target that was free (or may be replaced)
    is therefore recorded as begun. A repeated job, now or after a resume, then replaces it.
    """
    storage = UrlStorage()
    ready, begun, refused = [], [], []
    for job in jobs:
        known = manifest.get(job.name) if resume else None
        if known is not None and known.key is not None and storage.exists(job.target):
            ready.append(dataclasses.replace(job, known=known))  # the actor compares
            continue
        try:
            storage.check(job.target, overwrite or known is not None)
        except ImageError as error:
            refused.append(failed(job, error))
            continue
        begun.append(job.name)
        ready.append(dataclasses.replace(job, known=Record(None)))
    manifest.begin(begun)
    return ready, refused


def _make_worker(
    processor: Processor,
    checkpoint: tuple[str, bytes] | None,
    fingerprint: dict[str, Any],
    overwrite: bool,
    max_pixels: int,
    quality: int | None,
) -> Worker:
    network = None
    if checkpoint is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / checkpoint[0]
            path.write_bytes(checkpoint[1])
            network = load_model(path, processor.run.device, processor.run.backend)
    return Worker(
        processor.load(network), fingerprint, storage=UrlStorage(), overwrite=overwrite,
        max_pixels=max_pixels, quality=quality,
    )  # fmt: skip


def _room(ray: Any, cpus: int, gpus: float) -> int:
    """How many actors the cluster can hold at a time."""
    total = ray.cluster_resources()
    by_cpu = int(total.get("CPU", 1) // cpus) if cpus else 1 << 10
    by_gpu = int(total.get("GPU", 0) // gpus) if gpus else by_cpu
    return max(1, min(by_cpu, by_gpu))


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise RuntimeError("Ray is not installed: pip install denoise-ext[ray]") from None
    if not ray.is_initialized():
        # The cluster at RAY_ADDRESS, else one on this machine. Ray's reports would be mixed with
        # ours. Programs that start Ray themselves choose its logging.
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _listed(inputs: str | Iterable[str]) -> list[str]:
    return [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)


# --- jobs and outcomes as text, which Ray's tables hold as it is ---------------------------------


def _to_json(value: Job | Outcome) -> str:
    return json.dumps(dataclasses.asdict(value), default=os.fspath)


def _job_from(text: str) -> Job:
    return _job(json.loads(text))


def _job(facts: dict[str, Any]) -> Job:
    known = facts.pop("known")
    name = Path(facts.pop("name"))
    return Job(**facts, name=name, known=known and Record(**known))


def _outcome_from(text: str) -> Outcome:
    facts = json.loads(text)
    record, job = facts.pop("record"), _job(facts.pop("job"))
    notes = tuple(facts.pop("notes"))
    return Outcome(job, **facts, notes=notes, record=record and Record(**record))
