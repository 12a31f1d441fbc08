"""`explain`: parts of pixels against Euler's identity, figures, reasons, the page."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import denoise_ext
from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.report import explain
from denoise_ext.report.explain import autocorrelation, points_of
from denoise_ext.report.filters import around, feature_maps, local_filter
from denoise_ext.runtime import RunOptions
from denoise_ext.tasks.network_run import NetworkRun
from denoise_ext.tasks.sessions import Sessions

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
PHOTOGRAPH = f"{denoise_ext.__path__[0]}/assets/kodim21.png"
QUICK = {"probes": 1, "samples": 1, "steps": 2}


def photograph(height: int = 72, width: int = 90, gray: bool = False) -> np.ndarray:
    part = io.read_image(PHOTOGRAPH)[200 : 200 + height, 250 : 250 + width] / 255.0
    return part.mean(axis=-1) if gray else part


def noisy(clean: np.ndarray, sigma: float = 25.0) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma / 255, clean.shape)
    return (clean + noise).astype(np.float32)


# --- filters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "gray"),
    [("dxnet_s", True), ("dxnet_s", False), ("dxnet_s_gray", False), ("dxnet_s_color", True)],
)
def test_both_parts_of_a_pixel_are_the_pixel(model, gray):
    """Euler's identity, with gray and colour networks for both kinds of images."""
    image = noisy(photograph(96, 120, gray))
    y = torch.from_numpy(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[None]
    options = RunOptions(precision="strict")
    session = Sessions(model, options).of(y.shape[1])
    whole = NetworkRun(session, y.shape[1], options)(y, 25.0)
    for at in ((50, 61), (0, 0), (95, 119)):
        found = local_filter(session, y, 25.0, at)
        assert found.value == pytest.approx(float(whole[0, :, at[0], at[1]].mean()), abs=2e-6)
        assert found.from_image + found.from_level == pytest.approx(found.value, abs=1e-5)
        if gray:
            rows = slice(found.top, found.top + found.kernel.shape[0])
            columns = slice(found.left, found.left + found.kernel.shape[1])
            assert float((found.kernel * image[rows, columns]).sum()) == pytest.approx(
                found.from_image, abs=1e-5
            )
        assert 0.8 < found.kernel.sum() < 1.2 and 0 <= found.radius < 80


def test_a_blind_network_has_no_part_of_a_level():
    y = torch.from_numpy(noisy(photograph())).permute(2, 0, 1)[None]
    session = Sessions("dxnet_s_photo", RunOptions()).of(3)
    found = local_filter(session, y, None, (30, 40))
    assert found.from_level is None
    assert found.from_image == pytest.approx(found.value, abs=1e-5)  # it has no biases either


def test_the_field_is_centred_on_the_pixels():
    y = torch.from_numpy(noisy(photograph())).permute(2, 0, 1)[None]
    session = Sessions("dxnet_s", RunOptions()).of(3)
    filters = [local_filter(session, y, 25.0, at) for at in ((2, 3), (40, 80))]
    field = around(filters, 9)
    assert field.shape == (19, 19) and field.argmax() == 9 * 19 + 9
    names = [name for name, _ in feature_maps(session, y, 25.0)]
    assert len(names) == 2 and all(
        maps.shape[0] <= 16 for _, maps in feature_maps(session, y, 25.0)
    )


# --- figures ---------------------------------------------------------------------------------


def test_autocorrelation_of_moving_means():
    white = np.random.default_rng(0).normal(size=(200, 180, 3))
    found, bound = autocorrelation(white)
    assert found.shape == (13, 13) and found[6, 6] == pytest.approx(1)
    found[6, 6] = 0
    assert (abs(found) > bound).mean() < 0.02  # 3 standard errors: 0.3 % of the lags
    smooth = (white[1:] + white[:-1]) / 2
    found, bound = autocorrelation(smooth)
    assert found[7, 6] == pytest.approx(0.5, abs=bound)
    assert found[6, 7] == pytest.approx(0, abs=bound)
    assert autocorrelation(np.zeros((3, 40)))[0].max() == 0


def test_points_lie_in_their_cells():
    unsure = np.random.default_rng(1).random((60, 90))
    points = points_of(unsure, unsure)
    cells = [(row * 2 // 60, column * 3 // 90) for row, column in points]
    assert cells == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert points_of(unsure, None)[0] == (15, 15)
    assert points_of(np.zeros((1, 1)), None) == [(0, 0)]


def test_a_report_has_what_a_denoiser_finds():
    image = noisy(photograph())
    report = explain(image, 25.0, "dxnet_s", **QUICK)
    direct = denoise_ext.Denoiser("dxnet_s", sigma=25.0, uncertainty=1).run(image)
    np.testing.assert_array_equal(report.result.image, direct.image)
    assert report.result.expected_psnr == direct.expected_psnr
    assert len(report.filters) == 6 and len(report.samples) == 1
    assert report.samples[0].shape == image.shape
    page = report.html()
    assert f"{direct.expected_psnr:.2f} ± {direct.expected_psnr_error:.2f} dB" in page
    assert report.facts["Hash of the weights"] in page and "{{" not in page


# --- the page --------------------------------------------------------------------------------


def test_a_page_needs_nothing_else_and_runs_nothing_of_a_name(tmp_path):
    title = '<script>alert(1)</script>"{{style}}.png'
    report = explain(noisy(photograph(gray=True)), 25.0, title=title, **QUICK)
    file = tmp_path / "report.html"
    report.save(file)
    text = file.read_text()
    assert "{{style}}" in text, "a name is no place of the page"
    assert "alert(1)</script>" not in text and "&lt;script&gt;alert(1)" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,)", text)
    assert "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text
    with pytest.raises(io.ImageError, match="exists"):
        report.save(file)
    assert file.read_text() == text


@pytest.mark.parametrize("case", ["level", "camera", "blind", "small"])
def test_a_reason_instead_of_a_number(case):
    clean = photograph(96, 120)
    grain = np.random.default_rng(0).normal(0, 12 / 255, (96, 120, 1))
    grain = (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 2
    image, sigma, model, words = {
        "level": (noisy(clean), 20.0, "dxnet_s", ["20.0", "25."]),
        "camera": ((clean + grain).astype(np.float32), None, None, []),
        "blind": (noisy(clean), None, "dxnet_s_photo", ["itself"]),
        "small": (noisy(clean)[:20, :20], 25.0, None, ["32 x 32"]),
    }[case]
    report = explain(image, sigma, model, **QUICK)
    reason = report.result.uncertainty_reason
    assert reason and report.result.expected_psnr is None and not report.samples
    page = report.html()
    assert "There is no number" in page and not re.search(r"\d dB", page)
    assert all(word in reason for word in words)
    assert 'value="doubt"' not in page


def test_without_probes_and_samples():
    report = explain(noisy(photograph()), 25.0, probes=0, samples=2)
    assert report.result.uncertainty is None and not report.samples
    assert "Removed" in report.html()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"image": np.zeros((1500, 1400), np.uint8)}, ["1400 x 1500", "2000000"]),
        ({"image": np.zeros((0, 4), np.uint8)}, ["image", "empty"]),
        ({"image": np.zeros((4, 4), bool)}, ["image", "bool"]),
        ({"image": torch.zeros(2, 1, 40, 40)}, ["one image", "2"]),
        ({"sigma": "loud"}, ["sigma", "str"]),
        ({"sigma": -1}, ["sigma", "-1"]),
        ({"probes": -1}, ["probes", "-1"]),
        ({"samples": 1.5}, ["samples", "1.5"]),
        ({"model": "dnxet_s"}, ["dnxet_s"]),
    ],
)
def test_bad_arguments(how, words):
    with pytest.raises((TypeError, ValueError)) as raised:
        explain(**{"image": noisy(photograph()), "sigma": 25.0, **how})
    assert all(word in str(raised.value) for word in words), raised.value
