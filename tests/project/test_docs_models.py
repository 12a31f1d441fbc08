"""The commands of README.md on files, and what docs/models.md shows, work as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from docs_blocks import blocks
from networks import keys_under, published_chain
from published_u_nets import drunet_state
from video_files import make_video

from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.cli import main

ROOT = Path(__file__).resolve().parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs/models.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
]


def lines(page: Path) -> list[str]:
    """Those that need no trained network; tests of training and of own families run the others."""
    found = "".join(blocks(page, "bash")).splitlines()
    others = re.compile(r"\\$|\||my_camera|my_net|^denoise-ext (train|finetune)")
    return [line for line in found if line.startswith("denoise-ext") and not others.search(line)]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    random = np.random.default_rng(0)
    for name in ("noisy.png", "scans/a.png", "scans/b/c.png", "photos/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        io.write_image(tmp_path / name, random.integers(0, 256, (48, 40, 3), dtype=np.uint8))
    for name in ("noisy", "clean"):
        (tmp_path / "my_pairs" / name).mkdir(parents=True)
        picture = random.integers(0, 256, (48, 40, 3), dtype=np.uint8)
        io.write_image(tmp_path / "my_pairs" / name / "a.png", picture)
    (tmp_path / "my_images").symlink_to("photos")
    torch.save(keys_under("model", published_chain(1, 1, 3, 8)), tmp_path / "dncnn_25.pth")
    torch.save(drunet_state(4, 3, [8, 16], 1), tmp_path / "drunet_color.pth")
    make_video(tmp_path / "film.mp4", codec="libx264", frames=2, size=(48, 40))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [README, PAGE], ids=["README", "models"])
def test_commands(page, place, capsys):
    pytest.importorskip("onnxruntime")
    found = lines(page)
    assert len(found) >= 3
    for line in found:
        Path("clean.png").unlink(missing_ok=True)  # several commands write it
        assert main(shlex.split(line, comments=True)[1:]) == 0, (line, capsys.readouterr().err)


def test_python_blocks(place):
    found = blocks(PAGE, "python")
    own = [block for block in found if "@register_model" not in block]
    assert len(own) == len(found) - 1 == 3  # the other one: test_own_families
    names = {"x": torch.rand(1, 1, 33, 40)}
    for block in own:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["y"].shape == (1, 1, 33, 40)
    assert names["outputs"]["image"].shape == (1, 5, 1, 120, 160)
