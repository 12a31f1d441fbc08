"""The Python blocks of README.md and docs run, in order, in a folder with the files they name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from docs_blocks import blocks, run_python
from PIL import Image

from denoise_ext import io
from denoise_ext._loader import native_error

ROOT = Path(__file__).resolve().parents[2]
PAGE, PHOTOS = ROOT / "docs/inference.md", ROOT / "docs/photos.md"


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
    assert len(blocks(PAGE, "python")) == 14
    names = run_python(PAGE)
    for snippet in blocks(PHOTOS, "python"):
        exec(compile(snippet, str(PHOTOS), "exec"), {"array": noisy.astype(np.uint8)})
    first, treatment, found, profile, _ = capsys.readouterr().out.splitlines()
    sigma, estimated, tiles, _ = first.split()
    assert float(sigma) == pytest.approx(10, abs=1) and (estimated, tiles) == ("True", "1")
    assert re.fullmatch(r"white noise, sigma \d+\.\d: dxnet_s_color", treatment)
    assert found == profile == f"white {sigma}"
    assert len(io.read_picture("stack_clean.tif").frames) == 3
    assert names["sigma"] == pytest.approx(float(sigma), rel=0.1)
    assert (names["clean"] != names["depth"]).any()


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
@pytest.mark.skipif(native_error() is not None, reason="native library missing")
@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("README.md", "conv2d 3x3 3->16 + relu"),
        ("docs/accelerate.md", "conv2d 3x3 3->32 + batch norm + relu"),
        ("docs/operators.md", "conv_winograd4: chosen"),
    ],
)
def test_pages_that_need_no_files(page, printed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")
    run_python(ROOT / page)
    assert printed in capsys.readouterr().out


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_links_lead_somewhere():
    """Every relative link of every page names a file, and a heading that the file has."""
    pages = [p for p in ROOT.rglob("*.md") if not {".venv", "build"} & set(p.parts)]
    problems = []
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            file = (page.parent / name) if name else page
            if "://" in target or target.startswith("gallery/"):  # pictures that the site makes
                continue
            if not file.exists() or (anchor and anchor not in anchors(file)):
                problems.append(f"{page.relative_to(ROOT)}: {target}")
    assert problems == []


def anchors(page: Path) -> set[str]:
    """What a link to a heading of ``page`` may say after #."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
