"""Several processes that train one network: the weights of one process with the whole batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from training_tools import (
    assert_same,
    environment,
    free_port,
    largest_difference,
    read_log,
    wait_for,
)
from warm_processes import warm_context

from denoise_ext.training import ConfigError, load_config, train
from denoise_ext.training.checkpoint import load_state

STEPS, RATE = 5, 0.05
# eps = 1 makes Adam smooth: what its step does with an error of the gradient is bounded.
SMOOTH = [
    f"run.steps={STEPS}", f"schedule.peak={RATE}", "schedule.warmup_steps=0", "optimiser.eps=1.0",
    "optimiser.clip_norm=0", "noise.sigma_min=0", "validation.images=0", "model.options.width=8",
]  # fmt: skip


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_state(Path(run) / "checkpoint.pt")["model"]


@pytest.mark.rotates(turn=2)
def test_torchrun_gives_the_weights_of_one_process_with_twice_the_batch(workplace):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
               "--master-addr=127.0.0.1", f"--master-port={free_port()}",
               "-m", "denoise_ext.cli.train", "config.toml"]  # fmt: skip
    for override in [*SMOOTH, "run.batch_size=4", "run.out=two"]:
        command += ["--set", override]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model.safetensors") == 1  # one process reports
    train(load_config("config.toml", [*SMOOTH, "run.batch_size=8", "run.out=one"]))
    train(load_config("config.toml", [*SMOOTH, "run.batch_size=4", "run.out=half"]))

    # A weight's gradient is a sum over 8 crops of 8 x 8 places of residual (below 0.5: five sigma)
    # times activation (below 2), doubled by the square; each of its terms comes out of 3 layers of
    # at most 9 * 8 products forwards and as many backwards. In float32 (u = 2^-24) its error is
    # below (terms + products) * u * 2 * 0.5 * 2, and Adam's step (m / (sqrt(v) + 1), slope at most
    # 2) makes of it 2 * rate at most in each of the steps.
    rounding = 2.0**-24 * (8 * 64 + 6 * 72) * 2
    tolerance = STEPS * 2 * RATE * rounding
    assert largest_difference(weights("two"), weights("one")) <= tolerance
    assert largest_difference(weights("half"), weights("one")) > 5 * tolerance
    for key in ("loss", "gradient_norm"):  # of the whole batch, too
        two, one = (float(read_log(run)[-1][key]) for run in ("two", "one"))
        assert two == pytest.approx(one, rel=1e-3)


# ---- continuing


def work(folder: str, environment: dict[str, str], overrides: list[str]) -> None:
    """One of two processes."""
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    train(load_config("config.toml", overrides))


def start_two(overrides: list[str]) -> list[BaseProcess]:
    of_both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pair = []
    for rank in ("0", "1"):
        variables = {**os.environ, **of_both, "RANK": rank, "LOCAL_RANK": rank}
        process = warm_context().Process(target=work, args=(os.getcwd(), variables, overrides))
        process.start()
        pair.append(process)
    return pair


@pytest.mark.rotates(turn=1)
def test_two_processes_continue_after_a_kill(workplace):
    overrides = ["run.steps=120", "model.options.width=8", "run.out=killed", "optimiser.ema=0.9"]
    pair = start_two(overrides)
    wait_for(Path("killed/checkpoint.pt"), lambda: all(p.is_alive() for p in pair))
    for process in pair:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert 0 < load_state(Path("killed/checkpoint.pt"))["step"] < 120
    for out in ("killed", "straight"):
        for process in start_two([*overrides, f"run.out={out}"]):
            process.join(300)
            assert process.exitcode == 0
    killed, straight = (load_state(Path(run) / "checkpoint.pt") for run in ("killed", "straight"))
    assert killed["step"] == straight["step"] == 120
    for key in ("model", "mean"):
        assert_same(killed[key], straight[key])
    assert_same(killed["optimiser"]["state"], straight["optimiser"]["state"])
    with pytest.raises(ConfigError, match="processes: was 2, is 1"):
        train(load_config("config.toml", overrides))
