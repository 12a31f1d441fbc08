"""The trained weights that ship: what the registry says of them is true."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rotation import on_day
from shared_data import image_folder

from denoise_ext import codec
from denoise_ext.io import read_image
from denoise_ext.models import (
    ImageUpscaler,
    create_model,
    list_models,
    load_checkpoint,
    pretrained_info,
    read_metadata,
)
from denoise_ext.models.dxcodec import DXCodec
from denoise_ext.restore import upscale
from denoise_ext.runtime.model_names import image_models
from denoise_ext.tasks import (
    Denoiser,
    Protocol,
    VideoDenoiser,
    clean_pixels,
    denoise,
    evaluate_image,
)
from denoise_ext.tasks.guide import takes_guide
from denoise_ext.training import load_config
from denoise_ext.training.checkpoint import config_differences

ROOT = Path(__file__).resolve().parents[2]
NAMES = list_models(pretrained=True)
MEBIBYTE = 2**20
# Largest files, by the beginning of the name: float16 and what is said about it.
LARGEST = {
    "dxnet_m": 9 * MEBIBYTE,
    "dxnet_l": 31 * MEBIBYTE,
    "dxcodec": 4 * MEBIBYTE,
    "rdxnet_m": 3 * MEBIBYTE,
    "": 2 * MEBIBYTE,
}


def test_the_demo_models_ship():
    assert {"ffdnet_gray_small", "ffdnet_color_small"} <= set(NAMES)


def stages_of(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The last stage of a training, and those before."""
    stages = []
    while "steps" in training:
        stages.append(training)
        training = training.get("start") or {}
    return stages


@pytest.mark.parametrize("name", NAMES)
def test_entry(name):
    entry = pretrained_info(name)
    data = entry.path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry.sha256
    assert len(data) <= next(size for start, size in LARGEST.items() if name.startswith(start))
    assert load_checkpoint(entry.path).config == entry.config == create_model(name).config
    for field in ("recipe", "training_data", "noise", "licence", "protocol"):
        assert getattr(entry, field)
    assert entry.psnr


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_how_it_was_trained(name):
    entry = pretrained_info(name)
    training = read_metadata(entry.path)["training"]
    # A start from weights that ship is named by its model, and its steps are not counted.
    assert sum(stage["steps"] for stage in stages_of(training)) == entry.steps
    assert not re.findall(r'": "/', json.dumps(training))  # no folder of the machine it ran on
    # but for what moves no weight: where it ran, and in how many stretches
    recipe = load_config(ROOT / entry.recipe).model_dump(mode="json")
    assert config_differences(training["config"], recipe) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_was_changed_on_the_way_is_told(name):
    """In the table of recipes/README.md, by recipe, with every value."""
    training = read_metadata(pretrained_info(name).path)["training"]
    stages = stages_of(training)
    table = (ROOT / "recipes" / "README.md").read_text().splitlines()
    for stage in stages:
        shipped = pretrained_info(name).recipe
        recipe = Path(shipped if stage is training else stage["config"]["run"]["out"]).stem
        rows = [line for line in table if line.startswith(f"| `{recipe}.toml` |")]
        numbers = re.findall(r"\d+", rows[0]) if rows else []
        changes = stage["changes_on_the_way"]
        assert bool(rows) == bool(changes)
        for change in changes:
            told = [str(change["after_step"]), *re.findall(r"\d+", "".join(change["changes"]))]
            assert set(told) <= set(numbers)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_made_and_removes_noise(name):
    model = create_model(name, pretrained=True)
    assert not model.training
    if isinstance(model, DXCodec):
        clean = np.full((64, 64, 3), 128, np.uint8)
        noise = np.random.default_rng(0).normal(0, 25, clean.shape)
        noisy = (clean + noise).round().clip(0, 255).astype(np.uint8)
        result = codec.decode(codec.encode(noisy, sigma=25)).astype(float)
        assert (result - clean).std() < 0.25 * noise.std()
        return
    clean = torch.full((1, model.in_channels, 24, 24), 0.5)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * 25 / 255
    if name in image_models():
        result = denoise(clean + noise, model, 25.0)
    elif takes_guide(model):
        result = denoise(clean + noise, model, 25.0, guide=clean)
    elif isinstance(model, ImageUpscaler):
        result = upscale(clean + noise, sigma=25.0, model=model)
        clean = torch.full_like(result, 0.5)
    else:
        denoiser = VideoDenoiser(model, sigma=25.0)  # small ones need frames before
        noisy = [clean[0] + noise[0].roll(shift, (1, 2)) for shift in ((5, 9), (11, 3), (0, 0))]
        *_, result = [denoiser.push(frame, value_range=(0, 1)) for frame in noisy]
    # a flat patch: nothing in it to be lost
    assert (result - clean).std() < 0.25 * noise.std()


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    from denoise_ext.models import registry as _registry

    name = NAMES[0]
    entry = pretrained_info(name)
    data = bytearray(entry.path.read_bytes())
    data[-1] ^= 1
    (tmp_path / entry.file).write_bytes(data)
    monkeypatch.setattr(_registry, "_WEIGHTS_DIR", tmp_path)
    with pytest.raises(RuntimeError, match="is damaged: sha256"):
        create_model(name, pretrained=True)
    monkeypatch.setattr(_registry, "_WEIGHTS_DIR", tmp_path / "absent")
    with pytest.raises(RuntimeError, match="is missing"):
        create_model(name, pretrained=True)


