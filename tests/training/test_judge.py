"""Whether one way to denoise is better than another, found without clean images."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denoise_ext.io import write_image
from denoise_ext.metrics.protocol import as_sample, inputs_of
from denoise_ext.tasks.noise_model import NoiseModel
from denoise_ext.training.adaptation import Crops, HeldOutTiles
from denoise_ext.training.distributed import Processes
from denoise_ext.training.judge import Judgement, judge
from denoise_ext.training.objectives import Sure
from denoise_ext.training.own_images import OwnImages

FILES, SIDE = 12, 192


def clean_image(index: int) -> np.ndarray:
    """(SIDE, SIDE) in [0.1, 0.9]: soft waves, and edges in half of it."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = 0.5 + 0.2 * np.sin(6 * x + index) * np.cos(5 * y - index)
    return waves + 0.15 * (np.sin((40 + index) * x * y) > 0) * (x > 0.5)


def with_noise(kind: str, clean: np.ndarray, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed).normal(size=(SIDE + 1, SIDE + 1))
    if kind == "white":
        return clean + draw[1:, 1:] * 20 / 255
    if kind == "signal-dependent":
        return clean + draw[1:, 1:] * np.sqrt(0.02 * clean + 0.0002)
    if kind == "rician":  # half of it is background
        x = background(kind, clean)
        real = x + draw[1:, 1:] * 15 / 255
        imaginary = np.random.default_rng(1000 + seed).normal(size=x.shape) * 15 / 255
        return np.hypot(real, imaginary)
    smooth = (draw[1:, 1:] + draw[:-1, 1:] + draw[1:, :-1] + draw[:-1, :-1]) / 2
    return clean + smooth * 15 / 255


def background(kind: str, clean: np.ndarray) -> np.ndarray:
    """Of magnetic resonance images, black."""
    return clean * (np.arange(SIDE) > SIDE / 2) if kind == "rician" else clean


def blur(deviation: float):
    """Gaussian blur as a way to denoise."""

    def method(tile, sample):
        x = inputs_of(sample)["image"]
        if deviation == 0:
            return x
        places = torch.arange(-6, 7)
        kernel = torch.exp(-(places**2) / (2 * deviation**2))
        kernel = (kernel / kernel.sum())[None, None]
        padded = F.pad(x, (6, 6, 6, 6), mode="reflect")
        return F.conv2d(F.conv2d(padded, kernel[..., None]), kernel[:, :, None])

    return method


@pytest.fixture(params=["white", "signal-dependent", "correlated"])
def held_out(request, tmp_path, monkeypatch):
    """Tiles of noisy files, and the clean image of each tile."""
    return request.param, *tiles_of(request.param, SIDE, tmp_path, monkeypatch)


