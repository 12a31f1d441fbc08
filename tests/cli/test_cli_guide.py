"""``--guide`` and ``--holes`` of ``denoise-ext denoise`` and ``upscale``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import GRAY, HAVE_NATIVE, RGB, files, folder, run  # noqa: F401  (fixtures)

from denoise_ext import denoise, io
from denoise_ext.models import create_model, save_model
from denoise_ext.restore import upscale

pytestmark = pytest.mark.skipif(not HAVE_NATIVE, reason="needs the native library")

SMALL = np.random.default_rng(5).integers(1, 256, (10, 15), dtype=np.uint8)
LARGE = np.random.default_rng(6).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def model(folder):  # noqa: F811
    torch.manual_seed(0)
    network = create_model("dxnet_s_guided", widths=[8, 16], blocks=[1, 1], guide_width=4)
    save_model(network.eval(), folder / "guided.safetensors", torch.float32, {})
    io.write_image(folder / "small.png", SMALL)
    io.write_image(folder / "large.png", LARGE)
    return str(folder / "guided.safetensors")


def test_denoise_with_a_guide(folder, model, capsys):  # noqa: F811
    common = ("denoise", "in/b.png", "--model", model, "--sigma", "9", "--guide")
    code, _, err = run(capsys, *common, "in/a.png", "-o", "out.png")
    assert (code, err) == (0, "")
    expected = denoise(GRAY, model, 9.0, guide=RGB)
    np.testing.assert_array_equal(io.read_image("out.png"), expected)
    code, _, err = run(capsys, *common, "large.png", "-o", "no.png")
    assert code != 0 and "guide must have the image's size (20, 31)" in err
    code, _, err = run(capsys, *common, "missing.png", "-o", "no.png")
    assert code == 2 and "guide: 'missing.png' does not exist" in err
    assert "no.png" not in files(folder)


def test_a_folder_with_one_guide_continues(folder, model, capsys):  # noqa: F811
    arguments = (
        "denoise", "in", "-o", "out", "--model", model, "--sigma", "9", "--resume", "--guide",
    )  # fmt: skip
    code, out, _ = run(capsys, *arguments, "in/a.png")
    assert code == 0 and "2 images denoised" in out
    _, out, _ = run(capsys, *arguments, "in/a.png")
    assert "2 already done" in out or "denoised" not in out
    io.write_image("other.png", RGB[::-1])  # another guide makes other results
    _, out, _ = run(capsys, *arguments, "other.png", "--overwrite")
    assert "2 images denoised" in out


def test_the_filter_is_a_model_too(folder, model, capsys):  # noqa: F811
    code, _, err = run(
        capsys, "denoise", "in/b.png", "-o", "out.png", "--model", "joint_bilateral", "--guide",
        "in/a.png",
    )  # fmt: skip
    assert (code, err) == (0, "")
    expected = denoise(GRAY, "joint_bilateral", guide=RGB)
    np.testing.assert_array_equal(io.read_image("out.png"), expected)


def test_upscale_with_a_guide(folder, model, capsys):  # noqa: F811
    common = ("upscale", "small.png", "--model", model, "--guide")
    code, out, err = run(capsys, *common, "large.png", "-o", "out.png", "--scale", "4")
    assert (code, err) == (0, "") and "4 times the size" in out
    expected = upscale(SMALL, model=model, guide=LARGE)
    np.testing.assert_array_equal(io.read_image("out.png"), expected)
    code, _, err = run(capsys, *common, "in/a.png", "-o", "no.png")
    assert code != 0 and "guide must have 2 to 16 times the image's 15 x 10 pixels" in err
    code, _, err = run(capsys, *common, "large.png", "-o", "no.png", "--scale", "2")
    assert code != 0 and "scale is 2" in err
    assert "no.png" not in files(folder)


@pytest.mark.parametrize("command", ["denoise", "upscale"])
def test_holes(folder, model, capsys, command):  # noqa: F811
    broken = SMALL.copy()
    broken[3:5, 6:9] = 0
    io.write_image("broken.png", broken)
    guide = "large.png" if command == "upscale" else "guide.png"
    io.write_image("guide.png", LARGE[::4, ::4])
    common = (
        command, "broken.png", "--model", model, "--sigma", "5", "--guide", guide, "--holes",
    )  # fmt: skip
    for holes in ("keep", "fill"):
        code, _, err = run(capsys, *common, holes, "-o", f"{holes}.png")
        assert (code, err) == (0, "")
    kept, full = (io.read_image(f"{holes}.png") for holes in ("keep", "fill"))
    lost = kept != full
    times = len(kept) // len(broken)
    assert lost.any() and (kept[lost] == 0).all()
    assert lost.sum() <= 6 * times**2
    code, _, err = run(capsys, command, "broken.png", "-o", "no.png", "--holes", "fill")
    assert code == 2 and "--holes fill needs --guide" in err


def test_a_model_that_does_not_fit_is_one_error(folder, model, capsys):  # noqa: F811
    how = ("denoise", "in", "-o", "out", "--recursive", "--sigma", "9", "--model")
    code, _, err = run(capsys, *how, model)
    assert code == 2 and "guide is required" in err
    code, _, err = run(capsys, *how, "dxnet_s", "--guide", "in/a.png")
    assert code == 2 and "guide: this model takes none" in err
    assert not (folder / "out").exists()
