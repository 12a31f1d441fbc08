"""Learning from other networks: `[teacher]`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from denoise_ext.io import write_image
from denoise_ext.metrics.protocol import as_sample
from denoise_ext.models import create_model, read_metadata, save_model
from denoise_ext.training import ConfigError, Supervised, load_config, train
from denoise_ext.training.losses import mse
from denoise_ext.training.teaching import Taught

SMALL = {"widths": [8, 16], "blocks": [1, 1]}
CONFIG = """
[data]
train = "images"
crop = 16
cache = "off"
[model]
name = "dxnet_s_gray"
options = {widths = [8, 16], blocks = [1, 1]}
[teacher]
networks = ["teacher.safetensors"]
[schedule]
peak = 2e-3
warmup_steps = 2
[validation]
images = 1
crop = 32
sigmas = [25.0]
every = 10
[run]
out = "run"
steps = 10
batch_size = 4
log_every = 10
threads = 1
device = "cpu"
tensorboard = "off"
"""


def small_network(seed: int):
    network = create_model("dxnet_s_gray", **SMALL)
    network.initialise(torch.Generator().manual_seed(seed))
    return network


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    Path("images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        write_image(f"images/{index}.png", rng.integers(0, 256, (40, 48), dtype=np.uint8))
    Path("config.toml").write_text(CONFIG)
    save_model(small_network(1), "teacher.safetensors", torch.float32)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_target_is_a_mean_of_clean_and_of_what_the_teachers_make(weight):
    clean = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([10.0, 200.0])
    sample = as_sample({"image": clean + 0.1}, {"image": clean}, sigma=sigma)
    teachers = [small_network(seed).requires_grad_(False) for seed in (1, 2)]
    for teacher in teachers:
        teacher.tail.weight *= 10  # untrained, it hardly changes the image, whatever the level
    student = small_network(3)

    def learn(inputs):
        return student({**inputs, "noise_map": (sigma / 255).reshape(-1, 1, 1, 1)})[0]

    loss, _ = Taught(Supervised(mse), teachers, weight)(learn, sample, 0)
    loss.backward()
    # each image alone: its level is its own
    made = [
        sum(teacher(clean[i : i + 1] + 0.1, float(sigma[i])) for teacher in teachers) / 2
        for i in range(2)
    ]
    target = (1 - weight) * clean + weight * torch.cat(made)
    torch.testing.assert_close(loss, mse(student(clean + 0.1, sigma), target))
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for teacher in teachers for p in teacher.parameters())
    torch.testing.assert_close(sample["targets.image"], clean, rtol=0, atol=0)  # not changed


def test_a_network_becomes_like_its_teacher_and_says_who_it_was(place):
    """With weight 1 the loss is the distance to the teacher: that of the teacher itself is 0."""
    config = load_config("config.toml", ["model.start=teacher.safetensors", "loss.name=mse"])
    log = train(config).model_path.parent / "log.csv"
    assert float(log.read_text().splitlines()[-1].split(",")[1]) == pytest.approx(0.0, abs=1e-12)
    trained = train(load_config("config.toml", ["teacher.weight=0.5", "run.out=other"]))
    facts = read_metadata(trained.model_path)["training"]["config"]["teacher"]
    assert facts == {"networks": ["teacher.safetensors"], "weight": 0.5}
    Path("config.toml").write_text(CONFIG.replace("teacher.safetensors", "dxnet_s_gray"))
    assert train(load_config("config.toml", ["run.out=shipped"])).finished
    assert json.loads(Path("shipped/config.json").read_text())["teacher"]["weight"] == 1.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['teacher.networks=["missing.pth"]'], "neither a model with trained weights nor"),
        (['teacher.networks=["dxnet_s_color"]'], "has 3 channels, but data.channels is 1"),
        (['teacher.networks=["srnet_s_x2"]'], "'srnet_s_x2' denoises no image"),
        (['teacher.networks=["dncnn_gray"]'], "dncnn_gray"),  # a model without weights
        (["teacher.weight=0.0"], "teacher.weight"),
        (["teacher.weight=1.5"], "teacher.weight"),
        (["teacher.networks=[]", "teacher.weight=0.5"], "teacher.networks is required"),
        (["loss.adversarial=0.1"], "teacher.networks need"),
        (["loss.target=blind_spot", "validation.images=0"], "teacher.networks need"),
        (["task.name=video_denoising"], "teacher.networks need"),
    ],
)
def test_bad_teachers_are_refused(place, overrides, message):
    with pytest.raises(ConfigError, match=message):
        train(load_config("config.toml", overrides))
