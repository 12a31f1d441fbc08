"""The training task of upscalers: pairs, noise, held-out images, wrong configurations."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from denoise_ext.io import write_image
from denoise_ext.metrics import luma, psnr
from denoise_ext.metrics.protocol import inputs_of, targets_of
from denoise_ext.models import create_model, load_checkpoint
from denoise_ext.resampling import imresize
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.build import build_network
from denoise_ext.training.distributed import Processes
from denoise_ext.training.image_upscaling import HeldOutReduced, ReducedCrops, check_fit, reduced
from denoise_ext.training.task import INDEX

CONFIG = """
[task]
name = "image_upscaling"
[data]
train = "images"
channels = 3
crop = 24
augment = false
cache = "off"
[noise]
sigma_max = 20.0
[model]
name = "srnet_s_x2"
options = {width = 8, blocks = 1}
[loss]
name = "psnr"
[schedule]
warmup_steps = 2
[validation]
images = 2
crop = 31
sigmas = [0.0, 10.0]
every = 10
[run]
out = "run"
steps = 30
batch_size = 4
threads = 1
device = "cpu"
tensorboard = "off"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    Path("images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        rows, columns = np.mgrid[:60, :72]
        waves = 120 + 60 * np.sin(rows / 3 + index) * np.cos(columns / 4)
        picture = np.stack([waves, 255 - waves, waves + 20], 2) + rng.normal(0, 2, (60, 72, 3))
        write_image(f"images/{index}.png", picture.astype(np.uint8))
    Path("config.toml").write_text(CONFIG)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def config(*overrides: str):
    return load_config("config.toml", list(overrides))


def one() -> Processes:
    return Processes(0, 1)


@pytest.mark.parametrize("scale", [2, 3])
def test_crops_are_those_of_the_reduced_image(place, scale):
    """A crop's input is what imresize makes of the whole image there, not of the crop."""
    made = ReducedCrops(config("noise.sigma_max=0.0"), one(), scale, True)
    sample = made.batch(3)
    small, large = inputs_of(sample)["image"], targets_of(sample)["image"]
    assert small.shape == (4, 3, 24 // scale, 24 // scale) and large.shape == (4, 3, 24, 24)
    chosen, places, _, _ = made.sampler.draws(3)
    side = 24 + 4 * scale
    for index in range(4):
        image = torch.from_numpy(made.sampler.images[chosen[index]].copy()) / 255.0
        y, x = (int(p * (n - side + 1)) for p, n in zip(places[index], image.shape))
        # the grid of the reduced image begins where the crop does
        cut = image[y % scale :, x % scale :].permute(2, 0, 1)[None]
        whole = reduced(cut, scale)
        at = [n // scale + 2 for n in (y, x)]
        n = 24 // scale
        expected = whole[0, :, at[0] : at[0] + n, at[1] : at[1] + n]
        # both are float32, rounded to 8 bits: a value at the middle may go either way
        assert (small[index] - expected).abs().max() <= 1 / 255 + 1e-6
        assert ((small[index] - expected).abs() > 1e-6).float().mean() < 0.01
        inner = image[y + 2 * scale :, x + 2 * scale :][:24, :24].permute(2, 0, 1)
        assert torch.equal(large[index], inner)


def test_noise_is_on_the_small_image_and_its_level_is_given(place):
    made = ReducedCrops(config("run.batch_size=64"), one(), 2, True)
    clean = ReducedCrops(config("run.batch_size=64", "noise.sigma_max=0.0"), one(), 2, False)
    sample, without = made.batch(1), clean.batch(1)
    noise = (inputs_of(sample)["image"] - inputs_of(without)["image"]) * 255
    assert set(inputs_of(without)) == {"image"}
    found = noise.flatten(1).std(1)  # of 432 numbers: 3.4 % is one standard error
    torch.testing.assert_close(found, sample["sigma"], rtol=0.2, atol=1e-3)
    assert sample["sigma"].max() > 12 and sample["sigma"].min() < 8
    torch.testing.assert_close(inputs_of(sample)["noise_map"].flatten(), sample["sigma"] / 255)
    assert sample[INDEX].tolist() == list(range(64))
    assert torch.equal(targets_of(sample)["image"], targets_of(without)["image"])


def test_processes_share_what_one_would_have(place):
    whole = ReducedCrops(config(), one(), 2, True).batch(5)
    half = ["run.batch_size=2"]
    parts = [ReducedCrops(config(*half), Processes(i, 2), 2, True).batch(5) for i in (0, 1)]
    for key, value in whole.items():
        assert torch.equal(torch.cat([part[key] for part in parts]), value), key


def test_a_chain_leaves_a_part_clean(place):
    Path("config.toml").write_text(
        CONFIG.replace(
            "[noise]\nsigma_max = 20.0",
            '[[noise.chain]]\nkind = "gaussian"\nprobability = 0.5\nsigma_min = 5.0',
        )
    )
    levels = ReducedCrops(config("run.batch_size=64"), one(), 2, True).batch(0)["sigma"]
    assert 16 < int((levels == 0).sum()) < 48  # of 64, half each: four standard deviations
    assert levels[levels > 0].min() > 3


def test_validation_is_that_of_the_tables(place):
    made = ReducedCrops(config(), one(), 2, True)
    assert [tuple(x.shape) for x in made.held_out] == [(1, 3, 30, 30)] * 2
    validator = HeldOutReduced(config(), made.held_out, 2, True)
    values, pictures = validator(
        lambda inputs: {"image": imresize(inputs["image"], 2) + inputs["noise_map"]}, keep=1
    )
    expected = []
    for image in made.held_out:
        small = (imresize(image, Fraction(1, 2)).clamp(0, 1) * 255).round() / 255
        large = imresize(small, 2).clamp(0, 1)
        inner = (..., slice(2, -2), slice(2, -2))
        expected.append(psnr(luma(large)[inner], luma(image)[inner]).item())
    assert values[0.0]["psnr"] == pytest.approx(sum(expected) / 2)
    assert values[10.0]["psnr"] < values[0.0]["psnr"]
    assert pictures[0].shape == (1, 3, 30, 90)


def test_it_learns_and_continues(place):
    result = train(config())
    assert result.finished and result.validation[0.0] > result.validation[10.0]
    network = load_checkpoint("run/model.safetensors")
    assert network.scale == 2 and network.config["width"] == 8
    stopped = train(config("run.out=again", "run.minutes=1e-9"))
    assert not stopped.finished
    assert train(config("run.out=again")).validation == result.validation


def test_a_larger_scale_starts_from_a_smaller(place):
    train(config("run.steps=3"))
    start = ["model.name=srnet_s_x3", 'model.start="run/model.safetensors"']
    fresh = 'model.new=["tail.*", "skip.*"]'
    network, _ = build_network(config(*start, fresh))
    old, new = load_checkpoint("run/model.safetensors").state_dict(), network.state_dict()
    for name, value in new.items():
        kept = name.split(".")[0] not in ("tail", "skip")
        assert (name in old and torch.equal(value, old[name].to(value))) == kept
    for wrong in (['model.new=["tail.*"]'], ['model.new=["tail.*", "skip.*", "head.*"]']):
        with pytest.raises(ValueError, match=r"model\.new"):
            build_network(config(*start, *wrong))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.name=dxnet_s_color", "dxnet_s_color"), ("model.name=rdxnet_s_gray", "rdxnet"),
        ("data.channels=1", r"data\.channels"), ("data.crop=25", r"data\.crop.*25"),
        ("data.crop=200", "smaller than the crop 208"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(place, override, named):
    options = [] if override.startswith("data") else ["model.options={}"]
    with pytest.raises((ConfigError, ValueError), match=named):
        train(config(override, *options))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ('data.pairs=["a*", "b*"]', "image_upscaling"), ("loss.target=noise2noise", "image_upsc"),
        ("loss.noise_level=0.5", "noise_level"), ('data.clips=["x"]', r"data\.clips"),
        ("task.options={a = 1}", r"task\.options"), ("data.train=''", "train or sources"),
    ],
)  # fmt: skip
def test_wrong_configurations(place, override, named):
    with pytest.raises(ConfigError, match=named):
        config(override)


def test_video_and_denoising_refuse_upscalers(place):
    with torch.device("meta"):
        network = create_model("srnet_s_x2")
    check_fit(network, config())
    for task in ("image_denoising", "video_denoising"):
        with pytest.raises(ConfigError, match="srnet_s_x2"):
            train(config(f"task.name={task}", "data.augment=true"))
