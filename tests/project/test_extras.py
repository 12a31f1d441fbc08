"""Optional packages: a missing one is one line that says which extra brings it, and it does."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from medical_files import dicom, nifti

from denoise_ext import io

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def as_dicom() -> bytes:
    pytest.importorskip("pydicom")
    return dicom(np.zeros((9, 9), np.int16))


def as_nifti() -> bytes:
    return nifti(np.zeros((9, 9, 2), np.int16))


def as_exr() -> bytes:
    return b"\x76\x2f\x31\x01" + bytes(99)


def as_wide_png() -> bytes:
    io.write_picture("x.png", io.picture_of(np.zeros((9, 9, 3), np.uint16)))
    return Path("x.png").read_bytes()


# missing module: (file, what makes it, command, code, extra)
CASES = {
    "pydicom": ("a.dcm", as_dicom, ["denoise", "a.dcm", "-o", "out.dcm"], 3, "medical"),
    "nibabel": ("a.nii", as_nifti, ["denoise", "a.nii", "-o", "out.nii"], 3, "medical"),
    "OpenImageIO": ("a.exr", as_exr, ["denoise", "a.exr", "-o", "out.exr"], 3, "io"),
    "OpenImageIO ": ("a.png", as_wide_png, ["denoise", "a.png", "-o", "out.png"], 3, "io"),
    "rawpy": ("a.dng", lambda: b"II*\0" + bytes(99), ["denoise", "a.dng", "-o", "o.png"], 3, "raw"),
    "av": ("a.mkv", lambda: b"x", ["video", "a.mkv", "out.mkv"], 2, "video"),
    "starlette": ("a", bytes, ["serve", "--port", "0"], 2, "web"),
    "uvicorn": ("a", bytes, ["serve", "--port", "0"], 2, "web"),
    "ray": ("a.bmp", lambda: b"x", ["denoise", "a.bmp", "-o", "o/", "--engine", "ray"], 1, "ray"),
    "fsspec": ("a", bytes, ["denoise", "s3://b/a", "-o", "s3://b/o", "--engine", "ray"], 1, "ray"),
}
BROUGHT = {"OpenImageIO": "OpenImageIO", "fsspec": "ray[data]", "ray": "ray[data]"}


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys, case):
    name, content, command, expected, extra = CASES[case]
    module = case.strip()
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content())
    before = sorted(Path().iterdir())
    for loaded in [module, *(m for m in sys.modules if m.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, loaded, None)  # importing it fails
    for loaded in [m for m in sys.modules if m.startswith("denoise_ext.service")]:
        monkeypatch.delitem(sys.modules, loaded)  # it would not be imported again
    code, out, err = run(capsys, *command)
    assert (code, out) == (expected, "")
    last = err.splitlines()[-1]
    assert last.endswith(f"pip install denoise-ext[{extra}]"), err
    assert len(err.splitlines()) == (2 if code == 3 else 1)
    assert sorted(Path().iterdir()) == before
    if PROJECT.is_file():
        extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
        packages = [re.split(r"[<>=]", line)[0] for line in extras[extra]]
        assert BROUGHT.get(module, module) in packages
