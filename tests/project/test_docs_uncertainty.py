"""The commands and Python blocks of docs/uncertainty.md run, in order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from docs_blocks import run_commands, run_python

from denoise_ext import io
from denoise_ext._loader import native_error

PAGE = Path(__file__).resolve().parents[2] / "docs/uncertainty.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
@pytest.mark.skipif(native_error() is not None, reason="needs the native library")
def test_snippets(tmp_path, monkeypatch, capsys):
    y, x = np.mgrid[0:96, 0:96] / 96
    clean = 0.5 + 0.3 * np.sin(6 * x) * np.cos(5 * y)
    noise = np.random.default_rng(0).normal(0, 25 / 255, clean.shape)
    np.save(tmp_path / "noisy.npy", (clean + noise).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    names = run_python(PAGE)
    stated, shape = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+\.\d\d dB, give or take \d\.\d\d", stated)
    assert shape.startswith("(96, 96)") and names["unsure"].shape == (96, 96)


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
@pytest.mark.skipif(native_error() is not None, reason="needs the native library")
def test_commands(tmp_path, monkeypatch, capsys):
    y, x = np.mgrid[0:90, 0:90] / 90
    clean = 127 + 70 * np.sin(6 * x) * np.cos(5 * y)
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    io.write_image(tmp_path / "noisy.png", (clean + noise).clip(0, 255).round().astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    assert len(run_commands(PAGE)) == 2
    assert "64 x 64" in (tmp_path / "part.html").read_text()
    assert "{{" not in (tmp_path / "report.html").read_text()
