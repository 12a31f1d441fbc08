"""benchmarks/large_images.py, and the memory that a large image takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from denoise_ext._loader import native_error

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/large_images.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.skipif(native_error() is not None, reason="native library missing")
@pytest.mark.rotates(turn=0, turns=2)
def test_memory_is_bounded(tmp_path):
    limit = 32 << 20
    command = [sys.executable, str(SCRIPT), "--model", "tiny", "--max-memory", str(limit)]
    sizes = ["--sizes", "1", "8", "--output", str(tmp_path)]
    subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)
    small, large = json.loads((tmp_path / "large_images_tiny.json").read_text())["rows"]
    assert 1 < small["tiles"] < 8 < large["tiles"]
    # what a first call in tiles takes besides (torch imports its compiler to find the geometry)
    # is in both; the whole image would take sixteen times the limit
    more = large["peak_above_image_mib"] - small["peak_above_image_mib"]
    assert more < limit / 2**20 + large["result_mib"] + 16
