"""analyse_noise: every kind of noise, made here, is found with its strength; odd images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from noisy_images import SIDE, coloured_noise, eight_bits, gaussian, impulses, scene
from PIL import Image

import denoise_ext
from denoise_ext import analyse_noise


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [4.0, 15.0, 50.0])
def test_white(channels, sigma):
    clean = scene(channels)
    profile = analyse_noise(clean + gaussian(clean.shape) * sigma / 255)
    assert profile.kind == "white" and not profile.correlated
    # 28 coefficients of a block in 4 are independent; 64 blocks at least: 1 / sqrt(2 * 28 * 16) =
    # 3.3 %; three of them
    assert profile.level == pytest.approx(sigma, rel=0.1)
    assert profile.variance_slope == 0
    assert profile.sigma_at(0.3) == pytest.approx(profile.level)
    assert profile.scale_ratio == pytest.approx(1, abs=0.2)
    assert profile.spectral_ratio == pytest.approx(1, abs=0.2)
    assert abs(profile.channel_correlation) < 0.15
    assert profile.impulses < 0.001 and not profile.gray_stored_as_rgb


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("slope", "read"), [(0.02, 4.0), (0.005, 2.0)])
def test_signal_dependent(channels, slope, read):
    clean = scene(channels)
    deviation = np.sqrt(slope * clean + (read / 255) ** 2)
    profile = analyse_noise(eight_bits(clean + gaussian(clean.shape) * deviation))
    assert profile.kind == "signal-dependent"
    for intensity in (0.3, 0.6, 0.8):
        true = 255 * np.sqrt(slope * intensity + (read / 255) ** 2)
        assert profile.sigma_at(intensity) == pytest.approx(true, rel=0.15)
    assert profile.level == pytest.approx(255 * np.sqrt((deviation**2).mean()), rel=0.15)


@pytest.mark.parametrize("kind", ["luma", "bayer", "jpeg", "enlarged"])
def test_correlated(kind):
    profile = analyse_noise(coloured_noise(kind))
    assert profile.kind == "correlated" and profile.correlated
    assert profile.spatially_correlated == (kind != "luma")
    if kind == "luma":
        assert profile.channel_correlation == pytest.approx(1, abs=0.02)
        assert profile.level == pytest.approx(15, rel=0.1)
    else:
        assert profile.scale_ratio > 1.2 or profile.spectral_ratio > 1.35


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("sigma", [0.0, 15.0])
def test_impulses(share, sigma):
    noisy = eight_bits(scene() + gaussian((SIDE, SIDE, 3)) * sigma / 255)
    profile = analyse_noise(impulses(noisy, share))
    assert profile.kind == ("mixed" if sigma else "impulse")
    # an impulse counts if no neighbour is one of the same kind; noise hides some of the others
    alone = share * (1 - share / 2) ** 8
    assert 0.3 * alone < profile.impulses < 1.2 * alone
    if share < 0.1:
        assert profile.level == pytest.approx(sigma, rel=0.15, abs=1.0)


def test_no_noise():
    profile = analyse_noise(eight_bits(scene()))
    assert profile.kind == "none" and profile.faint and profile.level < 1
    constant = analyse_noise(np.full((64, 64, 3), 77, np.uint8))
    assert (constant.kind, constant.level, constant.impulses) == ("none", 0, 0)
    assert constant.gray_stored_as_rgb
    black = analyse_noise(np.zeros((40, 50), np.float32))
    assert (black.kind, black.level) == ("none", 0)


def test_kinds_of_images_agree():
    noisy = eight_bits(scene() + gaussian((SIDE, SIDE, 3)) * 12 / 255)
    profile = analyse_noise(noisy)
    assert analyse_noise(Image.fromarray(noisy)) == profile
    assert analyse_noise(torch.from_numpy(noisy).permute(2, 0, 1)) == profile
    sixteen = analyse_noise(noisy.astype(np.uint16) * 257)
    assert sixteen.kind == "white" and sixteen.level == pytest.approx(profile.level, rel=1e-4)
    other = analyse_noise(noisy.astype(np.float64) * 2 - 100, value_range=(-100, 410))
    assert other.level == pytest.approx(profile.level, rel=1e-3)
    alpha = np.concatenate([noisy, np.zeros_like(noisy[..., :1])], axis=-1)
    assert analyse_noise(alpha) == profile
    planes = np.ascontiguousarray(noisy.transpose(2, 0, 1))
    assert analyse_noise(planes, axes="SYX") == profile
    assert denoise_ext.NoiseProfile is type(profile)


def test_gray_stored_as_rgb():
    noisy = eight_bits(scene(1) + gaussian((SIDE, SIDE, 1)) * 12 / 255)
    profile = analyse_noise(np.repeat(noisy, 3, axis=2))
    assert profile.gray_stored_as_rgb and profile.kind == "white"
    assert profile.level == analyse_noise(noisy).level
    spot = np.repeat(noisy, 3, axis=2)
    spot[SIDE - 1, SIDE - 1, 0] ^= 1
    assert not analyse_noise(spot).gray_stored_as_rgb


@pytest.mark.parametrize("shape", [(32, 32), (33, 47, 3), (32, 700), (1500, 40, 3)])
def test_small_and_long_images(shape):
    profile = analyse_noise(0.5 + gaussian(shape) * 20 / 255)
    assert profile.kind == "white"
    assert profile.level == pytest.approx(20, rel=0.2)


def test_large_images_are_sampled_evenly():
    image = np.full((1600, 1600), 0.5, np.float32)
    image[:, 800:] += np.tile(np.float32([0.2, -0.2]), (1600, 400))  # stripes: not noise
    profile = analyse_noise(image + gaussian(image.shape).astype(np.float32) * 12 / 255)
    assert profile.level == pytest.approx(12, rel=0.06)


def test_what_cannot_be_analysed_is_refused():
    with pytest.raises(ValueError, match=r"image .*32 x 32.*got 40 x 31"):
        analyse_noise(np.zeros((31, 40), np.uint8))
    with pytest.raises(ValueError, match=r"image.*one.*got 2"):
        analyse_noise(torch.zeros(2, 1, 40, 40))
    bad = scene()
    bad[100, 100, 1] = np.nan
    with pytest.raises(ValueError, match=r"image: .*NaN"):
        analyse_noise(bad)
    with pytest.raises(TypeError, match="image"):
        analyse_noise([[1, 2], [3, 4]])
