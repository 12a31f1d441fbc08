"""benchmarks/service.py and page.py: service and Denoiser give the same file, everything runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from denoise_ext._loader import native_error

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
pytestmark = [
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="measures the native library"),
    pytest.mark.slow,
]


@pytest.mark.rotates(turn=1)
def test_dry_run(tmp_path):
    output = tmp_path / "service.json"
    command = [sys.executable, BENCHMARKS / "service.py", "--dry-run", "--threads", "1"]
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # it compares the results before it times anything
    for name in ("Denoiser", "service, 1 client ", "service, 4 clients", "service, 16 clients"):
        assert name in done.stdout
    assert not output.exists()


@pytest.mark.rotates(turn=3)
def test_dry_run_of_the_page(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if not (os.environ.get("DENOISE_EXT_BROWSER") or any(map(shutil.which, names))):
        pytest.skip("needs a browser")
    output = tmp_path / "page.json"
    command = [sys.executable, BENCHMARKS / "page.py", "--dry-run", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "median" in line]
    assert len(rows) == 8 and all("level" in row or "strength" in row for row in rows)
    assert not output.exists()
