"""benchmarks/one_image.py: both contenders compute the same picture, and everything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from denoise_ext._loader import native_error

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = [
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the source tree"),
    pytest.mark.skipif(native_error() is not None, reason="measures the native library"),
]


@pytest.mark.rotates(turn=0)
def test_dry_run(tmp_path):
    output = tmp_path / "one_image.json"
    command = [sys.executable, BENCHMARKS / "one_image.py", "--dry-run", "--threads", "1"]
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # it compares the results before it times anything
    for name in ("denoise-ext denoise", "PyTorch script", "importing torch"):
        assert name in done.stdout
    assert not output.exists()
