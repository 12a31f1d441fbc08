"""Several tasks at once: `[[heads]]`, their losses and targets, and what a Denoiser returns."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from denoise_ext import Denoiser
from denoise_ext.io import picture_of, write_image
from denoise_ext.metrics import angle, surface_normals
from denoise_ext.metrics.protocol import as_sample
from denoise_ext.models import create_model
from denoise_ext.training import ConfigError, Head, SeveralTasks, load_config, train
from denoise_ext.training.heads import head_loss
from denoise_ext.training.losses import mse
from denoise_ext.training.objectives import Blind

BLIND = {"widths": [8, 16], "blocks": [1, 1], "estimator_width": 8}
CONFIG = """
[data]
train = "images"
channels = 3
crop = 16
cache = "off"
[model]
name = "dxnet_s_photo"
options = {widths = [8, 16], blocks = [1, 1], estimator_width = 8}
[loss]
name = "psnr"
[[heads]]
output = "noise_level"
loss = "log"
weight = 0.5
[schedule]
peak = 2e-3
warmup_steps = 2
[validation]
images = 1
crop = 32
sigmas = [25.0]
every = 20
[run]
out = "run"
steps = 20
batch_size = 4
log_every = 10
threads = 1
device = "cpu"
tensorboard = "off"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DATA", raising=False)
    Path("images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        write_image(f"images/{index}.png", rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    Path("config.toml").write_text(CONFIG)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def sample_of(sigma: list[float]):
    clean = torch.rand(len(sigma), 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return as_sample({"image": clean + 0.1}, {"image": clean}, sigma=torch.tensor(sigma))


def test_losses_are_weighed_and_logged_apart():
    network = create_model("dxnet_s_photo", **BLIND)
    sample = sample_of([5.0, 30.0])
    heads = [Head(output="noise_level", loss="log", weight=0.25)]
    loss, parts = SeveralTasks(mse, heads)(lambda x: network(x)[0], sample, 0)
    assert loss.item() == pytest.approx(
        parts["loss_image"].item() + 0.25 * parts["loss_noise_level"].item(), rel=1e-6
    )
    assert parts["loss_image"].item() == pytest.approx(
        mse(network(sample["inputs.image"]), sample["targets.image"]).item(), rel=1e-5
    )
    # the same as loss.noise_level, which the recipe of dxnet_s_photo has
    blind, _ = Blind(mse, 0.25, 0.0, 0)(lambda x: network(x)[0], sample, 0)
    torch.testing.assert_close(loss, blind)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_targets_and_distances_of_heads():
    sample = sample_of([25.5, 51.0])
    made = torch.tensor([0.1, 0.1]).reshape(2, 1, 1, 1)
    log = head_loss(Head(output="noise_level", loss="log"), made, sample).item()
    assert log == pytest.approx(math.log(0.101 / 0.201) ** 2 / 2, rel=1e-4)
    depth = torch.rand(2, 1, 16, 16)
    flat = as_sample({}, {"image": depth}, sigma=torch.zeros(2))
    normals = surface_normals(depth)
    head = Head(output="normals", loss="angle")
    assert head_loss(head, 3 * normals, flat).item() == pytest.approx(0, abs=1e-6)
    assert head_loss(head, -normals, flat).item() == pytest.approx(2, abs=1e-6)
    l1 = head_loss(Head(output="normals", loss="l1"), normals + 0.5, flat)
    assert l1.item() == pytest.approx(0.5, rel=1e-5)


def test_normals_of_planes():
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    for down, across in ((0, 0), (1 / 64, 0), (-2 / 64, 1 / 64)):
        plane = (down * rows + across * columns)[None, None]
        found = surface_normals(plane)[0, :, 6:-6, 6:-6]
        expected = torch.tensor([-64 * across, -64 * down, 1.0])
        expected = (expected / expected.norm())[:, None, None].expand_as(found)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    normals = surface_normals(torch.zeros(1, 1, 8, 8))
    tilted = torch.tensor([1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert angle(normals, 5 * tilted).item() == pytest.approx(45, abs=1e-3)
    with pytest.raises(ValueError, match="depth"):
        surface_normals(torch.zeros(1, 3, 8, 8))
    with pytest.raises(TypeError, match=r"depth.*int16"):
        surface_normals(torch.zeros(1, 1, 8, 8, dtype=torch.int16))
    for wrong in (tilted[:, :2], tilted[..., :1]):
        with pytest.raises(ValueError, match=r"first and second.*3, 8, 8"):
            angle(normals, wrong)


def test_a_run_logs_each_loss(place):
    train(load_config("config.toml"))
    with open("run/log.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert {"loss_image", "loss_noise_level"} <= set(rows[0])
    for row in rows:
        image, level = float(row["loss_image"]), float(row["loss_noise_level"])
        assert float(row["loss"]) == pytest.approx(image + 0.5 * level, rel=1e-4)


def test_a_denoiser_returns_the_outputs_by_name():
    torch.manual_seed(0)
    network = create_model("dxnet_s_photo", **BLIND).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        level = network({"image": x})[0]["noise_level"][0, 0].numpy()
    denoiser = Denoiser(network)
    made = denoiser.run(pixels)
    assert set(made.outputs) == {"noise_level"}
    assert made.outputs["noise_level"].shape == (11, 15)
    np.testing.assert_allclose(made.outputs["noise_level"], level, atol=1e-5)
    tensors = denoiser.run(torch.cat([x, x.flip(3)]))
    assert tensors.outputs["noise_level"].shape == (2, 1, 11, 15)
    np.testing.assert_allclose(tensors.outputs["noise_level"][0, 0], level, atol=1e-5)
    assert denoiser.run(x[0]).outputs["noise_level"].shape == (1, 11, 15)
    pictures = denoiser.run(picture_of(pixels)).outputs["noise_level"]
    np.testing.assert_allclose(pictures, level, atol=1e-5)
    large = np.tile(pixels, (6, 5, 1))
    whole, tiled = (
        Denoiser(network, precision="strict", tile=tile).run(large) for tile in (None, 100)
    )
    assert tiled.tiles > 1
    np.testing.assert_array_equal(tiled.outputs["noise_level"], whole.outputs["noise_level"])
    assert Denoiser("dxnet_s_color", sigma=5).run(pixels).outputs == {}


def test_images_of_other_networks_have_no_number():
    """The noise of each image decides: one takes the network for photographs, one does not."""
    rng = np.random.default_rng(3)
    white = np.full((1, 3, 64, 96), 0.5) + rng.normal(0, 0.1, (1, 3, 64, 96))
    coarse = rng.normal(0, 0.1, (1, 3, 32, 48)).repeat(2, 2).repeat(2, 3) + 0.5
    batch = torch.from_numpy(np.concatenate([white, coarse])).float()
    result = Denoiser().run(batch)
    assert "dxnet_s_photo" in result.treatment
    level = result.outputs["noise_level"]
    assert level[0].isnan().all() and level[1].isfinite().all()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["heads=[{output='image'}]"], "image"),
        (["heads=[{output='noise_level', weight=0.0}]"], r"heads\.0\.weight"),
        (["heads=[{output='normals'}, {output='normals'}]"], "another output"),
        (["loss.noise_level=0.5"], "heads need"),
        (["loss.target=blind_spot", "validation.images=0"], "heads need"),
        (["task.name=image_upscaling"], "heads need task"),
        (["heads=[{output='normals'}]"], "dxnet_s_photo.*no output 'normals'.*noise_level"),
        (["heads=[{output='noise_level', loss='mse'}]"], "'log' is for noise_level"),
    ],
)  # fmt: skip
def test_wrong_heads(place, overrides, named):
    if overrides[0].startswith("heads="):
        before, _, after = CONFIG.partition("[[heads]]")
        rest = after[after.index("[schedule]") :]
        Path("config.toml").write_text(overrides[0] + before + rest)
        overrides = []
    with pytest.raises(ConfigError, match=named):
        train(load_config("config.toml", overrides))
