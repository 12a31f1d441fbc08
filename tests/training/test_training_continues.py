"""Continuing a training run: after a kill, after its end, with another configuration."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from training_tools import assert_same, read_log, start, wait_for

from denoise_ext.cli.train import main
from denoise_ext.models import load_checkpoint, read_metadata
from denoise_ext.training import load_config, train
from denoise_ext.training.checkpoint import load_state


@pytest.mark.rotates(turn=1, turns=2)
def test_a_killed_run_continues_to_the_same_weights(workplace):
    steps = "run.steps=300"
    process = start(steps, "run.out=killed")
    wait_for(Path("killed/checkpoint.pt"), lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = load_state(Path("killed/checkpoint.pt"))["step"]
    assert 0 < step < 300
    assert not Path("killed/model.safetensors").exists()

    for out in ("killed", "straight"):
        process = start(steps, f"run.out={out}")
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()

    states = [load_state(Path(out) / "checkpoint.pt") for out in ("killed", "straight")]
    assert states[0]["step"] == states[1]["step"] == 300
    assert_same(states[0]["model"], states[1]["model"])
    assert_same(states[0]["optimiser"]["state"], states[1]["optimiser"]["state"])
    tensors = [load_checkpoint(f"{out}/model.safetensors") for out in ("killed", "straight")]
    assert_same(tensors[0].state_dict(), tensors[1].state_dict())
    logs = [read_log(out) for out in ("killed", "straight")]
    for rows in logs:
        for row in rows:
            del row["seconds"], row["waited"]
    assert logs[0] == logs[1]


def test_a_finished_run_stays_as_it_is(workplace):
    first = train(load_config("config.toml"))
    before = first.model_path.read_bytes()
    again = train(load_config("config.toml"))
    assert again.steps == 120
    assert again.validation == first.validation
    assert load_checkpoint(again.model_path).config
    a, b = Path("before.safetensors"), again.model_path
    a.write_bytes(before)
    assert_same(load_checkpoint(a).state_dict(), load_checkpoint(b).state_dict())


def test_another_configuration_is_refused(workplace, capsys):
    train(load_config("config.toml", ["run.steps=20"]))
    assert main(["config.toml", "--set", "run.steps=20", "--set", "schedule.peak=0.1"]) == 2
    error = capsys.readouterr().err
    assert "run holds a run of another configuration" in error
    assert "schedule.peak: was 0.005, is 0.1" in error
    # what does not change the weights may change
    assert main(["config.toml", "--set", "run.steps=20", "--set", "run.log_every=5"]) == 0


def test_accepted_changes_are_recorded(workplace, capsys):
    train(load_config("config.toml", ["run.steps=20"]))
    longer = ["config.toml", "--set", "run.steps=40"]
    assert main(longer) == 2
    assert main([*longer, "--accept-changes"]) == 0
    training = read_metadata("run/model.safetensors")["training"]
    assert training["steps"] == training["config"]["run"]["steps"] == 40
    assert training["changes_on_the_way"] == [
        {"after_step": 20, "changes": ["run.steps: was 20, is 40"]}
    ]
    assert json.loads(Path("run/config.json").read_text())["run"]["steps"] == 40
    assert main([*longer, "--set", "model.options.width=8", "--accept-changes"]) == 2
    assert "does not fit model.name" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_an_error(workplace, capsys):
    Path("run").mkdir()
    Path("run/checkpoint.pt").write_bytes(b"damaged")
    assert main(["config.toml"]) == 2
    error = capsys.readouterr().err
    assert "run/checkpoint.pt: not a" in error
    assert "Traceback" not in error


def test_a_loss_that_is_not_finite_stops_the_run(workplace, capsys):
    overrides = ["schedule.peak=1e30", "schedule.warmup_steps=0", "optimiser.clip_norm=0"]
    command = ["config.toml"]
    for override in overrides:
        command += ["--set", override]
    assert main(command) == 1
    assert "the loss is nan" in capsys.readouterr().err
    assert not Path("run/checkpoint.pt").exists()
    assert not Path("run/model.safetensors").exists()
