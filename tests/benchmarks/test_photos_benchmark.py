"""benchmarks/photos.py on pictures made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import tiny

from denoise_ext.models import pretrained_info, save_model

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import photos


def picture(seed: int, side: int = 96) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(7 * x * (k + 1) + seed) * np.cos(9 * y) for k in range(3)]
    return (127 + 90 * np.stack(waves, axis=-1)).round().astype(np.uint8)


@pytest.fixture
def data(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for folder in ("test/Kodak24", "real/SIDD12", "real/PolyU100"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(2):
        Image.fromarray(picture(i)).save(tmp_path / f"test/Kodak24/{i}.png")
    for i in range(4):
        clean = picture(i)
        noisy = (clean + random.normal(0, 12, clean.shape)).round().clip(0, 255).astype(np.uint8)
        for array, sidd, polyu in ((noisy, "noisy", "real"), (clean, "gt", "mean")):
            Image.fromarray(array).save(tmp_path / f"real/SIDD12/{i}_{sidd}.png")
            Image.fromarray(array).save(tmp_path / f"real/PolyU100/{i}_{polyu}.JPG", quality=100)
    monkeypatch.setenv("DENOISE_EXT_DATA", str(tmp_path))
    return tmp_path


def test_every_set_with_every_method(data, capsys):
    save_model(tiny("dxnet_s_photo"), data / "blind.safetensors", torch.float32)
    model = str(data / "blind.safetensors")
    options = ["--sets", *photos.SETS, "--model", model, "--model", f"{model}@0"]
    assert photos.main([*options, "--output", str(data / "out")]) == 0
    results = json.loads((data / "out" / "photos.json").read_text())["sets"]
    assert set(results) == set(photos.SETS)
    for name, methods in results.items():
        assert {"input", "default", model, f"{model}@0"} <= set(methods), name
        assert ("oracle" in methods) == name.startswith("kodak_white")
        assert methods["default"]["worst_gain"] <= (
            methods["default"]["psnr"] - methods["input"]["psnr"] + 1e-9
        )
    assert results["polyu_first"]["input"]["images"] == 2
    noisy = results["kodak_white_25"]
    assert noisy["input"]["psnr"] == pytest.approx(20.17, abs=0.4)  # 20 log10(255 / 25), clipped
    assert noisy["oracle"]["psnr"] > noisy["input"]["psnr"] + 8
    assert noisy["input"]["detail"] > 10 > noisy["oracle"]["detail"]
    clean = results["kodak_clean"]["input"]
    assert (clean["psnr"], clean["ssim"], clean["detail"]) == pytest.approx((99.0, 1.0, 1.0))
    assert sum(noisy["default"]["kinds"].values()) == noisy["default"]["images"] == 2
    table = (data / "out" / "photos.md").read_text()
    assert table.endswith(printed := capsys.readouterr().out)
    assert len(printed.splitlines()) == 2 + sum(map(len, results.values()))
    assert str(pretrained_info("dxnet_s_photo").steps) in table.splitlines()[2]


def test_made_up_noise_has_the_strength_it_names(data):
    clean = torch.full((1, 3, 256, 256), 0.5)
    sites = photos.luma_only(clean, 0) - clean
    assert (sites[:, 0] == sites[:, 2]).all()
    assert sites.std().item() * 255 == pytest.approx(photos.MADE_UP, rel=0.02)
    for spoil in (photos.enlarged, photos.bayer):
        noise = spoil(clean, 0) - clean
        beside = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
        assert beside > 0.1  # white noise: 0.002
    assert photos.stored(clean, 0).shape == clean.shape


def test_energy_of_detail_is_that_above_half_of_nyquist():
    x = torch.arange(64.0)
    for cycles, expected in ((0.2, 0.0), (0.3, 1.0)):
        wave = torch.cos(2 * torch.pi * round(cycles * 64) / 64 * x).expand(1, 3, 64, 64)
        share = photos.detail_energy(wave) / (64**4 / 4)
        assert share == pytest.approx(expected, abs=1e-5)


def test_every_is_checked(capsys):
    with pytest.raises(SystemExit):
        photos.main(["--every", "0"])
    assert "--every must be >= 1, got 0" in capsys.readouterr().err
