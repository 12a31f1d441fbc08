"""The commands and Python blocks of docs/compression.md run, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from codecs_small import picture, sealed_file
from docs_blocks import run_commands, run_python

from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.io import codecs

PAGE = Path(__file__).resolve().parents[2] / "docs/compression.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(codecs, "_registered", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/a.png"):
        io.write_image(name, picture(40, 48))
    sealed_file(tmp_path / "my_codec.safetensors")
    return tmp_path


def test_commands(place, capsys):
    assert len(run_commands(PAGE)) >= 9
    assert capsys.readouterr().out.count("1 done before") == 2
    assert io.read_image(place / "photo_back.png").shape == (40, 48, 3)
    assert io.read_image(place / "back/a.tif").shape == (40, 48, 3)


def test_python(place):
    names = run_python(PAGE)
    assert io.read_picture("photo_small.webp").format == "WEBP"
    assert names["again"].shape == names["image"].shape and names["again"].dtype == np.uint8
    assert io.read_picture("photo_too.dxc").frames[0].shape == (40, 48, 3)
