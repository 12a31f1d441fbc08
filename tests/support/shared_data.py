"""Where the test images and published weights are; tests that need them skip without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


def data_folder() -> Path | None:
    """$DENOISE_EXT_DATA, else ``../shared/data`` beside the repository if it is there."""
    folder = Path(os.environ["DENOISE_EXT_DATA"]) if "DENOISE_EXT_DATA" in os.environ else _BESIDE
    return folder if folder.is_dir() else None


def needs(name: str) -> Path:
    """A file or folder of the data folder; skips the test, naming it, where it is absent."""
    folder = data_folder()
    path = None if folder is None else folder / name
    if path is None or not path.exists():
        pytest.skip(f"needs {name} in DENOISE_EXT_DATA")
    return path


def image_folder(name: str) -> list[Path]:
    """The images of a folder of the data folder, in order of their names."""
    return sorted(
        path for path in needs(name).iterdir() if path.suffix in {".bmp", ".jpg", ".png", ".tif"}
    )
