"""Uncertainty, expected PSNR and samples: against gradients, closed forms, and clean images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import denoise_ext
from denoise_ext import Denoiser, io
from denoise_ext._loader import native_error
from denoise_ext.models import create_model
from denoise_ext.models.registry import Calibration, Factors
from denoise_ext.tasks import trust
from denoise_ext.tasks.uncertainty import estimate, sample, why_not

needs_native = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
PHOTOGRAPH = f"{denoise_ext.__path__[0]}/assets/kodim21.png"
SIGMA = 25.0


def photograph(side: int = 128, gray: bool = True) -> np.ndarray:
    part = io.read_image(PHOTOGRAPH)[200 : 200 + side, 250 : 250 + side] / 255.0
    return part.mean(axis=-1) if gray else part


def noisy(clean: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma / 255, clean.shape)
    return (clean + noise).astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def shrink(by: float):
    """The best denoiser of white Gaussian images around 0.5: a known Jacobian."""
    return lambda x, sigma: 0.5 + by * (x - 0.5)


def test_a_linear_denoiser_has_its_closed_form():
    # Clean x ~ N(0.5, 0.2^2): the posterior's variance is by * s^2 with by = 0.04 / (0.04 + s^2).
    level = SIGMA / 255
    by = 0.04 / (0.04 + level**2)
    generator = torch.Generator().manual_seed(0)
    clean = 0.5 + 0.2 * torch.randn(1, 1, 256, 256, generator=generator, dtype=torch.float64)
    y = clean + level * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    found = estimate(shrink(by), y, SIGMA, 4)
    deviation = 255 * level * math.sqrt(by)
    assert float((found.deviation - deviation).abs().max()) < 1e-6  # probes are exact on a diagonal
    true = -10 * math.log10(float((shrink(by)(y, SIGMA) - clean).square().mean()))
    assert abs(found.psnr - true) < 4 * found.psnr_error
    # What the error is made of: the energy of n numbers of noise.
    expected = 10 / math.log(10) * math.sqrt(2 / y.numel()) / by
    assert found.psnr_error == pytest.approx(expected, rel=0.02)


@needs_native
@pytest.mark.parametrize("precision", ["strict", "default"])
def test_probes_equal_gradients(precision, monkeypatch):
    monkeypatch.setattr(trust, "factors_of", lambda *_: None)
    y = torch.from_numpy(noisy(photograph(64)))[None, None]
    network = create_model("dxnet_s_gray", pretrained=True).eval()
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros_like(y)
    for _ in range(3):
        v = 2.0 * torch.randint(0, 2, y.shape, generator=generator, dtype=torch.int8) - 1
        x = y.clone().requires_grad_(True)
        # v * (J v) and v * (J^T v) have one sum.
        expected += v * torch.autograd.grad(network(x, SIGMA), x, v)[0] / 3
    denoiser = Denoiser("dxnet_s_gray", precision=precision, uncertainty=3)
    result = denoiser.run(y[0, 0], SIGMA)
    trace = float(result.uncertainty.square().mean()) / SIGMA**2
    # A step of 1 % of sigma: the network is piecewise linear, and some pieces end within the step.
    # Means over windows change the sum a little at the edge.
    assert trace == pytest.approx(float(expected.mean()), rel=0.04)


@needs_native
@pytest.mark.parametrize("gray", [True, False])
def test_expected_psnr_and_intervals_on_a_photograph(gray):
    clean = photograph(192, gray)
    result = Denoiser("dxnet_s", sigma=SIGMA, uncertainty=8).run(noisy(clean))
    assert result.uncertainty_reason == ""
    assert result.uncertainty.shape == clean.shape
    assert abs(result.expected_psnr - psnr(result.image, clean)) < 0.6
    assert 0 < result.expected_psnr_error < 0.5
    error = 255 * np.abs(result.image - clean)
    assert 0.80 < float((error <= (result.interval_90 or 1.645) * result.uncertainty).mean()) < 0.98
    # Uncertain pixels are those with larger errors.
    order = np.argsort(result.uncertainty.ravel())
    least, most = (error.ravel()[part].mean() for part in (order[:2000], order[-2000:]))
    assert most > 2 * least


@needs_native
def test_tiles_change_nothing():
    y = noisy(photograph(200))
    how = {"sigma": SIGMA, "uncertainty": 2, "precision": "strict"}
    whole = Denoiser("dxnet_s_gray", tile=None, **how).run(y)
    tiles = Denoiser("dxnet_s_gray", tile=160, **how).run(y)
    assert tiles.tiles > 1
    # Strict tiles equal the whole image bit for bit.
    assert np.array_equal(whole.uncertainty, tiles.uncertainty)
    assert whole.expected_psnr == tiles.expected_psnr


@needs_native
def test_it_states_a_reason_where_the_noise_is_another():
    clean = photograph(192)
    y = noisy(clean)
    told = Denoiser("dxnet_s_gray", sigma=20, uncertainty=2).run(y)
    smooth = (y[1:, 1:] + y[:-1, 1:] + y[1:, :-1] + y[:-1, :-1]) / 4
    correlated = Denoiser("dxnet_s_gray", sigma=12, uncertainty=2).run(smooth)
    faint = Denoiser("dxnet_s_gray", sigma=1.5, uncertainty=2).run(y)
    small = Denoiser("dxnet_s_gray", sigma=25, uncertainty=2).run(y[:31])
    by_map = Denoiser("dxnet_s_gray", uncertainty=2).run(y, np.full(y.shape, 25.0))
    blind = Denoiser("dxnet_s_photo", uncertainty=2).run(noisy(photograph(64, False)))
    batch = torch.from_numpy(y)[None, None].repeat(2, 1, 1, 1)
    two = Denoiser("dxnet_s_gray", sigma=25, uncertainty=2).run(batch)
    for result, words in (
        (told, ["20.0", "25."]), (correlated, ["not white"]), (faint, ["1.50", "below 2"]),
        (small, ["32 x 32"]), (by_map, ["one level"]), (blind, ["itself"]), (two, ["2 images"]),
    ):  # fmt: skip
        assert result.uncertainty is result.expected_psnr is result.expected_psnr_error is None
        for word in words:
            assert word in result.uncertainty_reason
        with pytest.raises(ValueError, match="samples"):
            result.samples(1)


@needs_native
def test_noise_of_a_camera_gets_no_number():
    clean = photograph(192, gray=False)
    grain = np.random.default_rng(0).normal(0, 12 / 255, (*clean.shape[:2], 1))
    grain = (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 2  # smoothed, in all channels
    for model in (None, "dxnet_s"):
        result = Denoiser(model, uncertainty=2).run((clean + grain).astype(np.float32))
        assert result.expected_psnr is None and result.uncertainty_reason


@needs_native
def test_without_a_model_white_noise_gets_numbers():
    result = Denoiser(uncertainty=2).run(noisy(photograph(192, gray=False)))
    assert result.noise[0].kind == "white"
    assert result.expected_psnr > 25 and result.uncertainty.shape == (192, 192, 3)


@needs_native
def test_kinds_of_images_and_alpha():
    y = (noisy(photograph(64), 15).clip(0, 1) * 255).round().astype(np.uint8)
    denoiser = Denoiser("dxnet_s_gray", sigma=15, uncertainty=2)
    expected = denoiser.run(y)
    with_alpha = denoiser.run(np.stack([y, np.full_like(y, 7)], -1))
    assert np.array_equal(with_alpha.uncertainty, expected.uncertainty)
    tensor = denoiser.run(torch.from_numpy(y)[None])
    assert tensor.uncertainty.shape == (1, 64, 64)
    assert np.array_equal(tensor.uncertainty[0].numpy(), expected.uncertainty)
    picture = io.Picture((y,), (0, 255), "gray", "PNG")
    assert np.array_equal(denoiser.run(picture).uncertainty, expected.uncertainty)
    [drawn] = with_alpha.samples(1, steps=2)
    assert drawn.dtype == np.uint8 and drawn.shape == (64, 64, 2) and (drawn[..., 1] == 7).all()
    assert np.array_equal(with_alpha.samples(1, steps=2, seed=0)[0], drawn)
    assert not np.array_equal(with_alpha.samples(1, steps=2, seed=1)[0], drawn)


def test_samples_of_a_gaussian_have_its_posterior():
    """The denoiser of N(0.5, 0.2^2) images: mean and variance of the posterior are known."""

    def denoise(x, sigma):
        by = 0.04 / (0.04 + (sigma / 255) ** 2)
        return 0.5 + by * (x - 0.5)

    y = torch.full((1, 1, 128, 128), 0.8, dtype=torch.float64)
    drawn = sample(denoise, y, 50.0, 200, seed=0)
    variance = 0.04 * (50 / 255) ** 2 / (0.04 + (50 / 255) ** 2)
    assert float(drawn.mean()) == pytest.approx(float(denoise(y, 50.0).mean()), abs=0.005)
    # 16384 numbers: 1 % is two standard errors of a deviation; 200 steps and a last level of 2
    # leave out some of the rest.
    assert float(drawn.std()) == pytest.approx(math.sqrt(variance), rel=0.03)


def test_factors_lie_between_those_of_the_levels():
    low = Factors((1.0, 0.8), (0.1, 0.2), 0.5, 1.5, 0.002)
    high = Factors((2.0, 1.2), (0.3, 0.2), 0.7, 1.7)
    calibration = Calibration({10.0: low, 40.0: high}, "none")
    assert calibration.at(3.0) == calibration.at(10.0) == low
    assert calibration.at(90.0) == calibration.at(40.0) == high
    between = calibration.at(20.0)  # half way from 10 to 40 by its logarithm
    assert between.variance_ratio == pytest.approx((1.5, 1.0))
    assert between.variance_ratio_error == pytest.approx((0.2, 0.2))
    assert between.correlation == pytest.approx(0.6)
    assert between.interval_90 == pytest.approx(1.6)
    assert between.removed == pytest.approx(0.001)  # 0 where it is not given


def test_a_calibration_sharpens_the_expected_psnr():
    level = SIGMA / 255
    by = 0.04 / (0.04 + level**2)
    generator = torch.Generator().manual_seed(0)
    y = 0.5 + torch.randn(1, 1, 64, 64, generator=generator) * math.sqrt(0.04 + level**2)
    rough = estimate(shrink(by), y, SIGMA, 4)
    sharp = estimate(shrink(by), y, SIGMA, 4, Factors((1.0, 1.0), (0.005, 0.005), 0.0, 1.645))
    assert sharp.psnr_error < 0.5 * rough.psnr_error
    assert sharp.psnr == pytest.approx(-10 * math.log10(by * level**2), abs=0.05)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"uncertainty": -1}, ["uncertainty", "-1"]),
        ({"uncertainty": True}, ["uncertainty", "True"]),
        ({"uncertainty": 2.5}, ["uncertainty", "2.5"]),
        ({"uncertainty": 2, "strength": 0.5}, ["uncertainty", "strength", "0.5"]),
        ({"uncertainty": 2, "precision": "bfloat16"}, ["uncertainty", "bfloat16"]),
    ],
)
def test_bad_arguments(how, words):
    with pytest.raises(ValueError) as raised:
        Denoiser(**how)
    for word in words:
        assert word in str(raised.value)


@needs_native
def test_bad_counts_of_samples_and_results_without():
    result = Denoiser("dxnet_s_gray", sigma=25, uncertainty=1).run(noisy(photograph(64)))
    for how in ((0,), (1, 0), (1.5,)):
        with pytest.raises(ValueError, match=r"(count|steps) must be an integer >= 1"):
            result.samples(*how)
    plain = Denoiser("dxnet_s_gray", sigma=25).run(noisy(photograph(64)))
    assert plain.uncertainty is None and "uncertainty=16" in plain.uncertainty_reason


def test_why_not_needs_one_level():
    assert "one level" in why_not(torch.rand(1, 1, 64, 64), None, None)


@needs_native
def test_alpha_that_is_denoised_does_not_change_what_was_found():
    gray = (noisy(photograph(96), 15).clip(0, 1) * 255).round().astype(np.uint8)
    alpha = np.random.default_rng(1).integers(0, 255, gray.shape, dtype=np.uint8)
    stored = np.stack([gray, gray, gray, alpha], -1)
    result = Denoiser(uncertainty=1, alpha="denoise").run(stored)
    assert result.uncertainty is None and "stored as RGB" in result.uncertainty_reason


@needs_native
def test_levels_of_numpy_and_parts():
    y = noisy(photograph(64))
    expected = Denoiser("dxnet_s_gray", sigma=25, uncertainty=1).run(y)
    level = Denoiser("dxnet_s_gray", sigma=np.float32(25), uncertainty=1).run(y)
    assert level.expected_psnr == expected.expected_psnr


@needs_native
def test_parts():
    y = noisy(photograph(192, gray=False))
    part = slice(60, 130), slice(40, 140)
    denoiser = Denoiser("dxnet_s_color", precision="strict")
    # The window is the whole image here, so the probes are the same.
    whole = Denoiser("dxnet_s_color", sigma=25, precision="strict", uncertainty=2).run(y)
    found = denoiser.run_part(y, part, 25.0, uncertainty=2)
    assert np.array_equal(found.image, whole.image[part])
    assert np.array_equal(found.uncertainty, whole.uncertainty[part])
    assert found.interval_90 == whole.interval_90
    [drawn] = found.samples(1, steps=2)
    assert drawn.shape == found.image.shape
    assert denoiser.run_part(y, part, 25.0).uncertainty is None
    # The noise of the whole image decides whether there are numbers, not that of a small part.
    noise = denoise_ext.analyse_noise(y)
    small = slice(60, 70), slice(40, 52)
    assert denoiser.run_part(y, small, 25.0, noise=noise, uncertainty=1).uncertainty is not None
    refused = denoiser.run_part(y, small, 18.0, noise=noise, uncertainty=1)
    assert refused.uncertainty is None and "18.0" in refused.uncertainty_reason
    with pytest.raises(ValueError, match="uncertainty"):
        denoiser.run_part(y, small, 25.0, uncertainty=-1)
