"""Noise of raw developers' pictures, stage by stage, and what the whole covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from denoise_ext.data.noise import (
    PhotoNoise,
    add_noise_chain,
    add_photo_noise,
    developed,
    in_camera,
    mosaic,
)
from denoise_ext.data.noise._draw import ClipGenerators, Draws
from denoise_ext.data.noise.pipeline import STEP_KINDS

CAMERAS = {"white": 0.0, "clean": 0.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(x: torch.Tensor, seed: int = 0) -> Draws:
    return Draws(x, seeded(seed))


def correlation(noise: torch.Tensor, distance: int) -> torch.Tensor:
    """Along rows, of every image (N, C, H, W) less its mean: (N,)."""
    noise = noise - noise.mean(dim=(2, 3), keepdim=True)
    products = noise[..., distance:] * noise[..., :-distance]
    return products.mean(dim=(1, 2, 3)) / noise.square().mean(dim=(1, 2, 3))


def share(values: torch.Tensor) -> float:
    return values.double().mean().item()


def test_colour_differences_become_their_medians():
    noise = torch.randn(1, 3, 9, 7, generator=seeded(), dtype=torch.float64)
    found = mosaic.smooth_colour_differences(noise)
    torch.testing.assert_close(found[:, 1], noise[:, 1], rtol=0, atol=0)
    for channel in (0, 2):
        padded = np.pad((noise[0, channel] - noise[0, 1]).numpy(), 1, mode="reflect")
        for y in range(9):
            for x in range(7):
                expected = np.median(padded[y : y + 3, x : x + 3]) + noise[0, 1, y, x].item()
                assert found[0, channel, y, x].item() == pytest.approx(expected, abs=1e-12)


def test_detail_is_where_the_picture_varies():
    image = torch.full((1, 3, 40, 80), 0.5, dtype=torch.float64)
    image[..., 40:] += 0.3 * (-1.0) ** torch.arange(40.0)
    found = in_camera.detail(image)
    assert found.shape == (1, 1, 40, 80)
    assert found[..., :25].max() < 0.01 and found[..., 55:].min() > 0.95
    # only luma counts: the same change of red and its opposite of green, weighted
    colour = torch.full((1, 3, 40, 40), 0.5, dtype=torch.float64)
    stripes = 0.2 * (-1.0) ** torch.arange(40.0)
    colour[:, 0] += stripes * 0.587
    colour[:, 1] -= stripes * 0.299
    assert in_camera.detail(colour).max() < 1e-9


def test_sharpening_of_luma_alone_leaves_colour():
    noise = torch.randn(2, 3, 24, 24, generator=seeded(), dtype=torch.float64)
    amount, radius = torch.tensor([0.8, 0.8]).double(), torch.tensor([0.7, 1.9]).double()
    luma = torch.tensor([True, False])
    found = in_camera.sharpen(noise, amount, radius, luma)
    everything = noise + 0.8 * (noise - in_camera.blur(noise, radius))
    torch.testing.assert_close(found[1], everything[1])
    parts, whole, before = (in_camera.to_luma_chroma(v) for v in (found, everything, noise))
    torch.testing.assert_close(parts[0, :1], whole[0, :1], rtol=0, atol=1e-6)
    torch.testing.assert_close(parts[0, 1:], before[0, 1:], rtol=0, atol=1e-6)


def test_colours_can_be_undone_and_leave_gray_gray():
    image = torch.rand(300, 3, 16, 16, generator=seeded(), dtype=torch.float64)
    matrices, gains = developed._colours(draws(image))
    torch.testing.assert_close(matrices.sum(dim=2), torch.ones(300, 3).double())
    assert torch.linalg.cond(matrices).max() < 30
    assert gains.shape == (300, 3, 1, 1)
    exposure = gains[:, 1].flatten()
    assert 0.7 <= exposure.min() < 0.75 and 2.8 < exposure.max() <= 3.0
    balance = gains[:, (0, 2), 0, 0] / exposure[:, None]
    assert balance.min() >= 1.2 and balance.max() <= 2.8


def test_half_of_the_black_levels_are_too_high():
    """By up to one deviation of the read noise. Green at its own sites is what the sensor has."""
    raw = torch.full((400, 3, 63, 64), 0.5, dtype=torch.float64)  # odd: a whole pattern is cut
    shot, read = torch.full((400,), 1e-8).double(), torch.full((400,), 1e-4).double()
    noise = developed._demosaiced(raw, shot, read, draws(raw))
    assert noise.shape == raw.shape
    sites = noise[:, 1, ::2, 1::2] / 0.01  # in deviations
    mean = sites.mean(dim=(1, 2))
    # the mean of 32 x 32 sites is right within 1 / 32, with rows of 0.4 within 0.4 / sqrt(32)
    assert mean.max() < 5 * math.hypot(1 / 32, 0.4 / math.sqrt(32))
    assert mean.min() > -1 - 5 * math.hypot(1 / 32, 0.4 / math.sqrt(32))
    expected, limit = 0.5 * 0.75, 0.25
    assert abs(share(mean < -limit) - expected) < 5 * math.sqrt(expected * (1 - expected) / 400)


def test_some_sensors_have_rows():
    raw = torch.full((400, 3, 16, 256), 0.5, dtype=torch.float64)
    shot, read = torch.full((400,), 1e-8).double(), torch.full((400,), 1e-4).double()
    noise = developed._demosaiced(raw, shot, read, draws(raw))[:, 1, ::2, 1::2]  # (400, 8, 128)
    ratio = noise.mean(dim=2).var(dim=1) / noise.var(dim=2).mean(dim=1)
    # rows of a deviations, 15 % of them with a in [0, 0.4]: a^2 + 1 / 128; above 4 / 128 without
    # rows in one of 5000, and with a > sqrt(3 / 128)
    expected = 0.15 * (1 - math.sqrt(3 / 128) / 0.4)
    error = 5 * math.sqrt(expected * (1 - expected) / 400)
    assert abs(share(ratio > 4 / 128) - expected) < error
    assert expected > error  # no rows at all fail


def test_dark_and_clipped_pictures_stay_in_range_before_filters():
    for value in (0.0, 1.0):
        image = torch.full((64, 3, 24, 24), value)
        noise = developed.developed_noise(draws(image), 1e-4, 0.02)
        assert noise.isfinite().all()
        if value == 1.0:
            assert share(noise.mean(dim=(1, 2, 3)) <= 1e-4) == 1.0  # nothing above white


def test_noise_grows_with_the_shot_noise():
    image = torch.full((100, 3, 32, 32), 0.4)
    rms = [
        in_camera.rms(developed.developed_noise(draws(image), shot, shot)).mean()
        for shot in (1e-5, 1e-3)
    ]
    assert rms[1] > 5 * rms[0]  # ten times, less what is clipped


def test_pictures_are_developed_in_their_share_and_the_others_are_not():
    image = torch.rand(400, 3, 16, 16, generator=seeded())
    plain, some, all_ = (
        add_photo_noise(image, PhotoNoise(developed=part, jpeg=0.0, **CAMERAS), seeded())
        for part in (0.0, 0.5, 1.0)
    )
    assert not torch.equal(plain, all_)
    # one generator draws for all: the camera's noise comes before the developers'
    same = (plain == some).flatten(1).all(dim=1)
    assert abs(share(same) - 0.5) < 5 * math.sqrt(0.25 / 400)
    white = PhotoNoise(developed=1.0, white=0.5, clean=0.5, jpeg=0.0)
    noisy = add_photo_noise((image * 255).round() / 255, white, seeded())
    clean = (noisy == (image * 255).round() / 255).flatten(1).all(dim=1)
    assert abs(share(clean) - 0.5) < 5 * math.sqrt(0.25 / 400)


def test_an_image_does_not_depend_on_its_batch_and_frames_share_their_developer():
    image = torch.rand(5, 3, 32, 40, generator=seeded())
    step = STEP_KINDS["photo"](kind="photo", developed=0.5, **CAMERAS)
    whole, _ = add_noise_chain(image, [step], seed=3, step=7)
    part, _ = add_noise_chain(image[3:], [step], seed=3, step=7, first=3)
    torch.testing.assert_close(part, whole[3:], rtol=0, atol=1e-6)
    frames = torch.full((3, 3, 48, 48), 0.5)
    for seed in range(8):
        generators = ClipGenerators([seeded(seed + 100 + i) for i in range(3)], seeded(seed))
        options = PhotoNoise(developed=0.5, shot_min=0.005, jpeg=0.0, **CAMERAS)
        noise = add_photo_noise(frames, options, generators) - frames
        assert not torch.equal(noise[0], noise[1])
        rms = in_camera.rms(noise)
        assert rms.max() < 1.25 * rms.min()  # one exposure, one filter


def test_the_statistics_of_measured_cameras_are_covered():
    """Rms and correlation of phones' raw pictures lie well within what is drawn.

    SIDD, twelve pairs: rms up to 38, luma 0.16 to 0.34 at distance 1 and -0.15 to -0.06 at 2, mean
    error -7 to 1; chroma 0.55 to 0.65 and 0.11 to 0.30.
    """
    level = 0.05 + 0.6 * torch.rand(400, 1, 1, 1, generator=seeded())
    image = level.expand(400, 3, 64, 64) * torch.tensor([1.0, 0.9, 0.8]).reshape(1, 3, 1, 1)
    options = PhotoNoise(developed=1.0, shot_min=1e-4, shot_max=0.02, **CAMERAS)
    noise = add_photo_noise(image, options, seeded(1)) - image
    parts = in_camera.to_luma_chroma(noise)
    luma, chroma = parts[:, :1], parts[:, 1:]
    figures = {
        "rms": (in_camera.rms(noise) * 255, 5.0, 38.0),
        "luma 1": (correlation(luma, 1), 0.2, 0.6),
        "luma 2": (correlation(luma, 2), -0.1, 0.2),
        "chroma 1": (correlation(chroma, 1), 0.5, 0.85),
        "chroma 2": (correlation(chroma, 2), 0.15, 0.6),
    }
    for name, (values, low, high) in figures.items():
        assert share(values < low) > 0.04, name
        assert share(values > high) > 0.04, name
        assert share((values >= low) & (values <= high)) > 0.3, name
