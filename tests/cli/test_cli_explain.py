"""`denoise-ext explain`: a report of a file, and files that get none."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import run

from denoise_ext import io
from denoise_ext._loader import native_error

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
QUICK = ["--sigma", "20", "--probes", "1", "--samples", "0"]


@pytest.fixture
def file(tmp_path):
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :80] / 60
    clean = 128 + 60 * np.sin(6 * rows)[..., None] * np.cos(4 * columns)[..., None]
    image = (clean + random.normal(0, 20, (60, 80, 3))).clip(0, 255).round().astype(np.uint8)
    io.write_image(tmp_path / "wave.png", image)
    return tmp_path / "wave.png"


def test_a_report_of_a_part(file, tmp_path, capsys):
    target = tmp_path / "report.html"
    code, out, err = run(
        capsys, "explain", str(file), "-o", str(target), "--part", "10,5,64,48", *QUICK
    )
    assert code == 0, err
    assert "expected PSNR: " in out and str(target) in out and "filters" in err
    page = target.read_text()
    assert "wave.png" in page and "64 x 48" in page and str(tmp_path) not in page
    code, _, err = run(capsys, "explain", str(file), "-o", str(target), *QUICK)
    assert code != 0 and "exists" in err and target.read_text() == page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--part", "1,2,3"], ["--part", "1,2,3"]),
        (["--part", "0,0,0,4"], ["--part", "0,0,0,4"]),
        (["--part", "70,0,20,20"], ["--part", "80 x 60"]),
        (["--probes", "-1"], ["--probes", "-1"]),
        (["--model", "dnxet_s"], ["dnxet_s", "dxnet_s"]),
    ],
)
def test_bad_arguments(file, tmp_path, capsys, arguments, words):
    target = tmp_path / "report.html"
    code, out, err = run(capsys, "explain", str(file), "-o", str(target), *QUICK, *arguments)
    assert code != 0 and out == "" and not target.exists()
    assert all(word in err for word in words), err


def test_files_that_are_no_single_image(tmp_path, capsys):
    pages = (np.zeros((40, 40), np.uint8), np.ones((40, 40), np.uint8))
    io.write_picture(tmp_path / "two.tif", io.Picture(pages, (0, 255), "gray", "TIFF"))
    (tmp_path / "text.png").write_text("no image")
    for name, word in (("two.tif", "2 frames"), ("text.png", "text.png"), ("none.png", "none.png")):
        target = tmp_path / "report.html"
        code, _, err = run(capsys, "explain", str(tmp_path / name), "-o", str(target))
        assert code != 0 and word in err and len(err.splitlines()) == 1, err
        assert not target.exists()
