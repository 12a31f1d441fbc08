"""The command line: evaluate, models, demo, and what denoise says at the end."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from command_line import BACKEND, GRAY, HAVE_NATIVE, RGB, denoise, files, run
from PIL import Image

from denoise_ext import io
from denoise_ext.cli import main
from denoise_ext.models import list_models
from denoise_ext.ops._library import kernel_devices
from denoise_ext.runtime import session

MODELS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures


def test_evaluate_prints_protocol_and_writes_json(folder, checkpoints, capsys):
    arguments = ["in", "--sigma", "15", "50", "--model", checkpoints["gray"], "--seed", "3"]
    arguments += ["--crop", "2", "--json", "figures.json", "--per-image", *BACKEND]
    code, out, err = run(capsys, "evaluate", *arguments)
    assert (code, err) == (0, "")
    for fact in ("seed 3", "not clipped", "rounded", "border left out: 2", "average of 2", "a.png"):
        assert fact in out
    document = json.loads((folder / "figures.json").read_text())
    assert document["protocol"]["seed"] == 3 and document["protocol"]["crop"] == 2
    assert [(i["file"], i["sigma"]) for i in document["images"]] == [
        ("in/a.png", 15), ("in/a.png", 50), ("in/b.png", 15), ("in/b.png", 50)
    ]  # fmt: skip
    for average in document["averages"]:
        per_image = [i for i in document["images"] if i["sigma"] == average["sigma"]]
        for key in ("psnr", "noisy_psnr", "ssim", "noisy_ssim"):
            assert average[key] == pytest.approx(sum(i[key] for i in per_image) / 2)
        # 20 log10(255 / sigma) for the noise alone
        theory = 20 * np.log10(255 / average["sigma"])
        assert average["noisy_psnr"] == pytest.approx(theory, abs=0.6)
    code, _, err = run(capsys, "evaluate", *arguments)
    assert code == 2 and "figures.json" in err and "exists" in err


def test_evaluate_opens_its_network_once(folder, checkpoints, capsys, monkeypatch):
    opened, measured = [], []
    opens, measures = session.Session.__init__, session.bytes_per_pixel

    def opening(self, *arguments, **options):
        opened.append(self)
        opens(self, *arguments, **options)

    def measuring(network, *how):
        measured.append(network)
        return measures(network, *how)

    monkeypatch.setattr(session.Session, "__init__", opening)
    monkeypatch.setattr(session, "bytes_per_pixel", measuring)
    arguments = ["in", "--recursive", "--sigma", "15", "25", "--model", checkpoints["gray"]]
    code, out, _ = run(capsys, "evaluate", *arguments, *BACKEND)
    assert code == 0 and "average of 3" in out
    assert len(opened) == 1 and len(measured) <= 1


@pytest.mark.skipif(not HAVE_NATIVE, reason="the documented commands run native kernels")
def test_evaluate_as_documented(folder, capsys):
    if not MODELS_PAGE.is_file():
        pytest.skip("needs the source tree")
    (folder / "photos").mkdir()
    io.write_image(folder / "photos" / "a.png", RGB)
    lines = MODELS_PAGE.read_text().splitlines()
    documented = [line for line in lines if line.startswith("denoise-ext evaluate photos")]
    commands = [shlex.split(line, comments=True)[1:] for line in documented]
    printed = [run(capsys, *command)[1] for command in commands]
    assert [("dxnet_s_color" in out, "ffdnet_color_small" in out) for out in printed] == [
        (True, False), (False, True)
    ]  # fmt: skip


def test_evaluate_lists_failures(folder, checkpoints, capsys):
    (folder / "in" / "small.png").write_bytes(b"")
    io.write_image(folder / "in" / "tiny.png", GRAY[:5, :5])
    code, out, err = run(
        capsys, "evaluate", "in", "--sigma", "25", "--model", checkpoints["gray"], *BACKEND
    )
    assert code == 3
    assert "average of 2" in out
    assert "2 of 4 files failed" in err and "small.png" in err
    assert "tiny.png: 5 x 5 pixels are left to measure; SSIM needs 11 x 11" in err


def test_evaluate_of_equal_images_is_valid_json(folder, checkpoints, capsys):
    arguments = ["in/b.png", "--sigma", "0", "--model", checkpoints["gray"], "--json", "f.json"]
    assert run(capsys, "evaluate", *arguments, *BACKEND)[0] == 0
    document = json.loads((folder / "f.json").read_text(), parse_constant=pytest.fail)
    assert document["images"][0]["noisy_psnr"] is None


def test_models_lists_every_model(capsys):
    code, out, _ = run(capsys, "models")
    assert code == 0
    assert all(name in out for name in list_models())
    code, out, _ = run(capsys, "models", "ffdnet*", "--json")
    facts = json.loads(out)
    assert [m["name"] for m in facts] == list_models("ffdnet*")
    assert all(m["parameters"] > 0 and m["needs_sigma"] for m in facts)
    gray = next(m for m in facts if m["name"] == "ffdnet_gray")
    # 15 layers of 3x3 at half the resolution
    assert (gray["receptive_field"], gray["radius"], gray["stride"]) == (62, 31, 2)
    products = 9 * (5 * 64 + 13 * 64 * 64 + 64 * 4) / 4
    assert gray["gflop_per_megapixel"] == pytest.approx(2 * products / 1e3, abs=1e-3)
    code, out, _ = run(capsys, "models", "nafnet_gray", "--json")
    (naf,) = json.loads(out)
    assert naf["receptive_field"] is None and len(naf["global_operations"]) == 36
    code, _, err = run(capsys, "models", "nothing*")
    assert code == 2 and "nothing*" in err


def test_models_shows_what_is_known_of_weights(monkeypatch, capsys):
    from denoise_ext.models import Pretrained
    from denoise_ext.models import registry as _registry

    weights = Pretrained(
        file="made_up.safetensors", sha256="0" * 64, config={}, recipe="recipe.toml",
        training_data="made-up set", noise="Gaussian, sigma 0 to 55", steps=7,
        licence="Apache-2.0", protocol="seed 0, not clipped",
        psnr={"BSD68 sigma 25": 29.123, "BSD68 sigma 50": 26.2, "Set12 sigma 9": 40.0},
    )  # fmt: skip
    monkeypatch.setitem(_registry._pretrained, "ffdnet_gray", weights)
    code, out, _ = run(capsys, "models", "ffdnet_gray", "--trained")
    assert code == 0
    for fact in (
        "sigma 0 to 55", "BSD68 25/50: 29.12 / 26.20", "Set12 9: 40.00", "Apache-2.0",
        "seed 0, not clipped", "ffdnet_gray (recipe.toml, 7 steps)", "made-up set",
    ):  # fmt: skip
        assert fact in out
    code, out, _ = run(capsys, "models", "ffdnet_gray", "--json")
    (facts,) = json.loads(out)
    assert facts["trained"] and facts["steps"] == 7 and facts["bytes"] is None


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_shipped_models_clean_a_piece_of_the_photograph(folder, capsys, mode):
    from denoise_ext import metrics
    from denoise_ext.cli import demo

    piece = (slice(64, 256), slice(256, 448))
    images = (demo.read_photograph(), demo.add_noise(demo.read_photograph()))
    clean, noisy = (np.array(Image.fromarray(x[piece]).convert(mode)) for x in images)
    io.write_image("noisy.png", noisy)
    # a gray value is 0.299 R + 0.587 G + 0.114 B, so its noise is 25 times the root of the squares
    sigma = 25 if mode == "RGB" else 25 * np.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    assert denoise(capsys, "noisy.png", "-o", "clean.png", "--sigma", f"{sigma}")[0] == 0

    def psnr(image):
        return float(
            metrics.psnr(torch.from_numpy(image)[None], torch.from_numpy(clean)[None], 255)
        )

    assert psnr(io.read_image("clean.png")) > psnr(noisy) + 7


def test_a_camera_s_noise_escapes_the_estimate(folder, checkpoints, capsys):
    hint = "below 3 for 2 images, where it does not show a camera's own noise; if you see grain"
    smooth = np.linspace(60, 180, 64 * 48).reshape(48, 64)
    for name, noise in (("smooth.jpg", 0), ("noisy.jpg", 25), ("smooth.png", 0)):
        pixels = smooth + noise * np.random.default_rng(0).normal(size=smooth.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, quality=95)
    command = ["denoise", "smooth.jpg", "noisy.jpg", "smooth.png", "--model", checkpoints["gray"]]
    assert main([*command, "-o", "out"]) == 0
    assert hint in capsys.readouterr().out
    assert main([*command, "-o", "told", "--sigma", "5"]) == 0
    assert "if you see grain" not in capsys.readouterr().out


def test_file_names_are_not_markup(folder, checkpoints, capsys):
    io.write_image("[bold]x.png", GRAY)
    code, out, _ = run(
        capsys, "evaluate", "[bold]x.png", "--sigma", "5", "--model", checkpoints["gray"], *BACKEND
    )
    assert code == 0 and "[bold]x.png" in out


needs_filter = pytest.mark.skipif(
    HAVE_NATIVE and "cpu" not in kernel_devices("bilateral_blur"),
    reason="the native library has no bilateral_blur",
)


@needs_filter
def test_demo(folder, checkpoints, capsys):
    arguments = ["demo", "--model", checkpoints["colour"], "--repeats", "1", "-o", "d", *BACKEND]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    for fact in ("kodim21.png", "sigma 25", "bilateral filter", "before_after.png", "PSNR"):
        assert fact in out
    if HAVE_NATIVE:
        assert "plain PyTorch takes" in out and "interleaved" in out
    assert files(folder / "d") == [
        "before_after.png", "bilateral.png", "denoised.png", "noisy.png"
    ]  # fmt: skip
    assert io.read_image("d/noisy.png").shape == (512, 768, 3)
    picture = io.read_image("d/before_after.png")
    assert picture.shape[1] > 1500 and picture.ndim == 3
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "exists" in err


def test_demo_filter_gains_what_is_claimed():
    """Noise of a known level, and parameters that make the filter worth showing."""
    from denoise_ext import metrics
    from denoise_ext.cli import demo

    clean = demo.read_photograph()
    noisy = demo.add_noise(clean)
    piece = (slice(64, 320), slice(256, 512))

    def psnr(image):
        a, b = (torch.from_numpy(x[piece].copy()).permute(2, 0, 1)[None] for x in (image, clean))
        return float(metrics.psnr(a, b, 255.0)[0])

    assert psnr(noisy) == pytest.approx(20 * np.log10(255 / 25), abs=0.4)
    filtered = np.zeros_like(clean)
    filtered[piece] = demo.filter_bilateral(np.ascontiguousarray(noisy[piece]), "torch")
    assert psnr(filtered) > psnr(noisy) + 6
