"""What docs/formats.md, medical.md and video.md say: the table is true, the commands work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import HAVE_NATIVE
from docs_blocks import blocks, run_python
from medical_files import dicom, nifti
from video_files import make_video

from denoise_ext import io
from denoise_ext.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
RNG = np.random.default_rng(0)

pytestmark = pytest.mark.skipif(not HAVE_NATIVE, reason="the commands run on the native library")


def commands(page: Path) -> list[list[str]]:
    lines = "".join(blocks(page, "bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("denoise-ext")]


def test_the_table_of_formats_is_true():
    rows = {
        line.split("|")[1].strip(): line
        for line in (DOCS / "formats.md").read_text().splitlines() if line.startswith("| ")
    }  # fmt: skip
    for codec in io.CODECS:
        row = rows[codec.name]
        if codec.write is None:
            assert "read only" in row
            continue
        assert re.findall(r"`(\.\w[\w.]*)`", row.split("|")[2]) == list(codec.suffixes)
        dtypes = {name for names in codec.holds.values() for name in names}
        if codec.name != "NIFTI.GZ":  # "the same"
            assert set(re.findall(r"bool|u?int\d+|float\d+", row.split("|")[3])) == dtypes
        assert (row.split("|")[4].strip() == "1") == (not codec.many_frames)


@pytest.fixture
def material(tmp_path, monkeypatch):
    """The files the pages speak of, small."""
    monkeypatch.chdir(tmp_path)
    gray = RNG.integers(0, 255, (24, 32), dtype=np.uint8)
    io.write_image("photo.png", np.stack([gray] * 3, -1))
    for folder in ("scans", "study"):
        Path(folder).mkdir()
    stack = io.Picture((gray.astype(np.uint16) * 256,) * 2, (0, 65535), "gray", "TIFF")
    io.write_picture("scans/stack.tif", stack)
    scan = dicom(gray.astype(np.int16) * 8)
    for name in ("ct.dcm", "study/1.dcm", "study/2.dcm"):
        Path(name).write_bytes(scan)
    np.save("volume.npy", RNG.integers(-1024, 3072, (24, 32, 6)).astype(np.int16))
    Path("brain.nii").write_bytes(nifti(RNG.integers(0, 900, (24, 20, 2)).astype(np.int16)))
    io.write_picture("brain.nii.gz", io.read_picture("brain.nii"))
    make_video("night.mp4", codec="libx264", frames=2, size=(32, 24))
    return tmp_path


@pytest.mark.parametrize("page", ["formats.md", "medical.md", "video.md"])
def test_the_commands_and_programs_work(page, material, capsys):
    found = commands(DOCS / page)
    assert len(found) >= 3
    for command in found:
        if "-" in command:  # the pipe: test_cli has it
            continue
        assert main([*command[1:], "--quiet"]) == 0, (command, capsys.readouterr().err)
        target = Path(command[command.index("-o") + 1] if "-o" in command else command[3])
        assert target.is_dir() or target.stat().st_size > 0
    run_python(DOCS / page)
    capsys.readouterr()
