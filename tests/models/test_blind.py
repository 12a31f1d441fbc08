"""DXNet with an estimator: the network, its dial, and how it learns."""

from __future__ import annotations

import itertools

import pytest
import torch
from noisy_images import SIDE, coloured_noise, eight_bits, gaussian, scene
from training_tools import workplace  # noqa: F401
from zoo import tiny

from denoise_ext import accelerate
from denoise_ext.metrics.protocol import Sample, inputs_of, targets_of
from denoise_ext.models import create_model, load_checkpoint, save_model
from denoise_ext.ops import bilateral_blur
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.batches import denoising_sample
from denoise_ext.training.build import build_network
from denoise_ext.training.losses import criterion
from denoise_ext.training.objectives import Blind

NAME = "dxnet_s_photo"
SMALL = "model.options={widths=[4, 6], blocks=[1, 1], estimator_width=4}"
CONFIG = [
    "data.channels=3", f"model.name={NAME}", SMALL, "loss.name=psnr",
    "noise.sigma_min=0.0", "noise.sigma_max=55.0", "noise.chain=[{kind='photo'}]",
    "run.steps=20", "run.layers=denoise_ext",
]  # fmt: skip


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_scaling_the_image_scales_result_and_estimate():
    network, x = tiny(NAME).double(), image(2, 3, 24, 20).double()
    with torch.no_grad():
        for factor in (0.01, 300.0):
            torch.testing.assert_close(network(factor * x), factor * network(x))
            torch.testing.assert_close(
                network.noise_level(factor * x), factor * network.noise_level(x)
            )
    assert network.noise_level(x).min() >= 0
    assert network.noise_level(x).shape == (2, 1, 12, 10)


def test_the_dial_is_a_factor_on_the_estimate():
    network, x = tiny(NAME), image(2, 3, 24, 20)
    with torch.no_grad():
        plain = network(x)
        for scale in (0.0, 0.5, 2.0):
            network.noise_scale = scale
            outputs = network.compute(
                {"image": x, "noise_scale": torch.full((2, 1, 1, 1), scale)}, {}
            )[0]
            # DXNet told the scaled map, at half the resolution
            direct = super(type(network), network).denoise(x, scale * network.noise_level(x))
            torch.testing.assert_close(network(x), direct)
            network.noise_scale = 1.0
            torch.testing.assert_close(outputs["image"], direct)
            assert not torch.allclose(direct, plain)
        torch.testing.assert_close(network.compute({"image": x}, {})[0]["image"], plain)
        assert network.noise_scale == 1.0


def test_a_plan_follows_the_dial():
    network, x = tiny(NAME), image(1, 3, 24, 20)
    planned = accelerate(network, x)
    with torch.no_grad():
        torch.testing.assert_close(planned(x), network(x), rtol=1e-4, atol=1e-5)
        planned.noise_scale = network.noise_scale = 0.5
        torch.testing.assert_close(planned(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["white", "bayer"])
def test_the_dial_of_the_shipped_weights_removes_more_at_each_step(kind):
    """From 0 to 1; above it, the variance hardly changes."""
    network = create_model(NAME, pretrained=True).eval()
    noisy = eight_bits(scene() + gaussian((SIDE, SIDE, 3)) * 0.1)
    pixels = noisy if kind == "white" else coloured_noise("bayer")
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    left = []
    with torch.no_grad():
        for scale in (0.0, 0.25, 0.5, 0.75, 1.0, 2.0):
            network.noise_scale = scale
            left.append(float(network(x).var()))
    *dial, most = left
    assert all(more > less for more, less in itertools.pairwise(dial))
    assert abs(most - dial[-1]) < 0.05 * (dial[0] - dial[-1])


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), True, "1"])
def test_the_dial_has_a_range(value):
    network = tiny(NAME)
    with pytest.raises((TypeError, ValueError), match="noise_scale must be"):
        network.noise_scale = value
    assert network.noise_scale == 1.0


