"""The commands and Python blocks of docs/texture.md run, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from docs_blocks import run_commands, run_python

from denoise_ext import io
from denoise_ext._loader import native_error

PAGE = Path(__file__).resolve().parents[2] / "docs/texture.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    io.write_image(tmp_path / "noisy.png", pixels)
    np.save(tmp_path / "noisy.npy", pixels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(place):
    assert len(run_commands(PAGE)) == 2
    for name in ("natural.png", "between.png"):
        assert b"denoise_ext:texture" in io.read_picture(place / name).metadata.xmp


def test_python(place, capsys):
    names = run_python(PAGE)
    texture, measures = capsys.readouterr().out.splitlines()
    assert texture == "0.5"
    distance, energy = map(float, measures.split())
    assert distance > 0 and 0 < energy < 1
    assert names["drawn"].shape == (1, 1, 32, 32)
