"""Read, process and write many image files at the same time, each exactly once.

    jobs -> [read: hash, decode] -> [compute] -> [write: encode, record, rename] -> outcomes

The three stages run in threads (`pipeline`): decoders, encoders and kernels release the
interpreter.
"""

from __future__ import annotations

import io as streams
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, Protocol

import torch

from denoise_ext.io import DEFAULT_MAX_PIXELS, ImageError, Picture, write_picture
from denoise_ext.io.codecs import suffix_of
from denoise_ext.jobs.manifest import Manifest, Record, key_of
from denoise_ext.jobs.pipeline import Done, Finished, Stage, run_stages
from denoise_ext.jobs.storage import DiskFullError, Job, LocalStorage, Storage

Status = Literal["written", "skipped", "failed"]


class Processed(Protocol):
    """What a worker's `process` returns.

    Example:
        >>> from denoise_ext.jobs import batch
        >>> def process(picture: denoise_ext.io.Picture) -> batch.Processed:
        ...     return denoise_ext.Denoiser(sigma=10).run(picture)
        >>> process(denoise_ext.io.read_picture("photo.png")).sigma
        10.0
    """

    @property
    def image(self) -> Any:
        """The `Picture`."""

    @property
    def sigma(self) -> Any:
        """The noise level it was denoised for, on the 0-255 scale, or None."""

    @property
    def sigma_estimated(self) -> bool:
        """Whether that was estimated."""
        ...

    @property
    def noise(self) -> tuple[Any, ...]:
        """Profiles of the noise (with a `kind` each); none if it was not analysed."""
        ...

    @property
    def treatment(self) -> str:
        """What was found, and what was done, in one line."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Example:
        >>> from denoise_ext.jobs import batch, storage
        >>> job = storage.Job("photo.png", "clean.png", Path("clean.png"))
        >>> outcome = batch.Worker(denoise_ext.Denoiser(sigma=10).run).process(job)
        >>> outcome.status, outcome.sigma, outcome.pixels
        ('written', 10.0, 3072)
    """

    job: Job
    status: Status
    reason: str = ""
    """Why it failed, in one line."""
    sigma: float | None = None
    estimated: bool = False
    kinds: tuple[str, ...] = ()
    treatment: str = ""
    pixels: int = 0
    """Width x height x frames."""
    notes: tuple[str, ...] = ()
    """Remarks on how the file was read, one line each."""
    record: Record | None = field(default=None, repr=False)
    """What was written."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of "read", "compute" and "write", which overlap with those of other files."""


@dataclass
class _JobState:
    """A job between the stages."""

    job: Job
    key: str | None = None
    picture: Picture | None = None
    found: dict[str, Any] = field(default_factory=dict)
    """What `Outcome` holds of a `Processed`."""
    replaces: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def read(self) -> Picture:
        """The picture, of a job that has been read."""
        assert self.picture is not None
        return self.picture


class Worker:
    """The three stages of a job; holds no state of its own, so threads may share it.

    Args:
        process: what is done to each picture; None: only `status` is called.
        fingerprint: all that the result depends on besides the input (hash of the weights,
            options), as JSON can hold it; None: jobs have no keys (nothing is recorded).
        storage: where the files lie.
        overwrite: replace outputs that are there already.
        max_pixels: refuse larger inputs, all frames together, before they are decoded.
        quality: of the outputs, as for `denoise_ext.io.write_picture`.

    Example:
        >>> from denoise_ext.jobs import batch, storage
        >>> worker = batch.Worker(denoise_ext.Denoiser(sigma=10).run)
        >>> job = storage.Job("photo.png", "clean.png", Path("clean.png"))
        >>> worker.status(job), worker.process(job).status
        ('to do', 'written')
    """

    def __init__(
        self,
        process: Callable[[Picture], Processed] | None,
        fingerprint: dict[str, Any] | None = None,
        *,
        storage: Storage | None = None,
        overwrite: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        quality: int | None = None,
    ) -> None:
        self._quality = quality
        self._process, self._fingerprint = process, fingerprint
        self._storage = storage or LocalStorage()
        self._overwrite, self._max_pixels = overwrite, max_pixels
        self._full = ""

    def read(self, job: Job) -> _JobState:
        """Decode the input. Raises Done if there is nothing to do."""
        work = _JobState(job)
        with _timed(work, "read"):
            if self._full:
                raise Done(Outcome(job, "failed", f"not started: {self._full}"))
            if self._fingerprint is not None:
                work.key = self._key(job)
            work.replaces = self._check_target(job, work.key)
            work.picture = self._storage.read(job.source, self._max_pixels)
        return work

    def compute(self, work: _JobState) -> _JobState:
        """Process the picture."""
        with _timed(work, "compute"):
            assert self._process is not None
            result = self._process(work.read)
            work.picture = result.image
            work.found = {
                "sigma": result.sigma,
                "estimated": result.sigma_estimated,
                "kinds": tuple(dict.fromkeys(profile.kind for profile in result.noise)),
                "treatment": result.treatment,
            }
        return work

    def write(self, work: _JobState) -> Outcome:
        """Encode, record, write."""
        job, record = work.job, None
        height, width = work.read.frames[0].shape[:2]
        pixels, notes = height * width * len(work.read.frames), work.read.notes
        with _timed(work, "write"):
            stream = streams.BytesIO()
            write_picture(stream, work.read, format=_format(job), quality=self._quality)
            data = stream.getvalue()
            work.picture = None  # an image's worth of memory
            if work.key is not None:
                record = Record(work.key, len(data), sha256(data).hexdigest())
            try:
                self._storage.write(job, data, record, work.replaces)
            except DiskFullError as error:
                self._full = str(error)
                raise
        facts = {"pixels": pixels, "notes": notes, "record": record, "seconds": work.seconds}
        return Outcome(job, "written", **work.found, **facts)

    def process(self, job: Job) -> Outcome:
        """All three, one after the other; an error becomes a failed outcome."""
        try:
            return self.write(self.compute(self.read(job)))
        except Done as done:
            return done.value
        except Exception as error:
            return failed(job, error)

    def status(self, job: Job) -> str:
        """What `process` would do: "to do", "done", or why it would fail."""
        try:
            self._check_target(job, self._key(job) if self._fingerprint is not None else None)
        except Done:
            return "done"
        except ImageError as error:
            return str(error)
        return "to do"

    def _key(self, job: Job) -> str | None:
        content = self._storage.sha256(job.source)
        facts = {**(self._fingerprint or {}), "format": _format(job)}
        if self._quality is not None:  # keys of runs without one stay as they were
            facts["quality"] = self._quality
        return content and key_of(content, facts)

    def _check_target(self, job: Job, key: str | None) -> bool:
        """Whether the target may be replaced. Done: finished before. ImageError: refused."""
        known = job.known
        if known is not None and known.key is None:
            return True  # begun by this run or one that died: ours
        if known is not None and known.key == key and self._storage.holds(job.target, known):
            raise Done(Outcome(job, "skipped"))
        if known is not None and not self._overwrite and self._storage.exists(job.target):
            what = (
                "is no longer as it was written"
                if known.key == key
                else "was made from another input or with other options"
            )
            raise ImageError(f"{os.fspath(job.target)!r} {what}; overwrite=True replaces it")
        self._storage.check(job.target, self._overwrite)
        return self._overwrite


