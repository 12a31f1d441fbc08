"""estimate_sigma against noise of known level, and against scikit-image's estimator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import image_folder

from denoise_ext.tasks import estimate_sigma
from denoise_ext.tasks.noise_level import _extreme


def noisy(clean: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma / 255, clean.shape)
    return (clean + noise).astype(np.float32)


@pytest.mark.parametrize("sigma", [1.0, 10.0, 50.0])
def test_pure_noise(sigma):
    # 28 of 64 coefficients, half of the blocks at least, each pixel in 16 of them: the sum has
    # at least 256^2 * 28/64 / 2 / 16 independent squares, the deviation of its root is sigma /
    # sqrt(2 * 896) = 2.4 %; four of them
    image = noisy(np.full((256, 256), 0.5), sigma)
    assert estimate_sigma(image) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("folder, step", [("test/Set12", 3), ("test/Kodak_full", 8)])
def test_photographs(folder, step):
    """The errors its docstring states, and smaller ones than those of skimage's estimator."""
    skimage = pytest.importorskip("skimage.restoration")
    pytest.importorskip("pywt")
    images = [np.asarray(Image.open(p).convert("L")) / 255 for p in image_folder(folder)[::step]]
    for sigma, mean, spread in ((5, 0.5, 0.6), (25, 0.3, 0.4), (75, 0.6, 1.0)):
        pairs = [
            (estimate_sigma(y) - sigma, 255 * skimage.estimate_sigma(y) - sigma)
            for y in (noisy(image, sigma, i) for i, image in enumerate(images))
        ]
        ours, theirs = np.array(pairs).T
        assert abs(ours.mean()) < mean and ours.std() < spread
        assert np.sqrt((ours**2).mean()) < np.sqrt((theirs**2).mean()) or sigma == 75


def test_kinds_of_images_agree():
    image = noisy(np.linspace(0.3, 0.7, 96 * 96 * 3).reshape(96, 96, 3), 8.0)
    sigma = estimate_sigma(image)
    assert sigma == pytest.approx(8.0, rel=0.15)
    assert estimate_sigma(torch.from_numpy(image).permute(2, 0, 1)) == pytest.approx(sigma)
    eight = np.rint(image * 255).astype(np.uint8)
    assert estimate_sigma(eight) == pytest.approx(sigma, rel=0.02)
    assert estimate_sigma(Image.fromarray(eight)) == estimate_sigma(eight)
    alpha = np.concatenate([eight, np.zeros_like(eight[..., :1])], -1)
    assert estimate_sigma(alpha) == estimate_sigma(eight)
    other = (image * 300 - 20).astype(np.float64)
    assert estimate_sigma(other, value_range=(-20, 280)) == pytest.approx(sigma, rel=1e-4)
    channels = [estimate_sigma(np.ascontiguousarray(image[..., i])) for i in range(3)]
    assert sigma == pytest.approx(np.sqrt(np.mean(np.square(channels))))


def test_areas_without_noise_do_not_count():
    clean = np.linspace(0.4, 0.6, 128 * 128).reshape(128, 128)
    eight = np.rint(noisy(clean, 10.0).clip(0, 1) * 255).astype(np.uint8)
    eight[:40] = 0  # black bars
    eight[90:, ::2] = 255  # burnt out, with the noise that clipping leaves
    eight[90:, 1::2] -= 128 - eight[90:, 1::2] // 2
    burnt = eight.copy()
    burnt[90:] = np.minimum(255, 250 + eight[90:] // 26)
    assert estimate_sigma(burnt) == pytest.approx(10.0, rel=0.15)
    assert estimate_sigma(np.full((32, 32), 7, np.uint8)) == 0


@pytest.mark.parametrize(
    "dtype, offset, value_range",
    [("int16", 0, (-1080, 1000)), ("uint16", 2048, (968, 3048)), ("float32", 0.5, (-1080, 1000))],
)
def test_twelve_bits_in_sixteen(dtype, offset, value_range):
    """A scan: a disc of 20 Hounsfield units of noise; outside, one number that is no extreme."""
    y, x = np.mgrid[:256, :256] - 128
    radius = np.hypot(y, x)
    scan = np.where(radius < 90, 40.0, -1000.0)
    scan[np.hypot(y, x - 40) < 15] = 800
    scan += np.random.default_rng(1).normal(0, 20, scan.shape)
    scan[radius > 124] = -2000
    image = (np.rint(scan) + offset).astype(dtype)
    low, high = value_range
    # a tenth of the image and more is nothing but noise: as in test_pure_noise, of a third as many
    # independent squares; rounding to whole numbers adds 1/12 to a variance of 400
    expected = 20 * 255 / (high - low)
    assert estimate_sigma(image, value_range=value_range) == pytest.approx(expected, rel=0.15)
    floor = image.clip(low + 60)  # -1020: one in six pixels of the air; its blocks have no say
    assert estimate_sigma(floor, value_range=(low + 60, high)) == pytest.approx(
        20 * 255 / (high - low - 60), rel=0.15
    )


@pytest.mark.parametrize("shape", [(8, 8), (9, 8), (21, 30), (64, 41), (15, 11)])
@pytest.mark.parametrize("step", [2, 4])
def test_extremes_of_blocks(shape, step):
    x = np.random.default_rng(0).normal(size=shape)
    blocks = np.lib.stride_tricks.sliding_window_view(x, (8, 8))[::step, ::step]
    for of_two, of_all in ((torch.maximum, np.max), (torch.minimum, np.min)):
        found = _extreme(torch.from_numpy(x), of_two, step).numpy()
        np.testing.assert_array_equal(found, of_all(blocks, axis=(2, 3)))


def test_large_images_are_sampled_evenly():
    image = np.full((1000, 1000), 0.5)
    image[:, 500:] += np.tile([0.2, -0.2], (1000, 250))  # stripes: not noise
    assert estimate_sigma(noisy(image, 12.0)) == pytest.approx(12.0, rel=0.05)
    strip = noisy(np.full((20, 40000), 0.5), 12.0)
    assert estimate_sigma(strip) == pytest.approx(12.0, rel=0.05)


def test_what_has_no_estimate_is_refused():
    with pytest.raises(ValueError, match=r"18 x 7 pixels is too small.*give sigma"):
        estimate_sigma(np.zeros((7, 18), np.uint8))
    with pytest.raises(ValueError, match="not a batch"):
        estimate_sigma(torch.zeros(2, 1, 16, 16))
