"""benchmarks/video.py on clips made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recurrent import network, scene

from denoise_ext.models import save_model

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import video
import video_filters


@pytest.fixture
def data(tmp_path, monkeypatch):
    pytest.importorskip("av")
    for folder, seeds in (("test", (0, 1)), ("train", (2,))):
        (tmp_path / "video/clips" / folder).mkdir(parents=True)
        for seed in seeds:
            clean = scene(12, seed=seed, size=(50, 62), sigma=0.0)
            frames = (clean * 255).round().byte().numpy()
            header = b"YUV4MPEG2 W62 H50 F25:1 Cmono\n"
            body = b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)
            (tmp_path / "video/clips" / folder / f"{seed}.y4m").write_bytes(header + body)
    monkeypatch.setenv("DENOISE_EXT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.rotates(turn=0)
def test_every_method(data):
    save_model(network(), data / "net.safetensors", torch.float32)
    arguments = ["--weights", str(data / "net.safetensors"), "--still", "ffdnet_gray_small"]
    arguments += ["--sigma", "20", "--times", "1", "--output", str(data / "out")]
    arguments += ["--filters", "atadenoise"]
    assert video.main(arguments) == 0
    results = json.loads((data / "out/video.json").read_text())
    rows = results["figures"]["20"]
    assert list(rows) == [
        "net", "net, each frame anew", "ffdnet_gray_small, frame by frame", "atadenoise"
    ]  # fmt: skip
    noisy = 20 * np.log10(255 / 20)
    assert rows["ffdnet_gray_small, frame by frame"]["mean"]["psnr"] > noisy + 3
    assert rows["atadenoise"]["mean"]["psnr"] > noisy
    assert rows["net"]["mean"] != rows["net, each frame anew"]["mean"]
    assert all(results["seconds_per_megapixel"][name] > 0 for name in rows)
    assert "sha256" in results["methods"]["net"]
    text = (data / "out/video.md").read_text()
    assert text.count("\n| ") == 5 and "s/MP" in text


@pytest.mark.parametrize("name", [entry.name for entry in video_filters.FILTERS])
def test_filters_keep_flat_frames_and_lessen_noise(name):
    if not video_filters.where(name):
        pytest.skip(f"neither ffmpeg nor PyAV has {name}")
    wanted = next(entry for entry in video_filters.FILTERS if entry.name == name)
    flat = np.full((12, 37, 51), 120, np.uint8)
    noise = np.random.default_rng(0).normal(0, 10, flat.shape)
    for setting in wanted.settings(10.0)[-1:]:
        made = video_filters.run_filter(flat, setting)
        assert made.shape == flat.shape and np.abs(made.astype(int) - 120).max() <= 1
        noisy = (flat + noise).round().clip(0, 255).astype(np.uint8)
        made = video_filters.run_filter(noisy, setting)
        assert made.astype(float).std() < 0.7 * noisy.std()
        if video_filters.where(name) == "ffmpeg" and name != "hqdn3d":  # both ways are one
            pytest.importorskip("av")
            np.testing.assert_array_equal(video_filters._by_pyav(noisy, setting), made)
