"""The covariance of an image's noise: measured, and drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denoise_ext.tasks.noise_analysis import profile_of
from denoise_ext.tasks.noise_model import NoiseModel, noise_model

SIDE = 256
LAGS = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]


def smoothed(channels: int, mix: float, seed: int, side: int = SIDE) -> torch.Tensor:
    """(1, C, H, W) of variance 1 in each channel: means of 2 x 2 white pixels, a part in common."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(1, channels, side + 1, side + 1, generator=generator)
    common = torch.randn(1, 1, side + 1, side + 1, generator=generator)
    both = (1 - mix) ** 0.5 * white + mix**0.5 * common
    return 2 * F.avg_pool2d(both, 2, 1)


def covariances(x: torch.Tensor) -> torch.Tensor:
    """(lags, C, C) of (1, C, H, W)."""
    x = x[0].double() - x[0].double().mean((1, 2), keepdim=True)
    rows = []
    for down, right in LAGS:
        a = x[:, : x.shape[1] - down, : x.shape[2] - right].flatten(1)
        rows.append(a @ x[:, down:, right:].flatten(1).T / a.shape[1])
    return torch.stack(rows)


def drawn(model: NoiseModel, image: torch.Tensor, seed: int, **options) -> torch.Tensor:
    return model.draw(image, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("channels, mix", [(1, 0.0), (3, 0.0), (3, 0.8)])
def test_correlated_noise_is_drawn_as_it_was_measured(channels, mix):
    level = 12 / 255
    noisy = 0.5 + level * smoothed(channels, mix, 1)
    profile = profile_of(noisy[0])
    assert profile.kind == "correlated"
    model = noise_model(noisy[0], profile)
    found = covariances(drawn(model, noisy, 2)) / level**2
    truth = covariances(smoothed(channels, mix, 3))
    # 2 % of 14 900 blocks that overlap 16 times: 19 independent ones of 256 values and so 2 % in
    # the variance; their choice favours weak ones.
    assert (found - truth).abs().max() < 0.12, (found, truth)


def test_noise_of_an_image_on_its_side():
    """Rows have noise in common: turned by 90 degrees, columns have."""
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(1, 1, SIDE, SIDE + 3, generator=generator)
    noisy = 0.5 + 0.1 * F.avg_pool2d(rows, (1, 4), 1)
    model = noise_model(noisy[0], profile_of(noisy[0]))
    along, across = (covariances(drawn(model, noisy, 5, turned=t))[:, 0, 0] for t in (False, True))
    along, across = along / along[0], across / across[0]
    assert along[1] > 0.6 > 0.2 > abs(along[2])
    assert across[2] > 0.6 > 0.2 > abs(across[1])


def test_noise_that_grows_with_brightness():
    model = NoiseModel(slope=0.01, offset=0.0004)
    image = torch.linspace(0, 1, 64).expand(1, 3, 4096, 64).contiguous()
    noise = drawn(model, image, 6)
    dark, bright = noise[..., 8:16].var().item(), noise[..., -16:-8].var().item()
    # mean variance of 8 columns; 98 304 values: 0.5 % standard error, and five of them
    assert dark == pytest.approx(0.01 * 11.5 / 63 + 0.0004, rel=0.03)
    assert bright == pytest.approx(0.01 * 51.5 / 63 + 0.0004, rel=0.03)
    level = model.deviation(image)
    assert level.shape == (1, 1, 4096, 64)


def test_white_noise_has_no_spectrum():
    noisy = 0.5 + 0.05 * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    model = noise_model(noisy, profile_of(noisy))
    assert model.root is None and model.slope == 0.0
    assert 255 * model.offset**0.5 == pytest.approx(0.05 * 255, rel=0.03)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_number_of_bits_does_not_count(dtype):
    white = np.iinfo(dtype).max
    noisy = (0.5 + 0.05 * smoothed(1, 0.0, 8)[0]) * white
    stored = torch.from_numpy(noisy.round().numpy().astype(dtype))
    model = noise_model(stored, profile_of(stored))
    assert model.offset**0.5 == pytest.approx(0.05, rel=0.06)


def test_an_image_of_one_value():
    flat = torch.full((1, 64, 64), 0.5)
    model = noise_model(flat, profile_of(flat))
    assert bool(drawn(model, flat[None], 9).isfinite().all())
