"""The networks of other kinds, trained and measured by what the package has for all of them.

An upscaler, a recurrent network on clips, one with two outputs and one with two inputs: their task
is `contract_tasks`, which the package has no line on.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import contract_networks
import numpy as np
import pytest
import torch
from contract_networks import KINDS, Recurrent, TwoOutputs, Upscaler, build
from training_tools import assert_same, environment, free_port, largest_difference

from denoise_ext.cli import main
from denoise_ext.io import write_image
from denoise_ext.metrics import psnr
from denoise_ext.metrics.protocol import as_sample, inputs_of, means, measure, targets_of
from denoise_ext.models import create_model, load_checkpoint, read_metadata, registry
from denoise_ext.models.frames import compute_frames
from denoise_ext.nn import to_torch
from denoise_ext.training import ConfigError, load_config, register_task, task, train
from denoise_ext.training.checkpoint import load_state
from denoise_ext.training.validate import validate

PAGE = Path(__file__).resolve().parents[2] / "docs/training.md"

CONFIG = """
[model]
name = "{name}"
[task]
name = "waves"
[schedule]
peak = 1e-2
warmup_steps = 2
[optimiser]
ema = 0.5
[validation]
every = 7
[run]
out = "run"
steps = 20
batch_size = 4
seed = 5
layers = "torch"
threads = 1
checkpoint_every = 6
log_every = 5
device = "cpu"
tensorboard = "off"
"""


@pytest.fixture
def tasks(monkeypatch):
    """`contract_tasks`: networks and task are registered while a test runs."""
    for module, table in ((registry, "_architectures"), (registry, "_models"), (task, "_builders")):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    yield importlib.import_module("contract_tasks")
    del sys.modules["contract_tasks"]


@pytest.fixture
def place(tmp_path, monkeypatch, tasks):
    """A working directory."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def config(name: str, *overrides: str):
    Path("config.toml").write_text(CONFIG.format(name=name))
    return load_config("config.toml", list(overrides))


def rows_of(run: str) -> list[dict[str, str]]:
    with open(Path(run, "log.csv"), newline="") as file:
        kept = list(csv.DictReader(file))
    for row in kept:
        del row["seconds"], row["waited"]
    return kept


@pytest.mark.rotates()
@pytest.mark.parametrize("name", KINDS)
def test_twenty_steps_and_exact_resume(place, tasks, name):
    result = train(config(name))
    assert result.finished and result.metric == "mae"
    for _ in range(3):  # stops after steps 1, 2, 3
        stopped = train(config(name, "run.out=again", "run.minutes=1e-9"))
        assert not stopped.finished
    assert stopped.steps == 3
    again = train(config(name, "run.out=again"))
    assert again.validation == result.validation
    one, other = (load_state(Path(run, "checkpoint.pt")) for run in ("run", "again"))
    assert one["step"] == other["step"] == 20
    assert one["best"] == other["best"]
    for key in ("model", "mean"):
        assert_same(one[key], other[key])
    assert_same(one["optimiser"]["state"], other["optimiser"]["state"])
    assert rows_of("run") == rows_of("again")

    # it has learnt, and what is kept is what was validated last
    torch.manual_seed(5)
    untrained = create_model(name)
    validator = tasks.Error(name, 5)
    before, _ = validate(untrained, validator)
    assert all(result.validation[label] < 0.9 * before[label]["mae"] for label in validator.labels)
    kept, _ = validate(load_checkpoint(result.model_path), validator)
    for label in validator.labels:  # float16
        assert kept[label]["mae"] == pytest.approx(result.validation[label], rel=1e-2)
    facts = read_metadata(result.model_path)["training"]
    assert facts["validation_mae"] == result.validation
    assert facts["config"] == json.loads(Path("run/config.json").read_text())
    assert list(Path("run/samples").iterdir())


def test_the_best_weights_are_those_of_the_lowest_error(place, tasks):
    train(config(Upscaler.family, "validation.every=2", "schedule.peak=5e-2"))
    found = {
        int(row["step"]): (float(row["mae_first"]) + float(row["mae_second"])) / 2
        for row in rows_of("run")
        if row["mae_first"]
    }
    best = load_state(Path("run/checkpoint.pt"))["best"]
    assert best["step"] == min(found, key=found.get)
    assert -best["mae"] == pytest.approx(min(found.values()), abs=1e-6)
    network = load_checkpoint("run/best.safetensors")
    kept, _ = validate(network, tasks.Error(Upscaler.family, 5))
    assert sum(found["mae"] for found in kept.values()) / 2 == pytest.approx(-best["mae"], abs=1e-5)


