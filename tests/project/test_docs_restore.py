"""The commands and Python blocks of docs/restore.md run, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from docs_blocks import run_commands, run_python

from denoise_ext import io
from denoise_ext._loader import native_error

PAGE = Path(__file__).resolve().parents[2] / "docs/restore.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    photo = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    io.write_image(tmp_path / "shaken.png", photo)
    (tmp_path / "scans").mkdir()
    io.write_image(tmp_path / "scans" / "a.png", photo)
    io.write_image(tmp_path / "psf.png", np.array([[1, 2, 1], [0, 9, 3], [0, 1, 0]], np.uint8))
    np.save(tmp_path / "shaken.npy", photo)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(place, capsys):
    run_commands(PAGE)
    assert "1 done before" in capsys.readouterr().out
    assert (place / "sharp.png").is_file() and (place / "sharp" / "a.png").is_file()


def test_python(place, capsys):
    names = run_python(PAGE)
    assert names["colour"].shape == (40, 48, 3)
    assert names["large"].shape == (1, 3, 48, 64)
    expected = names["blur"].kernel.numpy()
    assert names["kernel"] == pytest.approx(expected, abs=1e-3)
