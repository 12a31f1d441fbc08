"""The commands and Python blocks of docs/upscale.md run, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from docs_blocks import run_commands, run_python

from denoise_ext import io
from denoise_ext._loader import native_error

PAGE = Path(__file__).resolve().parents[2] / "docs/upscale.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    photo = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    io.write_image(tmp_path / "small.png", photo)
    (tmp_path / "scans").mkdir()
    io.write_image(tmp_path / "scans" / "a.png", photo)
    np.save(tmp_path / "small.npy", photo)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(place, capsys):
    run_commands(PAGE)
    assert "1 done before" in capsys.readouterr().out
    assert io.read_image(place / "large.png").shape == (80, 96, 3)


def test_python(place, capsys):
    names = run_python(PAGE)
    assert names["large"].shape == names["result"].image.shape == (80, 96, 3)
    assert names["half"].shape == (1, 3, 20, 24)
