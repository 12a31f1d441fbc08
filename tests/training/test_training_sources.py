"""Several sets of images to train on: their shares, sizes, and what is left out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_ext.data import PatchSampler
from denoise_ext.data.files import without
from denoise_ext.models import create_model
from denoise_ext.training.batches import ImagePool
from denoise_ext.training.config import ConfigError, load_config

CONFIG = """
[data]
crop = 16
cache = "off"
{data}
[[data.sources]]
train = "dark"
{dark}
[[data.sources]]
train = "bright.txt"
weight = 3.0
{bright}
[model]
name = "ffdnet_gray"
[validation]
images = 2
[run]
out = "run"
steps = 400
batch_size = 8
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four dark images, the first four times as large as the others; six bright ones in a list."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    for kind, count in (("dark", 4), ("bright", 6)):
        (tmp_path / kind).mkdir()
        for i in range(count):
            side = 64 if (kind, i) == ("dark", 0) else 32
            pixels = np.full((side, side), (10 if kind == "dark" else 200) + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    (tmp_path / "bright.txt").write_text("".join(f"bright/{i}.png\n" for i in range(6)))
    return tmp_path


def pool(held_out: int = 0, data: str = "", dark: str = "", bright: str = "") -> ImagePool:
    Path("config.toml").write_text(CONFIG.format(data=data, dark=dark, bright=bright))
    return ImagePool(load_config("config.toml").data, held_out)


def gray_levels(images: list[np.ndarray]) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def test_sources_have_their_shares(folder):
    found = pool()
    assert gray_levels(found.images) == [10, 11, 12, 13, 200, 201, 202, 203, 204, 205]
    expected = [1 / 16] * 4 + [3 / 24] * 6
    np.testing.assert_allclose(found.probabilities / found.probabilities.sum(), expected)
    assert found.files["files"] == 10


def test_sampling_by_area(folder):
    found = pool(data='sampling = "area"', dark="scales = [1.0, 0.5]")
    shares = found.probabilities / found.probabilities.sum()
    assert [image.shape[0] for image in found.images[:8]] == [64, 32, 32, 32, 32, 16, 16, 16]
    areas = np.array([16, 4, 4, 4, 4, 1, 1, 1])
    np.testing.assert_allclose(shares[:8], 0.25 * areas / areas.sum())
    np.testing.assert_allclose(shares[8:], 0.75 / 6)


def test_reduced_images_that_are_too_small_are_left_out(folder):
    found = pool(dark="scales = [0.5, 0.25]")
    sides = [image.shape[0] for image in found.images[:-6]]
    assert sides == [32, 16, 16, 16, 16]  # of a quarter the large one alone
    np.testing.assert_allclose(found.probabilities[:5] / found.probabilities.sum(), 0.05)


def test_a_source_that_has_nothing_left_is_named(folder):
    with pytest.raises(ValueError, match=r"dark.*16 pixels"):
        pool(dark="scales = [0.1]")
    Path("out.txt").write_text("".join(f"{i}.png\n" for i in range(6)))
    with pytest.raises(ValueError, match=r"bright\.txt: no image is left"):
        pool(bright='leave_out = "out.txt"')


def test_images_are_held_out_from_all_sources(folder):
    found = pool(2)
    assert gray_levels(found.held_out) == [12, 203]
    assert gray_levels(found.images) == [10, 11, 13, 200, 201, 202, 204, 205]


def test_files_are_left_out(folder):
    Path("out.txt").write_text("# not these\n1.png\n\n3.png\n")
    found = pool(bright='leave_out = "out.txt"')
    assert gray_levels(found.images)[4:] == [200, 202, 204, 205]
    Path("out.txt").write_text("1.png\nabsent.png\n")
    with pytest.raises(ValueError, match=r"leave_out: out\.txt names 'absent\.png'"):
        pool(bright='leave_out = "out.txt"')
    with pytest.raises(ValueError, match=r"leave_out: nowhere\.txt: No such file"):
        pool(bright='leave_out = "nowhere.txt"')
    Path("out.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"leave_out: out.txt: not a text file"):
        without([(Path("a.png"),)], "out.txt")


def test_images_are_denoised_first(folder):
    """Once, before they are scaled; the cache of others is another."""
    noise = np.random.default_rng(0).normal(0, 8, (64, 64))
    noisy = (120 + noise).round().astype(np.uint8)
    Image.fromarray(noisy).save("dark/0.png")
    mapped = "cache = 'cache'"
    plain = pool(bright="scales = [0.5]").images[0]
    text = CONFIG.replace('cache = "off"', mapped)
    found = []
    for level in ("", "denoise = 8.0", "denoise = 8.0", "denoise = 4.0"):
        Path("config.toml").write_text(text.format(data="", dark=level, bright="scales = [0.5]"))
        found.append(ImagePool(load_config("config.toml").data, 0).images[0])
    assert np.array_equal(found[0], plain) and np.array_equal(found[1], found[2])
    spread = [float(np.asarray(image, float).std()) for image in found]
    assert spread[0] > 7 > spread[3] > spread[1] and spread[1] < 2
    network = create_model("dxnet_s_gray", pretrained=True)
    x = torch.from_numpy(noisy)[None, None].float() / 255
    with torch.inference_mode():
        expected = network(x, 8.0)[0, 0] * 255
    assert np.abs(found[1][..., 0] - expected.numpy()).max() <= 0.5 + 1e-3
    assert len(list(Path("cache").glob("*.images"))) == 4  # three of the dark, one of the bright


def test_other_sources_are_other_files(folder):
    """A run does not go on with images that it has not begun with."""
    before = pool().files
    assert pool().files == before
    Path("bright/5.png").unlink()
    Path("bright.txt").write_text("".join(f"bright/{i}.png\n" for i in range(5)))
    assert pool().files != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('train = "dark"', "either train or sources is required, and not both"),
        ("scales = [1.0, 0.5]", "pairs, scales and part are for data.train"),
        ("permute_channels = true", "permute_channels is for single files of 3 channels"),
        ('sampling = "weight"', "data.sampling: got 'weight'"),
    ],
)
def test_what_a_configuration_refuses(folder, text, message):
    with pytest.raises(ConfigError, match=message):
        pool(data=text)


