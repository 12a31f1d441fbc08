"""The benchmarks with a guide, and several_tasks.py, on pictures made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_ext._loader import native_error
from denoise_ext.models import create_model, load_checkpoint, pretrained_info, save_model

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import guide_content
import guide_edges
import guided
import several_tasks

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")

SMALL = {"widths": [8, 16], "blocks": [1, 1], "guide_width": 4}


def scene(seed: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth and its picture: two levels, one edge."""
    y, x = np.mgrid[:rows, :columns]
    near = x + seed * y / 10 > columns / 2
    colours = np.where(near[..., None], (200, 40, 60), (30, 120, 200)).astype(np.uint8)
    return np.where(near, 190, 60 + seed).astype(np.uint8), colours


@pytest.fixture
def data(tmp_path, monkeypatch):
    names = {"Middlebury": ("{}_output_depth.png", "{}_output_color.png"),
             "Lu": ("{}_output_depth.png", "{}_ouput_color.png"),
             "RoadScene": ("{}.jpg", "{}.jpg"), "TNO": ("{}.bmp", "{}.bmp"),
             "PET": ("{}.png", "{}.png")}  # fmt: skip
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("# two\n1.jpg\n3.jpg\n")
    chosen = guided.Set(**{**vars(guided.SETS["RoadScene"]), "held_out": held_out})
    monkeypatch.setitem(guided.SETS, "RoadScene", chosen)
    sets = {**guided.SETS, "training": guided.DEPTH_TRAINING}
    for key, one in sets.items():
        patterns = names.get(key, ("{}.png", "{}.jpg"))
        for place, (name, pattern) in enumerate(zip(patterns, one.patterns, strict=True)):
            folder = (tmp_path / one.folder / pattern).parent
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(4):
                pixels = scene(index, 73, 80 + index)[place]
                picture = Image.fromarray(pixels).convert("L" if key == "PET" else None)
                picture.save(folder / name.format(index), quality=100)
    monkeypatch.setenv("DENOISE_EXT_DATA", str(tmp_path))
    torch.manual_seed(0)
    save_model(create_model("dxnet_s_guided", **SMALL), tmp_path / "net.safetensors")
    return tmp_path


def test_every_set_and_method(data, capsys):
    model = str(data / "net.safetensors")
    how = ["--model", model, "--unguided", model, "--output", str(data / "out")]
    assert guided.main(how) == 0
    facts = json.loads((data / "out/guided.json").read_text())
    found = {(row["set"], row["task"]): row for row in facts["rows"]}
    assert set(found) == {
        ("Middlebury", "sigma 10"), ("Middlebury", "sigma 25"), ("Middlebury", "x4"),
        ("Middlebury", "x8"), ("Lu", "x4"), ("Lu", "x8"), ("RoadScene", "sigma 25"),
        ("TNO", "sigma 25"), ("PET", "sigma 25"),
    }  # fmt: skip
    assert found["RoadScene", "sigma 25"]["images"] == 2  # those that are held out
    assert facts["unguided"]["sha256"] == facts["sha256"] and len(facts["sha256"]) == 64
    assert facts["dxnet_s_gray"]["sha256"] == pretrained_info("dxnet_s_gray").sha256
    means = {
        place: {name: np.mean(values) for name, values in row["figures"].items()}
        for place, row in found.items()
    }
    noisy = means["Middlebury", "sigma 10"]
    assert noisy["noisy"] == pytest.approx(28.13, abs=0.2)
    assert noisy["joint bilateral"] > noisy["noisy"] + 8  # the edge is in the guide
    assert noisy["unguided"] == pytest.approx(noisy["black"])
    assert len({noisy[name] for name in ("guided", "shifted", "wrong", "black")}) == 4
    small = means["Lu", "x4"]
    assert small["bicubic"] < means["Lu", "x8"]["bicubic"]
    text = (data / "out/guided.md").read_text()
    assert text in capsys.readouterr().out and f"{small['bicubic']:.2f}" in text


def test_gains_are_better_decibels_and_smaller_errors():
    figures = {"guided": [30.0, 34.0], "unguided": [29.0, 35.0], "black": [28.0, 28.0]}
    row = {"set": "Lu", "images": 2, "task": "x4", "figures": figures}
    facts = {
        "model": "a", "steps": 1, "sha256": "0" * 64, "parameters": 1e6, "rows": [row],
        "dxnet_s_gray": {"sha256": "1" * 64},
    }  # fmt: skip
    noise = guided.table(facts).splitlines()[-1]
    assert noise == "| Lu | x4 | +0.00 (-1.00) | - | - | - | +4.00 (+2.00) | - | - |"
    row["figures"] |= {"bicubic": [31.0, 36.0]}
    assert "| - | - | +1.50 (+1.00) | -4.00 (-6.00) |" in guided.table(facts).splitlines()[-1]


def test_shifted_and_wrong_guides():
    pairs = [scene(0, 8, 9), scene(3, 6, 7)]
    first = next(guided.guides(pairs))
    assert np.array_equal(first["shifted"][2:, 2:], pairs[0][1][:-2, :-2])
    assert np.array_equal(first["wrong"][:6, :7], pairs[1][1])
    assert first["wrong"].shape == first["black"].shape == (8, 9, 3) and not first["black"].any()


