"""benchmarks/video.py on clips made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recurrent import network, scene

from denoise_ext.io.video import read_video
from denoise_ext.models import save_model

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import video
import video_filters
import video_noise


def film(seed: int, tag: str) -> bytes:
    """A moving texture; in colour (tag 444) its chroma moves with it."""
    clean = scene(12, seed=seed, size=(50, 62), sigma=0.0)
    luma = (clean * 255).round().byte().numpy()
    frames = np.concatenate([luma, 64 + luma // 2, 192 - luma // 2], 1) if tag == "444" else luma
    header = f"YUV4MPEG2 W62 H50 F25:1 C{tag}\n".encode()
    return header + b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)


@pytest.fixture
def data(tmp_path, monkeypatch):
    pytest.importorskip("av")
    for folder, seeds in (("test", (0, 1)), ("train", (2,))):
        (tmp_path / "video/clips" / folder).mkdir(parents=True)
        for seed in seeds:
            (tmp_path / "video/clips" / folder / f"{seed}.y4m").write_bytes(film(seed, "mono"))
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
    rows = results["figures"]["white noise, sigma 20"]["rows"]
    assert list(rows) == [
        "noisy", "net", "net, live", "net, each frame anew", "ffdnet_gray_small, frame by frame",
        "atadenoise",
    ]  # fmt: skip
    noisy = 20 * np.log10(255 / 20)
    # clipping takes noise away near black and white alone
    assert noisy < rows["noisy"]["mean"]["psnr"] < noisy + 0.3
    assert rows["ffdnet_gray_small, frame by frame"]["mean"]["psnr"] > noisy + 3
    assert rows["atadenoise"]["mean"]["psnr"] > noisy
    names = ("net", "net, live", "net, each frame anew")
    assert len({rows[name]["mean"]["psnr"] for name in names}) == 3
    assert all(results["seconds_per_megapixel"][name] > 0 for name in rows)
    assert "sha256" in results["methods"]["net"]
    text = (data / "out/video.md").read_text()
    assert text.count("\n| ") == 7 and "s/MP" in text


@pytest.mark.rotates(turn=1)
def test_colour(data):
    for seed in (0, 1):
        (data / f"video/clips/test/{seed}.y4m").write_bytes(film(seed, "444"))
    save_model(network(3), data / "net.safetensors", torch.float32)
    arguments = ["--color", "--weights", str(data / "net.safetensors"), "--sigma", "20"]
    arguments += ["--frames", "10", "--crop", "48", "56", "--output", str(data / "out")]
    assert video.main(arguments) == 0
    results = json.loads((data / "out/video_color.json").read_text())
    kinds = ["white noise, sigma 20", "noise of cameras", "noise of cameras, then H.264"]
    assert list(results["figures"]) == kinds
    assert results["pixels"] == "RGB of the middle 56 x 48 pixels"
    white, photo, stored = (results["figures"][kind]["rows"] for kind in kinds)
    assert list(white) == [
        "noisy", "net", "net, live", "net, each frame anew", "dxnet_s_photo, frame by frame",
        "dxnet_s_color, frame by frame",
    ]  # fmt: skip
    given = {row: white[row]["mean"]["psnr"] for row in white}
    assert given["dxnet_s_color, frame by frame"] > given["noisy"] + 3
    assert photo["dxnet_s_photo, frame by frame"]["mean"]["psnr"] > photo["noisy"]["mean"]["psnr"]
    assert photo["noisy"] != stored["noisy"] and photo["net"] != photo["net, each frame anew"]
    text = (data / "out/video_color.md").read_text()
    assert text.count("No level is given. The worst gain is over dxnet_s_photo") == 2
    gain, clip = video.worst_gain(photo["net"], photo["dxnet_s_photo, frame by frame"])
    assert f"{gain:+.2f} ({clip})" in text and clip in ("0", "1")


def test_rgb_is_that_of_the_film(data):
    (data / "a.y4m").write_bytes(film(3, "444"))
    with read_video(data / "a.y4m") as clip:
        wanted = next(iter(clip)).picture()
    got = video.clip_of(data / "a.y4m", 4, 3)
    assert got.shape == (4, 3, 50, 62)
    np.testing.assert_array_equal(got[0].permute(1, 2, 0).numpy(), wanted.clip(0, 1))
    (data / "b.y4m").write_bytes(film(3, "mono"))
    middle = video.cropped(got, 20, 90)
    assert torch.equal(middle, got[:, :, 15:35])
    gray = video.clip_of(data / "b.y4m", 4, 3)
    assert torch.equal(gray, video.clip_of(data / "b.y4m", 4, 1).expand(-1, 3, -1, -1))


def test_noise_of_cameras_is_of_one_camera_and_independent_in_time(data):
    clean = torch.full((6, 3, 48, 48), 0.5)
    plain, stored = video_noise.cameras("rival")
    spoiled = plain.add(clean, 1)
    assert torch.equal(plain.add(clean, 1), spoiled)
    assert not torch.equal(plain.add(clean, 2), spoiled)
    noise = (spoiled - spoiled.mean(0)).flatten(1).numpy()
    # of numbers less their mean over six frames
    correlation = np.corrcoef(noise)[np.triu_indices(6, 1)]
    assert np.abs(correlation + 1 / 5).max() < 0.2
    assert noise.std(1).max() < 1.35 * noise.std(1).min()
    assert not torch.equal(stored.add(clean, 1), spoiled)
    assert plain.sigma is None and plain.rival == "rival"


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