def test_one_of_both_is_required(folder):
    Path("config.toml").write_text(
        '[data]\ncrop = 16\n[model]\nname = "ffdnet_gray"\n[run]\nout = "run"\nsteps = 1\n'
    )
    with pytest.raises(ConfigError, match=r"train.*sources"):
        load_config("config.toml")
    text = CONFIG.format(data="", dark="weight = 0.0", bright="")
    Path("config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"data.sources.0.weight: got 0.0"):
        load_config("config.toml")


# ---- the sampler


def test_crops_are_drawn_by_their_probabilities():
    images = [np.full((8, 8, 1), value, np.uint8) for value in (0, 100, 200)]
    probabilities = np.array([1.0, 0.0, 3.0])
    sampler = PatchSampler(images, 8, 50, seed=2, probabilities=probabilities)
    values = torch.cat([sampler.batch(step)[:, 0, 0, 0] for step in range(40)]) * 255
    counts = [(values == value).sum().item() for value in (0, 100, 200)]
    assert counts[1] == 0
    assert abs(counts[0] - 500) < 5 * math.sqrt(2000 * 0.25 * 0.75)


def test_no_probabilities_draw_what_they_always_drew():
    """Runs that were begun before go on as they would have."""
    images = [np.full((8, 8, 1), value, np.uint8) for value in range(5)]
    batch = PatchSampler(images, 8, 6, seed=2).batch(3)
    generator = np.random.Generator(np.random.Philox(key=np.array([2, 3], np.uint64)))
    assert (batch[:, 0, 0, 0] * 255).round().tolist() == generator.integers(0, 5, 6).tolist()


def test_channels_change_places_and_nothing_else():
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    options = {"crop": 8, "batch_size": 60, "seed": 1, "augment": False}
    plain = PatchSampler([image], **options).batch(0)
    found = PatchSampler([image], **options, permute_channels=True).batch(0)
    orders = {tuple((patch[:, 0, 0] * 255).round().int().tolist()) for patch in found}
    assert len(orders) == 6
    torch.testing.assert_close(found.sort(dim=1).values, plain.sort(dim=1).values)
    shared = PatchSampler([image], 8, 30, 1, False, share=(1, 2), permute_channels=True).batch(0)
    assert torch.equal(shared, found[30:])