def run_batch(
    jobs: Iterable[Job], worker: Worker, *, workers: int = 1, waiting: int = 1
) -> Iterator[Outcome]:
    """Carry out jobs, several stages at a time; one outcome each, as they come to an end.

    Args:
        jobs: read as there is room. Memory is bounded for any number of jobs.
        worker: processes each job.
        workers: pictures that are computed at a time. They share PyTorch's threads. 1 is best for
            large pictures. More hide the serial parts of small ones.
        waiting: how many decoded, and how many computed pictures may wait for the next stage.

    At most ``2 + workers + 2 x waiting`` pictures are in memory.

    Example:
        >>> from denoise_ext.jobs import batch, storage
        >>> worker = batch.Worker(denoise_ext.Denoiser(sigma=10).run)
        >>> jobs = [
        ...     storage.Job(image.path, Path("clean") / image.relative, image.relative)
        ...     for image in denoise_ext.io.find_images("photos")
        ... ]
        >>> [outcome.status for outcome in batch.run_batch(jobs, worker)]
        ['written', 'written']
    """
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    stages = [
        Stage(worker.read),
        Stage(worker.compute, workers, lambda: torch.set_num_threads(share)),
        Stage(worker.write),
    ]
    try:
        for finished in run_stages(jobs, stages, waiting):
            yield _outcome(finished)
    finally:
        torch.set_num_threads(threads)


def known_jobs(jobs: Iterable[Job], manifest: Manifest) -> Iterator[Job]:
    """Yield jobs with their records in the manifest, so that finished ones are skipped.

    Example:
        >>> from denoise_ext.jobs import batch, manifest, storage
        >>> jobs = [storage.Job("photo.png", "clean/photo.png", Path("photo.png"))]
        >>> with manifest.Manifest("clean") as records:
        ...     worker = batch.Worker(
        ...         denoise_ext.Denoiser(sigma=10).run,
        ...         {"sigma": 10},
        ...         storage=storage.LocalStorage(records),
        ...     )
        ...     first = list(batch.run_batch(jobs, worker))
        ...     again = list(batch.run_batch(batch.known_jobs(jobs, records), worker))
        >>> first[0].status, again[0].status
        ('written', 'skipped')
    """
    for job in jobs:
        yield replace(job, known=manifest.get(job.name))


def failed(job: Job, error: BaseException) -> Outcome:
    """The outcome of a job that raised.

    Example:
        >>> from denoise_ext.jobs import batch, storage
        >>> job = storage.Job("photo.png", "clean.png", Path("clean.png"))
        >>> batch.failed(job, MemoryError()).reason
        'not enough memory'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MemoryError):
        lines = ["not enough memory"]
    return Outcome(job, "failed", lines[0] if lines else type(error).__name__)


def _outcome(finished: Finished) -> Outcome:
    return finished.value if finished.error is None else failed(finished.item, finished.error)


def _format(job: Job) -> str | None:
    codec = suffix_of(os.path.basename(os.fspath(job.target)))[1]
    return codec.name if codec else None


@contextmanager
def _timed(work: _JobState, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    work.seconds[stage] = time.perf_counter() - start