def tiles_of(kind: str, side: int, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    groups, cleans = [], []
    for i in range(FILES):
        clean = clean_image(i)
        for folder, image in (("n", with_noise(kind, clean, i)), ("c", background(kind, clean))):
            path = tmp_path / f"{folder}{i:02}.png"
            write_image(path, (image[:side].clip(0, 1) * 65535).round().astype(np.uint16))
            (groups if folder == "n" else cleans).append((path,))
    config = SimpleNamespace(loss=SimpleNamespace(target="sure"), run=SimpleNamespace(seed=0))
    tiles = HeldOutTiles(config, OwnImages(groups, 1), False)
    return tiles, [tile.image for tile in OwnImages(cleans, 1).held_out]


def true_gain(tiles: HeldOutTiles, truth, old, new) -> float:
    errors = torch.zeros(2, dtype=torch.float64)
    for number, (tile, clean) in enumerate(zip(tiles.images.held_out, truth, strict=True)):
        sample = tiles.sample(tile, number)
        for k, method in enumerate((old, new)):
            errors[k] += (method(tile, sample)[:1] - clean).square().mean()
    return 10 * math.log10(errors[0] / errors[1])


def compared(tiles: HeldOutTiles, truth) -> list[tuple[Judgement, float]]:
    """Judgements, and true gains, of weak and strong blur."""
    pairs = [(b, a) for b in (0.0, 0.6, 1.2) for a in (0.3, 0.5, 0.7, 1.5)]
    return [
        (judge(tiles, blur(b), blur(a)), true_gain(tiles, truth, blur(b), blur(a)))
        for b, a in pairs
    ]


@pytest.mark.rotates()
def test_no_gain_is_claimed_where_there_is_none(held_out):
    _, tiles, truth = held_out
    found = compared(tiles, truth)
    assert [pair for pair in found if pair[0].better and pair[1] <= 0] == []
    assert sum(judgement.better for judgement, _ in found) >= 2  # it is found


def test_a_variance_that_is_measured_wrongly(tmp_path, monkeypatch):
    """As cameras leave it: too small, so that less smoothing seems better than it is."""
    tiles, truth = tiles_of("correlated", SIDE, tmp_path, monkeypatch)
    model = true_model("correlated")
    tiles.images.models = [replace(model, offset=0.4 * model.offset)] * FILES
    found = compared(tiles, truth)
    assert any(judgement.gain > 0.2 and truly < -0.2 for judgement, truly in found)
    assert [pair for pair in found if pair[0].better and pair[1] <= 0] == []


@pytest.mark.rotates()
@pytest.mark.parametrize("side", [96, SIDE])
def test_no_gain_is_claimed_for_magnitudes(side, tmp_path, monkeypatch):
    """Rician noise is weaker in the background, and it has a mean, which no estimate shows."""
    found = compared(*tiles_of("rician", side, tmp_path, monkeypatch))
    assert [pair for pair in found if pair[0].better and pair[1] <= 0] == []


def true_model(kind: str) -> NoiseModel:
    """Of `with_noise`."""
    if kind == "white":
        return NoiseModel(0.0, (20 / 255) ** 2)
    if kind == "signal-dependent":
        return NoiseModel(0.02, 0.0002)
    response = 1 + torch.cos(math.pi * torch.arange(16) / 16)
    root = (response[:, None] * response).sqrt()
    root = root / root.square().mean().sqrt()
    return NoiseModel(0.0, (15 / 255) ** 2, root[..., None, None])


@pytest.mark.rotates()
@pytest.mark.parametrize("deviation", [0.0, 0.4, 0.8, 1.5])
def test_the_estimate_is_the_error_where_the_noise_is_known(held_out, deviation):
    kind, tiles, truth = held_out
    tiles.images.models = [true_model(kind)] * FILES
    method = blur(deviation)
    off = []
    for number, (tile, clean) in enumerate(zip(tiles.images.held_out, truth, strict=True)):
        sample = tiles.sample(tile, number)
        made = method(tile, sample)
        variance = float((sample["sigma"] / 255).square())
        truly = float((made[:1] - clean).square().mean()) / variance
        off.append(tiles.figures({"image": made}, sample)["noise_left"] - truly)
    off = np.array(off)
    # Noise that grows with the picture is estimated from noisy pixels, and files are clipped.
    assert abs(off.mean()) < 4 * off.std(ddof=1) / math.sqrt(len(off)) + 0.01


@pytest.mark.rotates()
def test_what_training_minimises_is_the_error(held_out, tmp_path):
    """In the mean over crops, turned and flipped, whose noise is known."""
    kind, tiles, _ = held_out
    config = SimpleNamespace(
        loss=SimpleNamespace(target="sure"), run=SimpleNamespace(seed=3, batch_size=8),
        data=SimpleNamespace(crop=64),
    )  # fmt: skip
    noisy = tiles.images
    noisy.models = [true_model(kind)] * FILES
    clean = OwnImages([(path,) for path in sorted(tmp_path.glob("c*.png"))], 1)
    objective, way = Sure(3, relative=True), blur(0.7)

    def network(inputs):
        return {"image": way(None, as_sample(inputs, {}))}

    off = []
    for step in range(40):
        sample = Crops(config, noisy, Processes(), False).batch(step)
        pictures = inputs_of(Crops(config, clean, Processes(), False).batch(step))["image"]
        error = (network(inputs_of(sample))["image"] - pictures).square().mean((1, 2, 3))
        truly = (error / (sample["sigma"] / 255).square()).mean()
        off.append(float(objective(network, sample, step)[0] - truly))
    off = np.array(off)
    assert abs(off.mean()) < 4 * off.std(ddof=1) / math.sqrt(len(off)) + 0.01


def test_the_same_is_no_gain(held_out):
    _, tiles, _ = held_out
    found = judge(tiles, blur(0.7), blur(0.7))
    assert found == Judgement(0.0, 0.0, 0.0, False)