def test_checkpoints_hold_the_estimator(tmp_path):
    network = tiny(NAME)
    save_model(network, tmp_path / "a.safetensors", torch.float32)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.config == network.config and not loaded.needs_sigma
    x = image(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_the_first_answer_has_the_size_of_the_noise():
    """No constant is seen: on a flat picture the untrained estimate follows the noise alone."""
    network = create_model(NAME)
    network.initialise(torch.Generator().manual_seed(0))
    flat = torch.full((1, 3, 128, 128), 0.7)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    inside = (..., slice(8, -8), slice(8, -8))
    with torch.no_grad():
        assert network.noise_level(flat)[inside].max() < 1e-4
        assert 0.03 < network.noise_level(flat + noise)[inside].mean() < 0.3


# ---- the objective


def batch(first: int = 0) -> Sample:
    clean = image(8, 3, 16, 16)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    level = (noisy - clean).square().flatten(1).mean(1).sqrt() * 255
    return denoising_sample(noisy[first:], clean[first:], level[first:], first)


def test_the_level_is_a_second_task():
    objective, given = Blind(criterion("mse", 0), 0.5, 0.0, seed=1), batch()
    estimate = (given["sigma"] / 255).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    for factor in (1.0, 2.0):
        outputs = {**targets_of(given), "noise_level": factor * estimate}
        loss, parts = objective(lambda inputs, outputs=outputs: outputs, given, 0)
        level = given["sigma"] / 255 + 1e-3
        expected = 0.5 * ((factor * (level - 1e-3) + 1e-3) / level).log().square().mean()
        torch.testing.assert_close(loss, expected)
        assert set(parts) == set(objective.parts)
        torch.testing.assert_close(parts["loss_image"] + 0.5 * parts["loss_noise_level"], loss)


def test_the_dials_targets_are_monotone():
    objective, given = Blind(criterion("mse", 0), 0.0, 1.0, seed=1), batch()
    ones = torch.ones(8)
    target = lambda k: objective._target(given, k * ones)  # noqa: E731
    noisy, clean = inputs_of(given)["image"], targets_of(given)["image"]
    torch.testing.assert_close(target(0.0), noisy)
    torch.testing.assert_close(target(1.0), clean)
    torch.testing.assert_close(target(0.25), clean + 0.75 * (noisy - clean))
    first = given["sigma"][0].item() / 255 * 0.6
    blurred = bilateral_blur(clean[:1], 5, first, (1.5, 1.5))
    torch.testing.assert_close(target(1.6)[:1], blurred)
    variances = [target(k).var().item() for k in (0.0, 0.3, 0.7, 1.0, 1.2, 1.6, 2.0)]
    assert variances == sorted(variances, reverse=True)


def test_the_dial_is_drawn_by_seed_and_step():
    objective, given = Blind(criterion("mse", 0), 0.0, 0.5, seed=1), batch()
    draws = torch.stack([objective._scales(given, step) for step in range(100)])
    assert torch.equal(objective._scales(given, 3), draws[3])
    assert torch.equal(objective._scales(batch(4), 3), draws[3, 4:])
    assert draws.min() >= 0 and draws.max() <= 2
    assert abs((draws == 1).float().mean().item() - 0.5) < 5 * (0.25 / draws.numel()) ** 0.5


# ---- training


@pytest.fixture
def colour(workplace):  # noqa: F811
    from PIL import Image

    for path in (workplace / "images").iterdir():
        with Image.open(path) as gray:
            rgb = gray.convert("RGB")
        rgb.save(path)
    return workplace


def test_training_with_the_second_task_and_the_dial(colour):
    options = [*CONFIG, "loss.noise_level=0.5", "loss.noise_scale=0.5"]
    result = train(load_config("config.toml", options))
    again = train(load_config("config.toml", [*options, "run.out=again", "run.minutes=1e-9"]))
    assert not again.finished
    while not again.finished:
        again = train(load_config("config.toml", [*options, "run.out=again", "run.minutes=0.0"]))
    a, b = (load_checkpoint(r.model_path).state_dict() for r in (result, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_starting_with_the_weights_of_a_smaller_network(colour):
    small = create_model("dxnet_s_color", widths=[4, 6], blocks=[1, 1])
    small.initialise(torch.Generator().manual_seed(9))
    save_model(small, colour / "small.safetensors", torch.float32)
    options = [*CONFIG, "model.start=small.safetensors", 'model.new=["estimator.*"]']
    network, start = build_network(load_config("config.toml", options))
    weights = network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in small.state_dict().items())
    new = {f"estimator.{i}.weight" for i in range(network.estimator_depth)}
    assert set(weights) - set(small.state_dict()) == new
    assert start is not None
    other, _ = build_network(load_config("config.toml", [*options, "run.seed=4"]))
    assert not torch.equal(other.state_dict()["estimator.1.weight"], weights["estimator.1.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (['model.new=["estimator.0.*"]'], "model.new: .* 'estimator.1.weight' is missing"),
        (['model.new=["estimator.*", "head.*"]'], "model.new: .* 'head.weight' is in it"),
        (["model.options={widths=[4, 8], blocks=[1, 1]}"], "model.start: .* does not fit"),
    ],
)
def test_a_start_that_does_not_fit(colour, options, message):
    small = create_model("dxnet_s_color", widths=[4, 6], blocks=[1, 1])
    save_model(small, colour / "small.safetensors", torch.float32)
    start = ["model.start=small.safetensors", 'model.new=["estimator.*"]']
    with pytest.raises(ValueError, match=message):
        build_network(load_config("config.toml", [*CONFIG, *start, *options]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.name=dxnet_s_color", "model.options={}", "loss.noise_level=0.5"],
         "loss.noise_level: .* does not estimate the noise level"),
        (["model.name=dxnet_s_color", "model.options={}", "loss.noise_scale=0.5"],
         "loss.noise_scale: .* does not estimate the noise level"),
        (["data.channels=1"], "noise kind 'photo' needs data.channels 3"),
        (["loss.noise_scale=1.5"], "loss.noise_scale"),
        (['model.new=["estimator.*"]'], "new is for a registered model"),
    ],
)  # fmt: skip
def test_what_training_refuses(colour, options, message):
    with pytest.raises(ConfigError, match=message):
        train(load_config("config.toml", [*CONFIG, *options]))