def test_all_parts_of_the_loss_are_logged(place):
    train(config(TwoOutputs.family))
    logged = rows_of("run")
    assert [int(row["step"]) for row in logged] == [5, 7, 10, 14, 15, 20]
    for row in logged:
        image, mask = float(row["loss_image"]), float(row["loss_mask"])
        assert image > 0 and mask > 0
        assert float(row["loss"]) == pytest.approx(image + mask, rel=1e-5)


def test_frames_carry_the_state_and_its_gradient(tasks):
    network = to_torch(build(Recurrent.family)).double()
    sample = tasks.Waves(Recurrent.family, 1, 2, 0, 1).batch(0)
    inputs = {name: x.double() for name, x in inputs_of(sample).items()}
    outputs, last = compute_frames(network, inputs)
    state, expected = None, []
    for index in range(tasks.FRAMES):
        frame = {"image": inputs["image"][:, index], "noise_map": inputs["noise_map"]}
        made, state = network(frame, state)
        expected.append(made["image"])
    assert torch.equal(outputs["image"], torch.stack(expected, 1))
    assert all(torch.equal(last[name], state[name]) for name in state)
    forgetful = network(frame)[0]["image"]
    assert not torch.allclose(forgetful, expected[-1])

    first = inputs["image"].clone().requires_grad_()
    made, _ = compute_frames(network, {**inputs, "image": first})
    made["image"][:, -1].sum().backward()
    assert first.grad[:, 0].abs().max() > 0  # the last frame learns from the first
    # two halves are the whole, by the state between them
    start, state = compute_frames(network, {**inputs, "image": inputs["image"][:, :1]})
    rest, _ = compute_frames(network, {**inputs, "image": inputs["image"][:, 1:]}, state)
    assert torch.equal(torch.cat([start["image"], rest["image"]], 1), outputs["image"])
    for wrong in (inputs["image"][:, :0], inputs["image"][:, :1]):
        with pytest.raises(ValueError, match="frames"):
            compute_frames(network, {"image": inputs["image"][:, :2], "noise_map": wrong})


class Brighter:
    """A protocol: every input image is a constant brighter."""

    def degrade(self, sample):
        inputs = {k: x + 0.25 if k == "image" else x for k, x in inputs_of(sample).items()}
        return as_sample(inputs, targets_of(sample))


@pytest.mark.parametrize("name", KINDS)
def test_evaluation(tasks, name):
    network = build(name)
    validator = tasks.Error(name, 0)
    samples = list(validator.samples("second"))
    measured = list(
        measure(lambda x: compute_frames(network, x)[0], samples, validator.figures, Brighter())
    )
    assert len(measured) == 3
    errors = []
    for found, sample in zip(measured, samples, strict=True):
        assert set(found.outputs) == set(network.signature.outputs)
        inputs = inputs_of(sample)
        inputs["image"] = inputs["image"] + 0.25
        assert torch.equal(inputs_of(found.sample)["image"], inputs["image"])
        with torch.inference_mode():
            if inputs["image"].dim() == 5:
                outputs, _ = compute_frames(network, inputs, compute=network)
            else:
                outputs, _ = network(inputs)
        image, target = outputs["image"], targets_of(sample)["image"]
        errors.append((image - target).abs().mean().item())
        assert found.figures["mae"] == pytest.approx(errors[-1], rel=1e-6)
        assert found.figures["psnr"] == pytest.approx(psnr(image, target).mean().item())
    assert means(row.figures for row in measured)["mae"] == pytest.approx(sum(errors) / 3)
    with pytest.raises(ValueError, match="sample"):
        means([])


