"""A batch in a process of its own, to be killed (test_batch_killed.py)."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from denoise_ext.engine import Accelerated, plan
from denoise_ext.io import Picture
from denoise_ext.jobs.batch import Job, Outcome, Worker, known_jobs, run_batch
from denoise_ext.jobs.manifest import Manifest
from denoise_ext.jobs.storage import LocalStorage
from denoise_ext.models import create_model
from denoise_ext.tasks import Result, denoise

SIGMA = 20.0


@functools.cache
def tiny_network() -> Accelerated:
    """The same in every process."""
    torch.manual_seed(0)
    return plan(create_model("ffdnet_gray", predicts="noise", width=4, depth=2).eval())


def warm_up() -> None:
    """What the first image of a process costs; in one thread, so that the process may be forked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    denoise(np.zeros((8, 8), np.uint8), tiny_network(), SIGMA)
    torch.set_num_threads(threads)


def tiny_worker(manifest: Manifest, **options) -> Worker:
    """A worker with the tiny network."""

    def process(picture: Picture) -> Result:
        frames = [denoise(frame, tiny_network(), SIGMA) for frame in picture.frames]
        return Result(picture.with_frames(frames), SIGMA, False, 0.0, len(frames), 0)

    return Worker(process, {"sigma": SIGMA}, storage=LocalStorage(manifest), **options)


def jobs_of(source: Path, target: Path) -> list[Job]:
    """A job for every file of a folder."""
    names = sorted(p.relative_to(source) for p in source.rglob("*.png"))
    return [Job(source / name, target / name, name) for name in names]


def resume(source: Path, target: Path, **options) -> list[Outcome]:
    """Do what is missing."""
    torch.set_num_threads(1)
    with Manifest(target) as manifest:
        jobs = known_jobs(jobs_of(source, target), manifest)
        return list(run_batch(jobs, tiny_worker(manifest, **options)))


def resume_and_hang(source: Path, target: Path, count: int) -> None:
    """Do at most `count` of what is missing, then wait to be killed."""
    torch.set_num_threads(1)
    with Manifest(target) as manifest:

        def few() -> Iterator[Job]:
            left = count
            for job in known_jobs(jobs_of(source, target), manifest):
                left -= not job.target.exists()
                if left < 0:
                    threading.Event().wait()
                yield job

        list(run_batch(few(), tiny_worker(manifest)))


def resume_and_die(source: Path, target: Path, function: str, calls: int) -> None:
    """The same, killed at the n-th call of a function of `os`, before the call has an effect."""
    original, left = getattr(os, function), [calls]

    def deadly(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, function, deadly)
    resume(source, target)
