"""Adversarial training: the discriminator learns, its state continues exactly, bad settings."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_tools import assert_same, environment, free_port, read_log

from denoise_ext.metrics.protocol import as_sample
from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.adversarial import Adversarial, Discriminator
from denoise_ext.training.checkpoint import load_state
from denoise_ext.training.distributed import Processes
from denoise_ext.training.losses import mse
from denoise_ext.training.objectives import Supervised
from denoise_ext.training.task import INDEX, LearningObjective

SHORT = ["run.steps=14", "schedule.warmup_steps=2", "loss.adversarial=0.01"]
CPU = torch.device("cpu")


def objective(seed: int = 0, weight: float = 0.1) -> Adversarial:
    return Adversarial(Supervised(mse), weight, 1, 1e-3, seed, Processes(), CPU)


def sample(clean: torch.Tensor) -> dict[str, torch.Tensor]:
    sigma = torch.full((len(clean),), 25.0)
    more = {"sigma": sigma, INDEX: torch.arange(len(clean))}
    return as_sample({"image": clean + 0.1}, {"image": clean}, **more)


def test_a_score_depends_on_32_pixels_and_the_level():
    torch.manual_seed(0)
    judge = Discriminator(1).eval()
    x = torch.rand(1, 1, 96, 96, requires_grad=True)
    level = torch.tensor([0.1], requires_grad=True)
    judge(x, level)[0, 0, 12, 12].backward()
    rows = (x.grad[0, 0] != 0).any(dim=1).nonzero()[:, 0]
    assert int(rows[-1] - rows[0]) + 1 == 32
    assert float(level.grad.abs()) > 0


def test_colour_and_brightness_are_not_judged():
    torch.manual_seed(0)
    judge = Discriminator(3).eval()
    x, level = torch.rand(1, 3, 32, 32), torch.tensor([0.1])
    tinted = x + torch.tensor([0.2, -0.1, 0.05]).reshape(1, 3, 1, 1)
    assert torch.allclose(judge(x, level), judge(tinted, level), atol=1e-5)
    assert not torch.allclose(judge(x, level), judge(0.5 * x, level), atol=1e-5)


def test_it_finds_out_outputs_that_differ_and_the_network_gets_its_gradient():
    """Constant outputs for clean images of white noise: easy to tell apart."""
    judged = objective()
    generator = torch.Generator().manual_seed(1)
    shift = torch.zeros(1, requires_grad=True)
    for step in range(60):
        clean = torch.rand(4, 1, 32, 32, generator=generator)
        loss, parts = judged(lambda x: {"image": 0.5 + 0 * x["image"] + shift}, sample(clean), step)
        if step == 0:
            first = parts["loss_discriminator"].item()
    assert isinstance(judged, LearningObjective)
    assert first == pytest.approx(math.log(2), abs=0.1)  # it cannot tell at first
    assert parts["loss_discriminator"].item() < 0.2
    assert parts["loss_adversarial"].item() > 1.5
    total = parts["loss_distance"] + 0.1 * parts["loss_adversarial"]
    assert loss.item() == pytest.approx(total.item())
    # The step of the denoiser leaves no gradient in the discriminator.
    before = [parameter.grad.clone() for parameter in judged._judge.parameters()]
    loss.backward()
    assert float(shift.grad.abs()) > 0
    after = [parameter.grad for parameter in judged._judge.parameters()]
    assert before and all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_its_first_weights_are_a_function_of_the_seed():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = objective(3), objective(3), objective(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(a.state_dict()["judge"], b.state_dict()["judge"])
    weights = [x.state_dict()["judge"]["layers.0.parametrizations.weight.original"] for x in (a, c)]
    assert not torch.equal(*weights)


def test_a_run_continues_with_the_state_of_its_discriminator(workplace):
    train(load_config("config.toml", [*SHORT, "run.out=whole"]))
    train(load_config("config.toml", [*SHORT, "run.out=parts", "run.minutes=1e-9"]))
    assert load_state(Path("parts/checkpoint.pt"))["step"] == 1
    train(load_config("config.toml", [*SHORT, "run.out=parts"]))
    whole, parts = (load_state(Path(run) / "checkpoint.pt") for run in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 14
    assert_same(whole["model"], parts["model"])
    assert whole["objective"]["judge"]
    assert_same(whole["objective"]["judge"], parts["objective"]["judge"])
    assert_same(whole["objective"]["optimiser"]["state"], parts["objective"]["optimiser"]["state"])
    plain = ["run.out=plain", *(item for item in SHORT if "adversarial" not in item)]
    train(load_config("config.toml", plain))
    other = load_state(Path("plain/checkpoint.pt"))
    assert not other["objective"]
    assert any(not torch.equal(other["model"][key], whole["model"][key]) for key in whole["model"])


def test_the_log_has_its_losses_and_the_measures_of_texture(workplace):
    train(load_config("config.toml", [*SHORT, "run.out=run", "run.log_every=7"]))
    rows = read_log("run")
    assert all(float(row["loss_discriminator"]) > 0 for row in rows)
    assert float(rows[-1]["patch_wasserstein_25"]) > 0
    assert float(rows[-1]["high_frequency_energy_25"]) > 0
    with open("run/log.csv", newline="") as file:
        assert {"loss_distance", "loss_adversarial"} <= set(next(csv.reader(file)))


@pytest.mark.rotates(turn=1)
def test_processes_share_one_discriminator(workplace):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
               "--master-addr=127.0.0.1", f"--master-port={free_port()}",
               "-m", "denoise_ext.cli.train", "config.toml"]  # fmt: skip
    settings = ["run.steps=3", "schedule.warmup_steps=0", "loss.adversarial=0.01",
                "validation.images=0", "noise.sigma_min=0"]  # fmt: skip
    for override in [*settings, "run.batch_size=2", "run.out=two"]:
        command += ["--set", override]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for run, size in (("one", 4), ("half", 2)):
        train(load_config("config.toml", [*settings, f"run.batch_size={size}", f"run.out={run}"]))
    one, two, half = (
        load_state(Path(run) / "checkpoint.pt")["objective"]["judge"]
        for run in ("one", "two", "half")
    )
    # Adam's steps have one size: weights whose gradient is rounding alone go either way. They are
    # few, and the crops of the second process alone change nearly all.
    for key in one:
        if key.endswith("original"):
            apart, other = ((one[key] - x[key]).abs().mean() for x in (two, half))
            assert float(apart) < 0.1 * float(other), key


@pytest.mark.parametrize(
    "settings, words",
    [
        (["loss.adversarial=-1"], ["loss.adversarial", "-1"]),
        (["loss.adversarial=0.1", "data.crop=18"], ["data.crop", "18"]),
        (["loss.adversarial=0.1", "loss.noise_scale=0.5"], ["loss.adversarial", "0.5"]),
        (["loss.adversarial=0.1", "validation.crop=24"], ["validation.crop", "28", "24 x 24"]),
        (["loss.adversarial=0.1", "task.name=video_denoising"], ["loss.adversarial", "video"]),
        (["loss.divergence=0.1"], ["loss.divergence", "0.1"]),
        (["loss.discriminator_rate=0"], ["loss.discriminator_rate"]),
    ],
)
def test_settings_that_do_not_fit_are_errors(workplace, settings, words):
    with pytest.raises(ConfigError) as error:
        train(load_config("config.toml", settings))
    for word in words:
        assert word in str(error.value)
