"""The network with a Gaussian code: its bound, its samples, its training."""

from __future__ import annotations

import math

import pytest
import torch
from training_tools import read_log

from denoise_ext.models import create_model, load_checkpoint
from denoise_ext.models.dxnet_vae import DXNetVAE, _divergence
from denoise_ext.training import ConfigError, load_config, train

SMALL = {"widths": [4, 6], "blocks": [1, 1], "code_channels": 3, "posterior_width": 4}


def network(**options: object) -> DXNetVAE:
    torch.manual_seed(0)
    return create_model("dxnet_vae", **{**SMALL, **options}).double().eval()


def image(seed: int = 0, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape or (2, 1, 16, 24), generator=generator, dtype=torch.float64)


def test_the_divergence_is_that_of_gaussians():
    m, s, m_0, s_0 = (image(i, 50) + 0.1 for i in range(4))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(m, s), normal(m_0, s_0))
    assert torch.allclose(_divergence(m, s, m_0, s_0), expected, rtol=1e-4)


def test_it_is_homogeneous_and_the_divergence_does_not_change():
    model, x, clean = network(), image(0), image(1)
    level, code = torch.full((2, 1, 1, 1), 0.1).double(), torch.randn(model.code_shape(x)).double()
    found = []
    for scale in (1.0, 7.0):
        inputs = {"image": scale * x, "noise_map": scale * level, "code": code}
        with_clean = model.compute({**inputs, "clean": scale * clean}, {})[0]
        found.append((model.compute(inputs, {})[0]["image"] / scale, with_clean["divergence"]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-9)
    # but for the tiny number that keeps images without noise finite
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3)
    assert (found[0][1] > 0).all()


def test_gradients_reach_every_parameter_in_training():
    model, x, clean = network().train(), image(0), image(1)
    inputs = {**model.inputs_for(x, 25.0), "clean": clean, "code": torch.randn(model.code_shape(x))}
    outputs, _ = model.compute(inputs, {})
    (outputs["image"].square().sum() + outputs["divergence"].sum()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


@pytest.mark.parametrize("level", ["number", "map"])
def test_samples_differ_and_the_code_0_is_the_call(level):
    model, x = network(), image(0, 1, 1, 17, 23)  # no multiple of the stride
    sigma = 25.0 if level == "number" else torch.full((1, 1, 17, 23), 25.0)
    a, b, again = (
        model.sample(x, sigma, torch.Generator().manual_seed(seed)) for seed in (0, 1, 0)
    )
    assert a.shape == x.shape
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    still = model(x, sigma)
    assert not torch.equal(a, still)
    part = x[..., :16, :20]
    inputs = model.inputs_for(part, 25.0)
    zero = model.compute({**inputs, "code": torch.zeros(model.code_shape(part)).double()}, {})
    assert torch.equal(zero[0]["image"], model(part, 25.0))


def test_bad_arguments_of_a_sample_are_those_of_a_call():
    model = network()
    with pytest.raises(ValueError, match="sigma"):
        model.sample(image(), None)
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\)"):
        model.sample(image(0, 2, 3, 8, 8), 25.0)
    with pytest.raises(ValueError, match=r"code_channels .*0"):
        network(code_channels=0)


TRAINING = [
    "model.name=dxnet_vae", 'model.options={widths=[4,6],blocks=[1,1],code_channels=3}',
    "loss.name=psnr", "loss.divergence=1.0", "loss.divergence_warmup=4", "run.steps=10",
    "schedule.warmup_steps=2", "optimiser.clip_norm=0", "run.layers=denoise_ext",
]  # fmt: skip


def test_it_trains_and_its_log_has_the_divergence(workplace):
    train(load_config("config.toml", [*TRAINING, "run.out=vae", "run.log_every=1"]))
    rows = read_log("vae")
    assert all(float(row["divergence"]) > 0 for row in rows)
    # 20 / ln 10 decibels for a nat; the weight rises over 4 steps
    for step, weight in ((1, 0.25), (2, 0.5), (4, 1.0), (9, 1.0)):
        row = {key: float(value) for key, value in rows[step - 1].items() if value}
        cost = 20 / math.log(10) * weight * row["divergence"]
        assert row["loss"] == pytest.approx(row["loss_image"] + cost, rel=1e-4)
    assert isinstance(load_checkpoint("vae/model.safetensors"), DXNetVAE)


def test_free_nats_cost_nothing(workplace):
    free = [*TRAINING, "loss.divergence_free=1000.0", "loss.divergence_warmup=0"]
    train(load_config("config.toml", [*free, "run.out=vae", "run.log_every=1"]))
    row = {key: float(value) for key, value in read_log("vae")[0].items() if value}
    assert row["loss"] == pytest.approx(row["loss_image"] + 20 / math.log(10) * 1000, rel=1e-4)


@pytest.mark.parametrize(
    "settings, words",
    [
        (["loss.divergence=0"], ["loss.divergence", "dxnet_vae"]),
        (["loss.adversarial=0.1"], ["loss.divergence", "loss.adversarial"]),
        (["loss.noise_level=0.5"], ["loss.divergence", "loss.noise_level"]),
    ],
)
def test_settings_that_do_not_fit_are_errors(workplace, settings, words):
    with pytest.raises(ConfigError) as error:
        train(load_config("config.toml", [*TRAINING, *settings]))
    for word in words:
        assert word in str(error.value)
