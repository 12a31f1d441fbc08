"""docs/inference.md: its snippets run, in order, in a folder with the files they name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denoise_ext import io
from denoise_ext._loader import native_error

PAGE = Path(__file__).resolve().parent.parent / "docs/inference.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
@pytest.mark.skipif(native_error() is not None, reason="native library missing")
def test_snippets(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    clean = np.linspace(60, 190, 141 * 48 * 3).reshape(141, 48, 3)
    noisy = clean + random.normal(0, 10, clean.shape)
    Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "photo.png")
    np.save(tmp_path / "scan.npy", (noisy[..., 0] * 16 - 1024).astype(np.int16))
    np.save(tmp_path / "depth.npy", (noisy[..., 0] / 60).astype(np.float32))
    np.save(tmp_path / "cells.npy", np.stack([(noisy[..., 0] * 257).astype(np.uint16)] * 5, -1))
    pages = (noisy[..., 0] * 257).astype(np.uint16)
    io.write_picture(tmp_path / "stack.tif", io.Picture((pages,) * 3, (0, 65535), "gray", "TIFF"))
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(snippets) == 13
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    sigma, estimated, tiles, _ = capsys.readouterr().out.split()
    assert float(sigma) == pytest.approx(10, abs=1) and (estimated, tiles) == ("True", "1")
    assert len(io.read_picture("stack_clean.tif").frames) == 3
    assert names["sigma"] == float(sigma)
    assert (names["clean"] != names["depth"]).any()
