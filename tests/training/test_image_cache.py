"""Decoded images on disk, pairs of files, batches ahead of their step."""

from __future__ import annotations

import json
import os
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_ext.data import ImageCache, PatchSampler, Prefetcher, list_training_files
from denoise_ext.io import ImageError, find_pairs, write_image


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


@pytest.mark.parametrize("kept", [False, True])
def test_an_image_is_treated_once_and_all_its_sizes_kept(files, tmp_path, kept):
    alive, most, calls = set(), [], []

    def inverted(image):
        result = 255 - image
        calls.append(result.shape)
        alive.add(len(calls))
        weakref.finalize(result, alive.discard, len(calls))
        most.append(len(alive))
        return result

    options = {"folder": tmp_path / "cache"} if kept else {}
    scales = (1.0, 0.5, 0.25)
    cache = ImageCache(files, 3, scales=scales, treat=inverted, treatment="inverted", **options)
    assert len(calls) == len(files) and len(cache) == 9
    for i, path in enumerate(files):
        assert np.array_equal(cache[i], 255 - np.asarray(Image.open(path)))
        for k in (1, 2):
            height, width = (round(side * scales[k]) for side in cache[i].shape[:2])
            assert cache[3 * k + i].shape == (height, width, 3)
    if kept:  # the one before goes when the next has come
        assert max(most) <= 2
        assert same(ImageCache(files, 3, scales=scales, treat=inverted, treatment="inverted",
                               **options), cache)  # fmt: skip
        assert len(calls) == len(files)


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


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    """(H, W) uint16: neighbours differ by less than 8 bits resolve."""
    return (1000 + 7 * np.arange(height * width)).astype(np.uint16).reshape(height, width)


@pytest.mark.parametrize("mapped", [True, False])
def test_16_bit_images_keep_their_bits(files, tmp_path, mapped):
    """Beside others of 8 bits and of odd sizes, which end anywhere."""
    pixels, small = gradient(), np.arange(15, dtype=np.uint8).reshape(5, 3)
    write_image(tmp_path / "deep.png", pixels)
    write_image(tmp_path / "small.png", small)
    order = [tmp_path / "small.png", tmp_path / "deep.png", tmp_path / "small.png"]
    for _ in range(2):  # made, and read back
        cache = ImageCache(order, 1, folder=tmp_path / "cache" if mapped else None)
        assert [image.dtype for image in cache] == [np.uint8, np.uint16, np.uint8]
        assert np.array_equal(cache[1][..., 0], pixels)
        assert np.array_equal(cache[0][..., 0], small) and np.array_equal(cache[2], cache[0])


def test_16_bit_images_in_gray_in_other_sizes_and_stretched(tmp_path):
    colour = np.stack([gradient(), 2 * gradient(), 60000 - gradient()], axis=2)
    write_image(tmp_path / "deep.tiff", colour)
    gray, half = ImageCache([tmp_path / "deep.tiff"], 1, scales=(1.0, 0.5))
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray[..., 0] - luma).max() <= 0.5 + 1e-6
    assert half.dtype == np.uint16 and half.shape == (10, 15, 1)
    # of a plane, inside, Lanczos takes the mean of each 2 x 2 pixels
    means = luma.reshape(10, 2, 15, 2).mean(axis=(1, 3))[3:-3, 3:-3]
    assert np.abs(half[3:-3, 3:-3, 0] - means).max() <= 1
    write_image(tmp_path / "dark.png", gradient())
    (stretched,) = ImageCache([tmp_path / "dark.png"], 1, normalise="stretch")
    assert stretched.dtype == np.uint16
    assert (stretched.min(), stretched.max()) == (0, 65535)
    assert len(np.unique(stretched)) > 590  # of 600 values


def test_a_cache_of_an_earlier_version_is_not_read(files, tmp_path):
    """Its name is another one; under the new name it is made again."""
    whole = ImageCache(files, 1, folder=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    before = b"denoise_ext images 1"
    shapes = json.dumps([image.shape for image in whole]).encode()
    pixels = b"".join(bytes(image) for image in whole)
    old = before + pixels + shapes + len(shapes).to_bytes(8, "little") + before
    kept.write_bytes(old)
    assert same(ImageCache(files, 1, folder=tmp_path / "cache"), whole)
    assert kept.read_bytes() != old


def test_crops_of_16_bit_images():
    """Of all bits; those of 8-bit images among them are what they are without."""
    deep, shallow = gradient()[..., None], np.random.default_rng(0).integers(0, 256, (9, 9, 1))
    shallow = shallow.astype(np.uint8)
    options = {"crop": 9, "batch_size": 20, "seed": 1, "augment": False}
    found = PatchSampler([deep, shallow], **options).batch(0)
    plain = PatchSampler([shallow], **options).batch(0)[0]
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    kinds = [torch.equal(patch, plain) for patch in found]
    assert 0 < sum(kinds) < 20
    for patch, is_shallow in zip(found, kinds, strict=True):
        if not is_shallow:  # neighbours are 7 of 65535 apart
            steps = (patch[0, :, 1:] - patch[0, :, :-1]) * 65535
            torch.testing.assert_close(steps, torch.full_like(steps, 7.0), rtol=0, atol=0.02)


def test_pairs_of_different_depth(tmp_path):
    shallow = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    write_image(tmp_path / "noisy.png", shallow)
    write_image(tmp_path / "clean.png", shallow.astype(np.uint16) * 257)
    (image,) = ImageCache([(tmp_path / "noisy.png", tmp_path / "clean.png")], 1)
    assert image.dtype == np.uint16
    assert np.array_equal(image[..., 0], image[..., 1])


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
