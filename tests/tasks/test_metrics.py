"""PSNR and SSIM against their definition and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from denoise_ext.metrics import psnr, ssim


def pair(n: int = 2, channels: int = 3, size: tuple[int, int] = (33, 47)):
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand(n, channels, *size, generator=generator, dtype=torch.float64)
    clean = torch.nn.functional.avg_pool2d(clean, 5, stride=1, padding=2)  # some structure
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return clean, clean + 0.05 * noise


def test_psnr_of_a_known_error():
    a = torch.zeros(2, 1, 4, 4)
    b = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.01)])
    # 10 log10(1 / 0.1^2) = 20 dB; the values are float32, so they are 0.1 to 6e-8 only
    assert psnr(a, b).tolist() == pytest.approx([20.0, 40.0], abs=1e-5)


def test_psnr_of_bytes():
    a = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    b = torch.full_like(a, 255)
    assert psnr(a, b, data_range=255).item() == 0.0
    assert psnr(b, a, data_range=255).item() == 0.0  # no wrap-around


def test_psnr_of_equal_images_is_infinite():
    clean, _ = pair()
    assert torch.isinf(psnr(clean, clean)).all()


def test_psnr_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    clean, noisy = pair()
    for i, value in enumerate(psnr(noisy, clean).tolist()):
        expected = metrics.peak_signal_noise_ratio(
            clean[i].numpy(), noisy[i].numpy(), data_range=1.0
        )
        assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_equals_scikit_image(channels, data_range):
    metrics = pytest.importorskip("skimage.metrics")
    clean, noisy = pair(channels=channels)
    clean, noisy = clean * data_range, noisy * data_range
    result = ssim(noisy, clean, data_range)
    for i in range(len(clean)):
        # full=True: scikit-image pads at the border; both are compared where the window is inside
        _, per_pixel = metrics.structural_similarity(
            clean[i].numpy(), noisy[i].numpy(), data_range=data_range, channel_axis=0, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        expected = np.mean(per_pixel[:, 5:-5, 5:-5])
        assert result[i].item() == pytest.approx(expected, rel=1e-9)


def test_ssim_of_equal_images_is_one():
    clean, _ = pair()
    torch.testing.assert_close(ssim(clean, clean), torch.ones(2, dtype=torch.float64))


def test_ssim_needs_room_for_its_window():
    small = torch.rand(1, 1, 10, 40)
    with pytest.raises(ValueError, match="H, W >= 11"):
        ssim(small, small)
    exact = torch.rand(1, 1, 11, 11)
    assert ssim(exact, exact).shape == (1,)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_wrong_arguments(metric):
    a = torch.rand(2, 1, 16, 16)
    with pytest.raises(ValueError, match="one shape"):
        metric(a, a[:1])
    with pytest.raises(ValueError, match="data_range"):
        metric(a, a, 0.0)
    with pytest.raises(ValueError, match="data_range"):
        metric(a, a, math.nan)
    with pytest.raises(TypeError, match=r"^a .*tensor"):
        metric(a.numpy(), a)
    with pytest.raises(TypeError, match="b must be real"):
        metric(a, a.to(torch.complex64))


def test_empty_batch():
    empty = torch.empty(0, 1, 16, 16)
    assert psnr(empty, empty).shape == (0,)
    assert ssim(empty, empty).shape == (0,)
