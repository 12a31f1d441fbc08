"""Training data: lists of images, the cache, random crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_ext.data import ImageCache, PatchSampler, list_image_files
from denoise_ext.data.sampler import dihedral
from denoise_ext.training.batches import Batches
from denoise_ext.training.config import ConfigError, load_config
from denoise_ext.training.distributed import Processes


def test_list_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for i in range(8):
        Image.fromarray(np.full((4, 5), i, np.uint8)).save(f"images/{i}.png")
    Path("some.txt").write_text("# two of them\nimages/1.png\n\nimages/0.png\n")
    assert [path.name for path in list_image_files("some.txt")] == ["1.png", "0.png"]
    assert len(list_image_files("images")) == 8
    Path("none.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no image"):
        list_image_files("none.txt")
    with pytest.raises(ValueError, match="not a list file"):
        list_image_files("images/0.png")


def test_gray_is_the_luma_of_pillow(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (gray,) = ImageCache([tmp_path / "a.png"], 1)
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert gray.shape == (6, 7, 1)
    assert np.abs(gray[..., 0] - luma).max() <= 0.5 + 1e-2  # rounded, in Pillow's fixed point
    (colour,) = ImageCache([tmp_path / "a.png"], 3)
    assert np.array_equal(colour, rgb)


def test_dihedral_gives_the_eight_symmetries():
    tile = np.arange(9).reshape(3, 3, 1)
    seen = {dihedral(tile, turn).tobytes() for turn in range(8)}
    assert len(seen) == 8
    assert np.array_equal(dihedral(tile, 0), tile)


def test_crops_come_from_the_images_and_depend_on_seed_and_step_alone():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(3)]
    sampler = PatchSampler(images, crop=8, batch_size=5, seed=1, augment=False)
    batch = sampler.batch(11)
    assert batch.shape == (5, 3, 8, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    views = [np.lib.stride_tricks.sliding_window_view(i, (8, 8, 3)).reshape(-1, 8, 8, 3)
             for i in images]  # fmt: skip
    for patch in batch:
        pixels = np.round(patch.permute(1, 2, 0).numpy() * 255)
        assert any((view == pixels).all(axis=(1, 2, 3)).any() for view in views)
    assert torch.equal(batch, PatchSampler(images, 8, 5, 1, False).batch(11))
    assert not torch.equal(batch, sampler.batch(12))
    assert not torch.equal(batch, PatchSampler(images, 8, 5, 2, False).batch(11))


def test_crops_reach_every_corner():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    sampler = PatchSampler([image], crop=3, batch_size=64, seed=0, augment=False)
    corners = {round(patch[0, 0, 0].item() * 255) for patch in sampler.batch(0)}
    assert corners == {0, 1, 4, 5}


@pytest.mark.parametrize("match", [True, False])
def test_targets_take_their_crops_brightness(match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    clean = np.random.default_rng(0).integers(40, 200, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(clean).save("a_mean.png")
    Image.fromarray(clean + np.array([3, 0, 9], np.uint8)).save("a_real.png")
    Path("config.toml").write_text("""
        [data]
        train = "."
        pairs = ["*_real.png", "*_mean.png"]
        channels = 3
        crop = 8
        cache = "off"
        [model]
        name = "ffdnet_color"
        [schedule]
        warmup_steps = 0
        [validation]
        images = 0
        [run]
        out = "run"
        steps = 1
        batch_size = 4
    """)
    config = load_config("config.toml", [f"data.match_means={str(match).lower()}"])
    batch = Batches(config, Processes(), torch.device("cpu")).batch(0)
    difference = (batch["inputs.image"] - batch["targets.image"]).mean((0, 2, 3)) * 255
    expected = [0, 0, 0] if match else [3, 0, 9]
    torch.testing.assert_close(difference, torch.tensor(expected).float(), rtol=0, atol=1e-3)
    with pytest.raises(ConfigError, match=r"match_means is for data\.pairs"):
        load_config("config.toml", ["data.match_means=true", "data.pairs=[]"])
    with pytest.raises(ConfigError, match=r"data\.match_means has no effect with loss\.target"):
        load_config("config.toml", ["data.match_means=true", "loss.target=blind_spot"])
