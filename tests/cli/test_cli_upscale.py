"""``denoise-ext upscale``: files, folders, pipes, continued runs, errors."""

from __future__ import annotations

import io as streams
import sys

import numpy as np
import pytest
from command_line import (  # noqa: F401  (fixtures)
    HAVE_NATIVE,
    RGB,
    checkpoints,
    files,
    folder,
    json_lines,
    run,
)
from PIL import Image
from tiny_upscaler import upscaler_file

from denoise_ext import io
from denoise_ext.cli import main
from denoise_ext.models import create_model, save_model
from denoise_ext.restore import upscale

pytestmark = pytest.mark.skipif(not HAVE_NATIVE, reason="needs the native library")


@pytest.fixture
def model(folder):  # noqa: F811
    return str(upscaler_file(folder))


def test_one_file(folder, model, capsys):  # noqa: F811
    code, out, err = run(
        capsys, "upscale", "in/a.png", "-o", "a.png", "--model", model, "--sigma", "5"
    )
    assert (code, err) == (0, "")
    assert "1 image upscaled" in out and "2 times the size" in out
    assert np.array_equal(io.read_image("a.png"), upscale(RGB, 2, 5, model=model))


def test_a_folder_that_is_continued(folder, model, capsys):  # noqa: F811
    how = ["in", "-o", "out", "--recursive", "--model", model]
    code, out, _ = run(capsys, "upscale", *how)
    assert code == 0 and "3 images upscaled" in out
    assert files(folder / "out") == ["a.png", "b.png", "sub/c.png"]
    code, out, _ = run(capsys, "upscale", *how, "--resume")
    assert code == 0 and "3 done before" in out
    code, _, err = run(capsys, "upscale", *how, "--resume", "--sigma", "3")
    assert code == 3 and "other options" in err
    other = ["in", "-o", "out", "--recursive", "--model", str(upscaler_file(folder, 3))]
    code, _, err = run(capsys, "upscale", *other, "--resume")
    assert code == 3 and "other options" in err


def test_resolution_of_files(folder, model, capsys):  # noqa: F811
    Image.fromarray(RGB).save("in/s.jpg", dpi=(150, 300), exif=_exif(RGB.shape))
    Image.fromarray(RGB).save("in/t.tif", dpi=(100, 100))
    assert run(capsys, "upscale", "in/s.jpg", "in/t.tif", "-o", "o", "--model", model)[0] == 0
    with Image.open("o/s.jpg") as made:
        assert made.info["dpi"] == (300, 600)
        assert made.size == (2 * RGB.shape[1], 2 * RGB.shape[0])
        sizes = made.getexif().get_ifd(0x8769)
        assert (sizes[0xA002], sizes[0xA003]) == made.size
        assert made.getexif()[271] == "Maker"
    with Image.open("o/t.tif") as made:
        assert [round(float(n)) for n in made.info["dpi"]] == [200, 200]


def _exif(shape) -> Image.Exif:
    exif = Image.Exif()
    exif[271] = "Maker"
    sizes = exif.get_ifd(0x8769)
    sizes[0xA002], sizes[0xA003] = shape[1], shape[0]
    return exif


def test_pipe(folder, model, monkeypatch):  # noqa: F811
    data, out = streams.BytesIO(), streams.BytesIO()
    io.write_picture(data, io.picture_of(RGB), format="PNG")
    data.seek(0)
    monkeypatch.setattr(sys, "stdin", streams.TextIOWrapper(data))
    monkeypatch.setattr(sys, "stdout", streams.TextIOWrapper(out, write_through=True))
    assert main(["upscale", "-", "-o", "-", "--model", model, "-q", "--sigma", "0"]) == 0
    made = io.read_picture(streams.BytesIO(out.getvalue()))
    assert np.array_equal(made.frames[0], upscale(RGB, 2, 0, model=model))


def test_json_and_files_that_fail(folder, model, capsys):  # noqa: F811
    (folder / "in" / "x.png").write_bytes(b"\x89PNG")
    io.write_image("in/y.png", np.zeros((7, 9), np.uint8))
    code, out, err = run(capsys, "upscale", "in", "-o", "out", "--json", "--model", model)
    events = json_lines(out)
    assert code == 3 and "x.png" in err and "at least 8 x 8" in err
    assert events[-1]["written"] == 2 and events[-1]["failed"] == 2
    assert files(folder / "out") == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--scale", "1"], "scale"), (["--scale", "3"], "scale"), (["--scale", "0"], "--scale"),
        (["--scale", "x"], "--scale"), (["--sigma", "-1"], "--sigma"),
        (["--model", "dxnet_s_gray"], "dxnet_s_gray"), (["--model", "none.pth"], "none.pth"),
        (["--value-range", "5", "5"], "--value-range"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_error(folder, model, capsys, arguments, named):  # noqa: F811
    code, _, err = run(capsys, "upscale", "in", "-o", "out", "--model", model, *arguments)
    assert code == 2 and named in err and err.count("error") == 1
    assert not (folder / "out").exists()


def test_networks_of_another_kind_are_one_error(folder, model, capsys):  # noqa: F811
    save_model(create_model("ffdnet_color", width=8, depth=3), "denoiser.safetensors")
    for command, given, named in (
        (["upscale"], "denoiser.safetensors", "FFDNet"), (["upscale"], "dxnet_s", "DXNet"),
        (["denoise"], model, "restore.Upscaler"),
        (["denoise", "--sigma", "5"], model, "restore.Upscaler"),
        (["evaluate", "--sigma", "5"], model, "restore.Upscaler"),
    ):  # fmt: skip
        out = [] if command[0] == "evaluate" else ["-o", "out"]
        code, _, err = run(capsys, command[0], "in", *command[1:], *out, "--model", given)
        assert code == 2 and named in err and err.count("\n") == 1, (command, err)
    assert not (folder / "out").exists()


def test_results_that_are_too_large(folder, model, capsys):  # noqa: F811
    pixels = 4 * RGB.shape[0] * RGB.shape[1]
    how = ["in/a.png", "-o", "a.png", "--model", model]
    code, _, err = run(capsys, "upscale", *how, "--max-pixels", str(pixels - 1))
    assert code == 3 and str(pixels) in err and not (folder / "a.png").exists()
    assert run(capsys, "upscale", *how, "--max-pixels", str(pixels))[0] == 0


def test_formats_whose_header_has_the_old_size(folder, model, capsys):  # noqa: F811
    pytest.importorskip("nibabel")
    from medical_files import nifti

    (folder / "v.nii").write_bytes(nifti(np.arange(120, dtype=np.int16).reshape(12, 10)))
    code, _, err = run(capsys, "upscale", "v.nii", "-o", "w.nii", "--model", model)
    assert code == 3 and "NIFTI cannot hold a picture at another size" in err
    assert not (folder / "w.nii").exists()
    assert run(capsys, "upscale", "v.nii", "-o", "w.tif", "--model", model)[0] == 0
