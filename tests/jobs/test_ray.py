"""Batches on Ray: a cluster of two nodes on this machine, an actor killed in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.io import ImageError
from denoise_ext.jobs.batch import Worker
from denoise_ext.jobs.manifest import Manifest, Record
from denoise_ext.jobs.storage import Job
from denoise_ext.jobs.urls import UrlStorage, find_files
from denoise_ext.models import create_model, save_model
from denoise_ext.runtime import RunOptions
from denoise_ext.tasks.processor import Processor

needs_native = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
IMAGES = 24


# --- files behind URLs, without a cluster ------------------------------------------------------


@pytest.fixture(params=["memory", "local"])
def base(request, tmp_path) -> str:
    """An object store, and a file system that renames."""
    fsspec = pytest.importorskip("fsspec")
    if request.param == "local":
        yield f"local://{tmp_path}"
        return
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def put(url: str, data: bytes) -> None:
    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    fs.makedirs(str(Path(path).parent), exist_ok=True)
    fs.pipe_file(path, data)


def png(pixels: np.ndarray, folder: Path) -> bytes:
    io.write_image(folder / "x.png", pixels, overwrite=True)
    return (folder / "x.png").read_bytes()


def test_files_behind_urls_are_found(base, tmp_path_factory):
    content = png(np.zeros((3, 4), np.uint8), tmp_path_factory.mktemp("png"))
    for name in ("a.png", "sub/b.png", "sub/.hidden.png", "note.txt"):
        put(f"{base}/in/{name}", content)
    assert [str(f.relative) for f in find_files(f"{base}/in", False)] == ["a.png"]
    assert [str(f.relative) for f in find_files(f"{base}/in", True)] == ["a.png", "sub/b.png"]
    assert [str(f.relative) for f in find_files(f"{base}/in/*.png", False)] == ["a.png"]
    [found] = find_files(f"{base}/in/a.png", False)
    picture = UrlStorage().read(os.fspath(found.path), 100)
    assert picture.frames[0].shape == (3, 4)
    with pytest.raises(ImageError, match="does not exist"):
        find_files(f"{base}/nothing", False)
    with pytest.raises(ImageError, match="holds no image"):
        put(f"{base}/empty/note.txt", b"")
        find_files(f"{base}/empty", False)
    with pytest.raises(ImageError, match="cannot use"):
        find_files("nosuchprotocol://x", False)


def test_files_behind_urls_are_written_whole(base, tmp_path_factory):
    content = png(np.zeros((3, 4), np.uint8), tmp_path_factory.mktemp("png"))
    storage = UrlStorage()
    target = f"{base}/out/sub/a.png"
    job = Job("", target, Path("sub/a.png"))
    storage.write(job, content, None, False)
    assert storage.exists(target)
    digest = storage.sha256(target)
    assert storage.holds(target, Record("key", len(content), digest))
    assert not storage.holds(target, Record("key", len(content), "0" * 64))
    with pytest.raises(ImageError, match="exists"):
        storage.write(job, content, None, False)
    storage.write(job, content, None, True)
    assert [str(f.relative) for f in find_files(f"{base}/out", True)] == ["sub/a.png"]
    with pytest.raises(ImageError, match="no known format"):
        storage.check(f"{base}/out/a.xyz", False)


# --- the cluster --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    # Here: it takes seconds, in each process that collects this file.
    ray = pytest.importorskip("ray")
    ray_data = pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112 - a busy machine is no fault
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(**node)
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    (folder / "sub").mkdir()
    for index in range(IMAGES):
        pixels = rng.integers(0, 256, (20, 31), dtype=np.uint8)
        io.write_image(folder / ("sub" if index % 2 else ".") / f"{index}.png", pixels)
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    model = create_model("ffdnet_gray", predicts="noise", width=4, depth=2)
    save_model(model.eval(), path)
    return str(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.rotates(turn=1)  # a cluster of its own
@needs_native
def test_an_actor_that_dies_loses_nothing(cluster, source, checkpoint, tmp_path):
    from denoise_ext.cli import main
    from denoise_ext.jobs.ray import actor_setup, denoise_files, run_jobs

    options = {"model": checkpoint, "sigma": 20.0}
    assert main(["denoise", str(source), "-o", str(tmp_path / "local"), "--recursive", "-q",
                 "--sigma", "20", "--model", checkpoint]) == 3  # fmt: skip
    expected = contents(tmp_path / "local")
    assert len(expected) == IMAGES

    processor = Processor(checkpoint, sigma=20.0)
    died, setup = tmp_path / "died", actor_setup(processor, False, 10**6)

    class Fragile(Worker):
        """Kills its process, once, right after an output has got its name."""

        def write(self, work):
            outcome = Worker.write(self, work)
            if not died.exists():
                died.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return outcome

    def make_fragile():
        worker = setup()
        worker.__class__ = Fragile
        return worker

    found = find_files(str(source), True)
    target = tmp_path / "out"
    jobs = [Job(str(f.path), str(target / f.relative), f.relative) for f in found]
    outcomes = list(run_jobs(jobs, str(target), make_fragile))
    assert died.exists() and int(died.read_text()) != os.getpid()
    statuses = [outcome.status for outcome in outcomes]
    assert (statuses.count("written"), statuses.count("failed")) == (IMAGES, 1)
    assert contents(target) == expected  # as on one machine, bit for bit
    assert not list(target.rglob("*.part"))

    # the driver died before it had heard of two of them, and one is missing
    with Manifest(target) as manifest:
        manifest.begin([Path("0.png"), Path("2.png")])
    (target / "4.png").unlink()
    again = denoise_files(str(source), str(target), recursive=True, resume=True, **options)
    statuses = {str(o.job.name): o.status for o in again}
    written = sorted(name for name, status in statuses.items() if status == "written")
    assert written == ["0.png", "2.png", "4.png"]
    assert list(statuses.values()).count("skipped") == IMAGES - 3
    assert contents(target) == expected

    # nothing is overwritten unasked, whatever cluster it is
    refused = list(denoise_files(str(source / "0.png"), str(target), **options))
    assert [o.status for o in refused] == ["failed"] and "exists" in refused[0].reason


def test_what_a_result_depends_on(checkpoint):
    made = Processor(checkpoint, sigma=20.0).fingerprint()
    elsewhere = RunOptions(device="cuda", tile=64, max_memory=1 << 30)
    assert made == Processor(checkpoint, elsewhere, sigma=20.0).fingerprint()
    assert made != Processor(checkpoint, RunOptions(precision="fast"), sigma=20.0).fingerprint()
    assert made != Processor(checkpoint, sigma=21.0).fingerprint()
    assert made != Processor(None, sigma=20.0).fingerprint()
