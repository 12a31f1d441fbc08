"""The commands and Python blocks of docs/guided.md run, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from docs_blocks import run_commands, run_python

from denoise_ext import io
from denoise_ext._loader import native_error

PAGE = Path(__file__).resolve().parents[2] / "docs/guided.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    depth = rng.integers(600, 2500, (40, 48), dtype=np.uint16)
    depth[4:6, 7:9] = 0
    for name, pixels in (("photo", photo), ("depth", depth), ("small", depth[::4, ::4])):
        io.write_image(tmp_path / f"{name}.png", pixels)
        np.save(tmp_path / f"{name}.npy", pixels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(place):
    run_commands(PAGE)
    assert io.read_image(place / "large.png").shape == (40, 48)
    assert io.read_image(place / "filled.png")[4:6, 7:9].any()


def test_python(place):
    names = run_python(PAGE)
    assert names["clean"].shape == names["large"].shape == (40, 48)
    assert not names["kept"][4:6, 7:9].any()
