"""benchmarks/codec.py: its tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import codec as benchmark


def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"bpp": bits, "psnr": quality, "ssim": 1.0} for bits, quality in points]


def test_rates_outside_of_a_curve_have_no_figure():
    points = curve((0.2, 30.0), (0.8, 34.0))
    assert benchmark.psnr_at(points, 0.4) == pytest.approx(32.0)  # half of the way in logarithms
    assert benchmark.psnr_at(points, 0.1) != benchmark.psnr_at(points, 0.1)  # NaN


def test_gains_are_of_pictures_that_both_have_files_of():
    results = {
        "15": {
            "JPEG": {"a": curve((0.1, 0.0), (1.0, 0.0)), "b": curve((0.1, 0.0), (1.0, 0.0))},
            "denoised, JPEG": {
                "a": curve((0.1, 30.0), (1.0, 30.0)), "b": curve((0.35, 30.0), (1.0, 30.0)),
            },
            "DXC": {
                "a": curve((0.1, 31.0), (0.45, 31.0)), "b": curve((0.1, 33.0), (0.55, 33.0)),
            },
        }
    }  # fmt: skip
    [row] = [line for line in benchmark.gains(results).splitlines() if line.startswith("| 15")]
    assert (
        row == "| 15, denoised, JPEG | +1.00 (+1.00, 1) | +2.00 (+1.00, 2) | +3.00 (+3.00, 1) | - |"
    )
