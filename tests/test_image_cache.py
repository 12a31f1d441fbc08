"""Decoded images on disk, pairs of files, batches ahead of their step."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denoise_ext.data import ImageCache, PatchSampler, Prefetcher, list_training_files
from denoise_ext.io import ImageError, find_pairs


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.glob("*.png"))


def same(a: ImageCache, b: ImageCache) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_mapped_is_what_was_decoded(files, tmp_path, channels):
    in_memory = ImageCache(files, channels)
    mapped = ImageCache(files, channels, folder=tmp_path / "cache")
    assert same(mapped, in_memory)
    (kept,) = (tmp_path / "cache").iterdir()
    changed = kept.stat().st_mtime_ns
    assert same(ImageCache(files, channels, folder=tmp_path / "cache"), in_memory)
    assert kept.stat().st_mtime_ns == changed  # not decoded again


def test_another_file_is_another_cache(files, tmp_path):
    folder = tmp_path / "cache"
    ImageCache(files, 1, folder=folder)
    state = files[0].stat()
    Image.new("L", (30, 20), 7).save(files[0])
    os.utime(files[0], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    again = ImageCache(files, 1, folder=folder)
    assert (again[0] == 7).all()
    ImageCache(files[::-1], 1, folder=folder)
    ImageCache(files, 3, folder=folder)
    ImageCache(files, 1, scales=(1.0, 0.5), folder=folder)
    ImageCache(files, 1, normalise="stretch", folder=folder)
    assert len(list(folder.iterdir())) == 6


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:9] + b[20:]])
def test_a_damaged_cache_is_made_again(files, tmp_path, damage):
    whole = ImageCache(files, 1)
    ImageCache(files, 1, folder=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert same(ImageCache(files, 1, folder=tmp_path / "cache"), whole)


def test_writers_at_the_same_time(files, tmp_path):
    whole, seen = ImageCache(files, 1), []
    threads = [
        threading.Thread(target=lambda: seen.append(ImageCache(files, 1, folder=tmp_path / "c")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert all(same(cache, whole) for cache in seen)
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_scales_and_stretching(files):
    cache = ImageCache(files, 3, scales=(1.0, 0.5))
    assert len(cache) == 6
    assert cache[4].shape == (round(21 * 0.5), 15, 3)
    halved = Image.open(files[1]).resize((15, 10), Image.Resampling.LANCZOS)
    assert np.abs(cache[4].astype(int) - np.asarray(halved)).max() <= 1
    Image.fromarray(np.linspace(50, 90, 400).round().astype(np.uint8).reshape(20, 20)).save(
        files[0]
    )
    stretched = ImageCache(files[:1], 1, normalise="stretch")[0]
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_files_that_are_not_there(files, tmp_path):
    for folder in (None, tmp_path / "c"):
        with pytest.raises(ValueError, match=r"absent\.png"):
            ImageCache([tmp_path / "absent.png"], 1, folder=folder)
    with pytest.raises(ValueError, match="cannot make the cache"):
        ImageCache(files, 1, folder=files[0] / "c")


# ---- pairs


def test_pairs(tmp_path):
    for name in ("b_real.png", "b_mean.png", "a_real.png", "a_mean.png", "other.txt"):
        Image.new("L", (12, 12)).save(tmp_path / name, "PNG")
    pairs = find_pairs(tmp_path, "*_real.png", "*_mean.png")
    assert [(a.name, b.name) for a, b in pairs] == [
        ("a_real.png", "a_mean.png"), ("b_real.png", "b_mean.png"),
    ]  # fmt: skip
    second = list_training_files(tmp_path, ["*_real.png", "*_mean.png"], [0.5, 1.0])
    assert second == pairs[1:]
    (tmp_path / "c_mean.png").touch()
    with pytest.raises(ImageError, match=r"c_mean\.png' .* has no partner c_real\.png"):
        find_pairs(tmp_path, "*_real.png", "*_mean.png")
    with pytest.raises(ImageError, match=r"one \* is needed"):
        find_pairs(tmp_path, "real.png", "*_mean.png")
    with pytest.raises(ImageError, match="holds no file"):
        find_pairs(tmp_path, "*_x.png", "*_mean.png")


def test_pairs_are_cropped_together(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (40, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noisy.png")
    Image.fromarray(pixels + 55).save(tmp_path / "clean.png")
    cache = ImageCache([(tmp_path / "noisy.png", tmp_path / "clean.png")], 1)
    batch = PatchSampler(list(cache), crop=8, batch_size=6, seed=0).batch(3) * 255
    assert batch.shape == (6, 2, 8, 8)
    assert ((batch[:, 1] - batch[:, 0]).round() == 55).all()
    Image.fromarray(pixels[:-1]).save(tmp_path / "clean.png")
    with pytest.raises(ValueError, match=r"clean\.png is 50 x 39, but .*noisy\.png 50 x 40 pixels"):
        ImageCache([(tmp_path / "noisy.png", tmp_path / "clean.png")], 1)


def test_processes_share_a_batch():
    images = [np.random.default_rng(0).integers(0, 256, (30, 30, 1), dtype=np.uint8)]
    whole = PatchSampler(images, 8, batch_size=6, seed=1).batch(2)
    parts = [PatchSampler(images, 8, 3, 1, share=(rank, 2)).batch(2) for rank in (0, 1)]
    assert np.array_equal(np.concatenate([part.numpy() for part in parts]), whole.numpy())


# ---- batches ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_whoever_makes_them(workers):
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step * step

    with Prefetcher(make, end=9, workers=workers) as ahead:
        assert [ahead.get(step) for step in range(4, 9)] == [16, 25, 36, 49, 64]
    assert sorted(made) == [4, 5, 6, 7, 8]  # each once, none after the end


def test_what_a_batch_raises_arrives():
    def make(step: int) -> int:
        raise ValueError("no such crop")

    with Prefetcher(make, end=9, workers=1) as ahead, pytest.raises(ValueError, match="no such"):
        ahead.get(0)


def test_default_cache_folder(monkeypatch):
    from denoise_ext.data import default_cache_folder

    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_folder() == Path("/somewhere/denoise_ext")