def test_what_a_guide_explains():
    rng = np.random.default_rng(0)
    guide = rng.integers(0, 256, (100, 150, 3))  # not whole squares
    mixed = guide @ np.array([0.5, -1.0, 0.2]) / 255 + 0.3
    unlike = rng.standard_normal(mixed.shape)
    assert guide_content.explained(mixed, guide) > 1 - 1e-6
    by_chance = 4 / guide_content.SIDE**2  # numbers of a fit, pixels of a square
    assert guide_content.explained(unlike, guide) == pytest.approx(by_chance, rel=0.15)
    # half of the power: the fit takes it off, 3 dB
    error = (mixed - mixed.mean()) / mixed.std() + unlike
    assert guide_content.gain(error, guide) == pytest.approx(10 * np.log10(2), abs=0.15)


def test_squares_of_an_image():
    image = np.arange(26 * 38 * 2).reshape(26, 38, 2)
    found = guide_content.squares(image)
    assert found.shape == (6, 144, 2)
    assert np.array_equal(found[4].reshape(12, 12, 2), image[12:24, 12:24])


def test_content_of_the_training_data(data, capsys):
    assert guide_content.main(["--every", "2", "--output", str(data / "out")]) == 0
    text = (data / "out/guide_content.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| Ro")]
    assert len(rows) == 1 and rows[0][1:3] == ["25", "1"]  # two that are not held out
    assert text.splitlines()[-1] in capsys.readouterr().out
    assert all(line.count("|") == 7 for line in text.splitlines() if line.startswith("|"))


def test_edges_of_depth():
    depth = np.full((4, 6), 1000.0)
    depth[:, 3:] = 1000 + 1000 * 5 / 255  # two channels of three
    depth[3, 0] = 2000
    found = guide_edges.edges(depth)
    assert found.shape == (4, 6, 3) and set(found.flat) == {0, 255}
    across = np.zeros((4, 6), bool)
    across[:, 2] = True
    corner = np.zeros((4, 6), bool)
    corner[2, 0] = corner[3, 0] = True
    assert np.array_equal(found[..., 1] > 0, across | corner)
    assert np.array_equal(found[..., 2] > 0, corner)


def test_the_start_is_the_network_without_a_guide(tmp_path):
    guide_edges.write_start(tmp_path / "start.safetensors")
    network = load_checkpoint(tmp_path / "start.safetensors").eval()
    gray = create_model(guide_edges.GRAY, pretrained=True).eval()
    generator = torch.Generator().manual_seed(0)
    x, guide = (torch.rand(1, count, 24, 32, generator=generator) for count in (1, 3))
    inputs = {"image": x, "noise_map": torch.full((1, 1, 1, 1), 25 / 255), "guide": guide}
    with torch.inference_mode():
        made, _ = network(inputs)
        torch.testing.assert_close(made["image"], gray(x, 25.0))
        assert network.guide(torch.nn.functional.pixel_unshuffle(guide, 2)).abs().max() > 0.01


def test_guides_of_edges(data, monkeypatch, capsys):
    monkeypatch.setattr(guide_edges, "CROP", 32)
    monkeypatch.setattr(guide_edges, "HELD_OUT", 1)
    threads = torch.get_num_threads()
    how = ["--steps", "2", "--runs", str(data / "runs"), "--output", str(data / "out")]
    assert guide_edges.main(how) == 0
    torch.set_num_threads(threads)
    lines = (data / "out/guide_edges.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0][2:] for row in rows[1:]] == ["none, before training", *guide_edges.GUIDES]
    assert len({tuple(row[1:]) for row in rows[1:]}) == 4
    assert lines[-1] in capsys.readouterr().out


@pytest.mark.rotates()
@pytest.mark.parametrize("task", ["noise_level", "normals"])
def test_several_tasks(tmp_path, monkeypatch, capsys, task):
    photos = tmp_path / several_tasks.PHOTOS
    photos.mkdir(parents=True)
    held_out = several_tasks.HELD_OUT.read_text().split("\n")[1:]
    rng = np.random.default_rng(0)
    for name in [*filter(None, held_out), "a.jpg", "b.jpg"]:
        pixels = rng.integers(0, 256, (9, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((150, 140)).save(photos / name)
    monkeypatch.setenv("DENOISE_EXT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(several_tasks, "SIDE", 32)
    threads = torch.get_num_threads()
    how = [task, "--steps", "2", "--seeds", "1", "2", "--output", str(tmp_path / "out")]
    assert several_tasks.main(how) == 0
    torch.set_num_threads(threads)
    facts = json.loads((tmp_path / f"out/several_tasks_{task}.json").read_text())
    arithmetic = [row["gflop"] for row in facts["rows"]]
    rest = arithmetic[1:] if task == "noise_level" else [sum(arithmetic[1:])]
    assert rest == pytest.approx([arithmetic[0]], rel=0.03)  # equal arithmetic
    first, second = facts["rows"][0]["figures"]
    assert first.keys() == second.keys() and first != second
    text = (tmp_path / f"out/several_tasks_{task}.md").read_text()
    assert text in capsys.readouterr().out and "seeds 1, 2" in text