# The bounds: clearly above BM3D on BSD68 (28.57 dB) and CBM3D on CBSD68 (30.71 dB) at sigma 25
# (cszn/FFDNet, figs/table1.png and table2.png).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "bound"),
    [
        on_day(1, "ffdnet_gray_small", "BSD68", 28.8),
        on_day(3, "ffdnet_color_small", "CBSD68", 30.9),
        on_day(5, "dxnet_s_gray", "BSD68", 28.95),
        on_day(7, "dxnet_s_color", "CBSD68", 30.95),
        on_day(2, "sepdncnn_s_gray", "BSD68", 28.85),
        on_day(6, "deconvnet_s_gray", "BSD68", 28.7),
    ],
)
def test_better_than_bm3d(name, folder, bound):
    images = image_folder(f"test/{folder}")
    denoiser = Denoiser(name, device="cpu")
    protocol = Protocol()
    values = [
        evaluate_image(denoiser, clean_pixels(read_image(path), protocol), 25.0, protocol).psnr
        for path in images
    ]
    mean = sum(values) / len(values)
    assert mean >= bound
    # what the registry publishes, to the digits it is printed with
    assert mean == pytest.approx(pretrained_info(name).psnr[f"{folder} sigma 25"], abs=0.006)


@pytest.mark.rotates()
@pytest.mark.parametrize(
    ("name", "reason"),
    [("sepdncnn_gray", "has no entry"), ("dxnet_s_gray", "another network than the entry")],
)
def test_ship_refuses(name, reason):
    color = pretrained_info("dxnet_s_color").path
    command = [
        sys.executable,
        ROOT / "recipes/ship",
        name,
        color,
        ROOT / "recipes/dxnet_s_gray.toml",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and reason in ended.stderr


@pytest.mark.parametrize("name", ["dxnet_s_gray", "rdxnet_s_gray"])
def test_ship_changes_one_entry(name):
    ship = runpy.run_path(str(ROOT / "recipes/ship"))
    source = ship["file_of"](name).read_text()
    changed = ship["with_facts"](source, name, {"steps": "123"})
    old, new = source.splitlines(), changed.splitlines()
    different = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    assert [b.strip() for _, b in different] == ["steps=123,"]
    assert different[0][0] in source[source.index(f'"{name}"') :]