@pytest.mark.rotates(turn=0)
def test_two_processes_train_on_clips(place):
    """By the command line: as one process with twice the batch, up to rounding."""
    smooth = ["schedule.warmup_steps=0", "optimiser.eps=1.0", "optimiser.ema=0", "run.steps=4"]
    train(config(Recurrent.family, *smooth, "run.batch_size=4", "run.out=one"))
    train(config(Recurrent.family, *smooth, "run.batch_size=2", "run.out=half"))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
        "--master-addr=127.0.0.1", f"--master-port={free_port()}",
        "-m", "denoise_ext.cli.train", "config.toml", "--import", "contract_tasks",
    ]  # fmt: skip
    for override in [*smooth, "run.batch_size=2", "run.out=two"]:
        command += ["--set", override]
    variables = environment()
    variables["PYTHONPATH"] += f":{Path(contract_networks.__file__).parent}"
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "MAE" in done.stdout
    one, two, half = (
        load_state(Path(run, "checkpoint.pt"))["model"] for run in ("one", "two", "half")
    )
    # A weight's gradient is a mean of residual (below 0.5) times activation (below 2), doubled by
    # the square, over 3 frames of 4 clips at 10 x 12 places; each term comes through 3 frames of 4
    # layers of at most 13 * 9 products, forwards and backwards. Errors of n roundings add up to 5
    # sqrt(n) u (Higham, Mary 2019; wrong once in 10^5). Adam's step makes 2 * rate of it at most.
    roundings = 3 * 4 * 10 * 12 + 2 * 3 * 4 * 13 * 9
    tolerance = 4 * 2 * 1e-2 * (5 * roundings**0.5 * 2.0**-24) * 2
    assert largest_difference(two, one) <= tolerance
    assert largest_difference(half, one) > 5 * tolerance


def test_what_does_not_fit_is_refused(place):
    with pytest.raises(ConfigError, match=r"task\.name.*'wave'.*waves"):
        train(config(Upscaler.family, "task.name=wave"))
    with pytest.raises(ConfigError, match=r"task\.name.*test_upscaler"):
        train(config(Upscaler.family, "task.name=image_denoising", "data.train=x"))
    with pytest.raises(ConfigError, match="train or sources"):
        config(Upscaler.family, "task.name=image_denoising")
    train(config(Upscaler.family, "run.minutes=1e-9"))
    with pytest.raises(ConfigError, match=r"task\.options"):
        train(config(Upscaler.family, "task.options={width = 2}"))
    with pytest.raises(ValueError, match=r"'waves'.*build_waves"):
        register_task("waves")(lambda *arguments: None)


def test_a_run_goes_on_with_its_own_data_alone(place, tasks, monkeypatch):
    train(config(Upscaler.family, "run.minutes=1e-9"))
    made = tasks.Waves.__init__

    def elsewhere(self, *arguments):
        made(self, *arguments)
        self.files = {"files": 2, "sha256": "other"}

    monkeypatch.setattr(tasks.Waves, "__init__", elsewhere)
    with pytest.raises(ConfigError, match="was 1 files, is 2"):
        train(config(Upscaler.family))


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_the_documented_task_trains(place, monkeypatch):
    """docs/training.md's network, by its command."""
    section = PAGE.read_text().split("\n## A task of your own\n")[1]
    program, configuration, command = (
        re.search(rf"```{language}\n(.*?)```", section, re.S)[1]
        for language in ("python", "toml", "bash")
    )
    Path("my_task.py").write_text(program)
    Path("upscaling.toml").write_text(configuration)
    Path("images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        rows, columns = np.mgrid[:48, :56]
        waves = 120 + 60 * np.sin(rows / 3 + index) * np.cos(columns / 4)
        picture = np.stack([waves, 255 - waves, waves + 20], 2) + rng.normal(0, 2, (48, 56, 3))
        write_image(f"images/{index}.png", picture.astype(np.uint8))
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    assert main([*shlex.split(command)[1:], "--set", "run.log_every=10"]) == 0
    sys.modules.pop("my_task")
    logged = rows_of("upscaling")
    assert float(logged[-1]["loss"]) < 0.5 * float(logged[0]["loss"])
    assert float(logged[-1]["psnr_x2"]) > 20
    with torch.inference_mode():
        outputs, _ = load_checkpoint("upscaling/model.safetensors")(
            {"image": torch.rand(1, 3, 5, 7)}
        )
    assert outputs["image"].shape == (1, 3, 10, 14)
