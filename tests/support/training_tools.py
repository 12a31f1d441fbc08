"""A small training run and its files, for the tests of training."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import denoise_ext

CONFIG = """
[data]
train = "images"
crop = 16

[noise]
sigma_min = 25.0
sigma_max = 25.0

[model]
name = "ffdnet_gray_small"
options = {{ width = 24, depth = 3 }}

[optimiser]
beta2 = 0.95
clip_norm = 0.05

[schedule]
peak = 5e-3
warmup_steps = 5

[loss]
weight_decay = 1e-6

[validation]
images = 2
crop = 32
sigmas = [25.0]
every = 50

[run]
out = "run"
steps = {steps}
batch_size = 4
seed = 3
layers = "torch"
threads = 1
checkpoint_every = 7
log_every = 10
device = "cpu"
tensorboard = "off"
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working directory with eight gray images and ``config.toml`` (120 steps)."""
    from PIL import Image  # here: the tests of the operators, which share conftest.py, do without

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    y, x = np.mgrid[0:48, 0:40]
    for i in range(8):
        pattern = 127 + 80 * np.sin(x / (6 + i) + i) * np.cos(y / (14 - i))
        Image.fromarray(pattern.astype(np.uint8)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "config.toml").write_text(CONFIG.format(steps=120))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def read_log(run: str) -> list[dict[str, str]]:
    with open(Path(run) / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def environment() -> dict[str, str]:
    """For a process of its own: this package, one thread."""
    source = str(Path(denoise_ext.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


def start(*overrides: str) -> subprocess.Popen:
    """``denoise-ext train`` as a process of its own."""
    command = [sys.executable, "-m", "denoise_ext.cli.train", "config.toml"]
    for override in overrides:
        command += ["--set", override]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(path: Path, alive: Callable[[], bool]) -> None:
    """Until a file is there, while what writes it lives."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_same(a: dict, b: dict) -> None:
    """Equal to the last bit, through nested dicts."""
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[key])
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(b[key])), key


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max((a[key] - b[key]).abs().max().item() for key in a)
