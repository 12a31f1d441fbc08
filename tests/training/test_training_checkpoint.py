"""Training checkpoints: damage is found, older ones are read, and a kill leaves the last one."""

from __future__ import annotations

import os
import random
import signal

import pytest
import torch

from denoise_ext.models import CheckpointError, load_checkpoint
from denoise_ext.models.checkpoints import TRAINING_FORMAT
from denoise_ext.training.checkpoint import load_state, save_state


def state(step: int = 3) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {"step": step, "model": {"w": torch.rand(40, 40, generator=generator)}}


def test_what_was_saved_is_read(tmp_path):
    save_state(tmp_path / "checkpoint.pt", state())
    found = load_state(tmp_path / "checkpoint.pt")
    assert found["step"] == 3
    assert torch.equal(found["model"]["w"], state()["model"]["w"])
    # a plain PyTorch file still: with its checksum as the archive's comment
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bytes_are_found(tmp_path, seed):
    path = tmp_path / "checkpoint.pt"
    save_state(path, state())
    data = bytearray(path.read_bytes())
    weights = data.index(state()["model"]["w"].numpy().tobytes())
    draw = random.Random(seed)
    # among the numbers, where nothing else would notice; then anywhere
    begin, end = (weights, weights + 6400) if seed < 5 else (0, len(data))
    for _ in range(40):
        data[draw.randrange(begin, end)] ^= draw.randrange(1, 256)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: (damaged|truncated or damaged|not a)"):
        load_state(path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: (damaged|truncated|not a)"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_called_so(tmp_path, keep):
    path = tmp_path / "checkpoint.pt"
    save_state(path, state())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: truncated"):
        load_state(path)


def test_a_checkpoint_without_a_checksum_is_checked_by_its_records(tmp_path):
    """As they were written before."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": TRAINING_FORMAT, **state()}, path)
    assert load_state(path)["step"] == 3
    data = bytearray(path.read_bytes())
    data[data.index(state()["model"]["w"].numpy().tobytes()) + 99] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: damaged: record .* CRC-32"):
        load_state(path)


def save_and_die(path, contents: dict, function: str) -> None:
    """Save in a process that is killed as it calls a function of `os`."""
    child = os.fork()
    if child == 0:
        try:
            setattr(os, function, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            save_state(path, contents)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, function):
    path = tmp_path / "checkpoint.pt"
    save_state(path, state(1))
    save_and_die(path, state(2), function)
    assert load_state(path)["step"] == 1
    save_state(path, state(2))
    assert load_state(path)["step"] == 2
