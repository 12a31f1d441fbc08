"""benchmarks/upscaling.py on pictures made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_upscaler import upscaler_file

from denoise_ext._loader import native_error

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import upscaling

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")


@pytest.fixture
def data(tmp_path, monkeypatch):
    for folder in upscaling.SETS.values():
        (tmp_path / folder).mkdir(parents=True)
        rng = np.random.default_rng(0)
        for index in range(2):
            pixels = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
            Image.fromarray(pixels if index else pixels[..., 0]).save(
                tmp_path / folder / f"{index}.png"
            )
    monkeypatch.setenv("DENOISE_EXT_DATA", str(tmp_path))
    return tmp_path


def test_quality(data, tmp_path, capsys):
    model = str(upscaler_file(tmp_path))
    how = ["--model", model, "--sets", "Set5", "B100", "--output", str(tmp_path / "out")]
    assert upscaling.main(how) == 0
    facts = json.loads((tmp_path / "out/upscaling_x2.json").read_text())
    assert [(row["set"], row["sigma"]) for row in facts["quality"]] == [
        ("Set5", 0.0), ("Set5", 15.0), ("B100", 0.0), ("B100", 15.0),
    ]  # fmt: skip
    clean, noisy = (row["figures"] for row in facts["quality"][:2])
    assert set(clean) == {"bicubic", "model"} and "first denoised" in noisy
    assert clean["bicubic"]["psnr"] > noisy["bicubic"]["psnr"]
    text = (tmp_path / "out/upscaling_x2.md").read_text()
    assert f"{clean['bicubic']['psnr']:.2f}" in text and text in capsys.readouterr().out
    assert f"({noisy['first denoised']['reduced']:.2f})" in text


def test_what_is_left_of_the_noise():
    clean = torch.from_numpy(np.random.default_rng(0).random((1, 3, 24, 36), np.float32) / 2 + 0.25)
    checks = torch.ones(12, 18)
    checks[::2, ::2] = checks[1::2, 1::2] = -1
    # each pixel of the small image, in 2 x 2 of the large one: only that survives the reduction
    error = torch.kron(checks, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))[None, None] * 20 / 255
    found = upscaling.figures(clean + error, clean, 2)
    assert found["psnr"] < 25 and found["reduced"] > found["psnr"] + 15
    found = upscaling.figures(clean + 20 / 255, clean, 2)
    assert found["reduced"] == pytest.approx(found["psnr"], abs=0.2)


def test_times(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(upscaling, "SIZE", (64, 96))
    monkeypatch.setattr(
        upscaling.competitors, "torch_compiled", lambda *_: upscaling.competitors.need("nothing")
    )
    model = str(upscaler_file(tmp_path))
    how = ["--model", model, "--time", "--seconds", "0", "--output", str(tmp_path)]
    assert upscaling.main(how) == 0
    found = json.loads((tmp_path / "upscaling_times.json").read_text())["times"]
    assert found["denoise_ext"]["seconds"] > 0 and "torch channels_last" in found
    assert "nothing is not installed" in capsys.readouterr().err


def test_what_enlarges_nothing_is_refused(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        upscaling.main(["--model", "dxnet_s_color", "--output", str(tmp_path)])
    assert "dxnet_s_color" in capsys.readouterr().err
