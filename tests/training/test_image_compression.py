"""The training task of codecs: rate and error, levels, resuming, sealing, wrong configurations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from codecs_small import SMALL, untrained

from denoise_ext.io import write_image
from denoise_ext.metrics.protocol import as_sample, inputs_of
from denoise_ext.models import load_checkpoint
from denoise_ext.models.coded_prior import TOTAL
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.distributed import Processes
from denoise_ext.training.image_compression import (
    CodedCrops,
    HeldOutCoded,
    RateDistortion,
    rate_and_error,
)
from denoise_ext.training.sealing import seal
from denoise_ext.training.task import INDEX

OPTIONS = ", ".join(f"{name} = {value}" for name, value in SMALL.items())
CONFIG = f"""
[task]
name = "image_compression"
[data]
train = "images"
channels = 3
crop = 32
cache = "off"
[[noise.chain]]
kind = "gaussian"
probability = 0.5
sigma_max = 30.0
[model]
name = "dxcodec"
options = {{{OPTIONS}}}
[optimiser]
name = "muon"
ema = 0.9
[schedule]
peak = 2e-3
warmup_steps = 2
[validation]
images = 2
crop = 48
sigmas = [0.0, 10.0]
every = 6
[run]
out = "run"
steps = 12
batch_size = 4
threads = 1
device = "cpu"
tensorboard = "off"
checkpoint_every = 4
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    Path("images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        rows, columns = np.mgrid[:64, :80]
        waves = 120 + 60 * np.sin(rows / 3 + index) * np.cos(columns / 4)
        picture = np.stack([waves, 255 - waves, waves + 20], 2) + rng.normal(0, 2, (64, 80, 3))
        write_image(f"images/{index}.png", picture.astype(np.uint8))
    Path("config.toml").write_text(CONFIG)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def config(*overrides: str):
    return load_config("config.toml", list(overrides))


def test_samples_have_levels_that_depend_on_step_and_place_alone(place):
    cpu = torch.device("cpu")
    whole = CodedCrops(config("run.batch_size=4"), Processes(), cpu, takes_level=True)
    half = CodedCrops(config("run.batch_size=2"), Processes(1, 2), cpu, takes_level=True)
    sample, mine = whole.batch(7), half.batch(7)
    assert inputs_of(sample)["level"].shape == (4, 1, 1, 1) and sample[INDEX].tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert torch.equal(inputs_of(mine)["level"], inputs_of(sample)["level"][2:])
    many = torch.cat([inputs_of(whole.batch(step))["level"] for step in range(100)])
    # 400 uniform draws: mean 0.5 with a deviation of 0.0144
    assert abs(many.mean().item() - 0.5) < 5 * 0.0144 and 0 <= many.min() < many.max() < 1


def test_the_loss_is_bits_and_squared_error_at_the_level():
    clean = torch.zeros(2, 3, 32, 16)
    sample = as_sample({"level": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)}, {"image": clean})
    outputs = {"image": clean + 10 / 255, "bits": torch.full((2, 1, 2, 1), 64.0)}
    bits, mse = rate_and_error(outputs, sample)
    assert bits.tolist() == [0.25, 0.25] and mse.tolist() == pytest.approx([100, 100])
    loss, parts = RateDistortion([0.01, 0.04])(lambda inputs: outputs, sample, 0)
    # in the middle of the levels the trade-off is the geometric mean
    assert loss.item() == pytest.approx((math.sqrt(0.25 + 1) + math.sqrt(0.25 + 4)) / 2)
    assert parts["bits_per_pixel"].item() == 0.25 and parts["mse"].item() == pytest.approx(100)
    middle = RateDistortion([0.01, 0.04]).multiplier(torch.full((1, 1, 1, 1), 0.5))
    assert middle.item() == pytest.approx(0.02)


def test_a_run_that_was_interrupted_ends_with_the_same_weights(place):
    whole = train(config("run.out=whole"))
    assert whole.finished and whole.metric == "cost" and len(whole.validation) == 6
    train(config("run.out=parts", "run.minutes=1e-9"))
    while not (result := train(config("run.out=parts", "run.minutes=1e-9"))).finished:
        pass
    one, other = (load_checkpoint(x.model_path).state_dict() for x in (whole, result))
    assert all(torch.equal(one[name], other[name]) for name in one)
    header = Path("whole/log.csv").read_text().splitlines()[0].split(",")
    assert {"bits_per_pixel", "mse", "cost_10 at 0.5", "psnr_0 at 0.2", "bpp_0 at 0.8"} <= {*header}


def test_training_lowers_the_cost(place):
    """From the transform that training begins with, by contexts and gains at least."""
    result = train(config("run.steps=60", "validation.every=60", "schedule.peak=4e-3"))
    found = HeldOutCoded(config(), [torch.zeros(1, 3, 48, 48)])
    assert list(found.points.values())[:2] == [(0.0, 0.2), (0.0, 0.5)]
    rows = Path("run/log.csv").read_text().splitlines()
    assert len(rows) >= 2 and result.steps == 60
    network = untrained()
    from denoise_ext.training.validate import validate

    sampler = CodedCrops(config(), Processes(), torch.device("cpu"), takes_level=True)
    validator = HeldOutCoded(config(), sampler.held_out)
    before, _ = validate(network, validator)
    after = result.validation
    assert sum(after.values()) < sum(figures["cost"] for figures in before.values())


def test_sealing_counts_the_symbols_of_pictures(place):
    train(config())
    plain = seal("run/checkpoint.pt", "plain.safetensors", config(), batches=0)
    counted = seal("run/checkpoint.pt", "counted.safetensors", config(), batches=3)
    for network in (plain, counted):
        table = network.prior.frequencies.long()
        assert bool((table.sum(1) == TOTAL).all()) and bool((table[:, -1] > 0).all())
        assert bool((table >= 0).all())
    assert not torch.equal(plain.prior.frequencies, counted.prior.frequencies)
    assert torch.equal(plain.prior.weights, counted.prior.weights)
    again = load_checkpoint("counted.safetensors")
    state = counted.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    with pytest.raises(ValueError, match="sealed"):
        seal("counted.safetensors", "x.safetensors", config())


@pytest.mark.parametrize(
    "override, named",
    [
        ("loss.name=psnr", "loss.name.*psnr"), ("loss.tradeoff=[0.1, 0.1]", "tradeoff"),
        ("loss.tradeoff=[0.1]", "tradeoff"), ("data.crop=40", "crop.*40"),
        ("validation.crop=40", "crop.*40"), ("data.channels=1", "channels.*1"),
        ('data.pairs=["a*", "b*"]', "image_compression"),
        ("loss.target=noise2noise", "image_compression"),
    ],
)  # fmt: skip
def test_wrong_configurations_name_the_key(place, override, named):
    with pytest.raises(ConfigError, match=named):
        train(config(override))


def test_other_networks_are_refused(place):
    text = CONFIG.replace(f"options = {{{OPTIONS}}}", "").replace("dxcodec", "dxnet_s_color")
    Path("config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"dxnet_s_color.*compresses no image"):
        train(config())
