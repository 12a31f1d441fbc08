"""What the tests of the command line share: a folder of images, tiny checkpoints, a way to run."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.cli import main
from denoise_ext.models import create_model, save_model

HAVE_NATIVE = native_error() is None
BACKEND = ["--backend", "native" if HAVE_NATIVE else "torch"]
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (20, 31), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny networks as files: "gray", "colour" (both need sigma), "blind" (gray)."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    options = {"width": 4, "depth": 2}
    models = {
        "gray": create_model("ffdnet_gray", predicts="noise", **options),
        "colour": create_model("ffdnet_color", predicts="noise", **options),
        "blind": create_model("dncnn_gray_blind", **options),
    }
    paths = {}
    for name, model in models.items():
        paths[name] = str(folder / f"{name}.safetensors")
        save_model(model.eval(), paths[name])
    return paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with in/a.png (RGB), in/b.png (gray), in/sub/c.png (RGB)."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    io.write_image(tmp_path / "in" / "a.png", RGB)
    io.write_image(tmp_path / "in" / "b.png", GRAY)
    io.write_image(tmp_path / "in" / "sub" / "c.png", RGB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DENOISE_EXT_DEBUG", raising=False)
    return tmp_path


def files(folder: Path) -> list[str]:
    """All but the manifests of batches."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.parent.name != ".denoise-ext")
    return sorted(str(p.relative_to(folder)) for p in found)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return code, captured.out, captured.err


def denoise(capsys, *arguments: str) -> tuple[int, str, str]:
    return run(capsys, "denoise", *arguments, *BACKEND)


def json_lines(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def bomb() -> bytes:
    """A PNG of a few bytes that states 60000 x 60000 RGB pixels (10.8 GB)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")
