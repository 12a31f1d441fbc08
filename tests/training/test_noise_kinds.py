"""Every kind of synthetic noise: mean and variance against its formula; chains of them."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from denoise_ext.data.noise import (
    ISO_PRESETS,
    NoiseStep,
    add_banding_noise,
    add_gaussian_noise,
    add_jpeg_artefacts,
    add_noise_chain,
    add_poisson_gaussian_noise,
    add_poisson_noise,
    add_rician_noise,
    add_salt_and_pepper_noise,
    add_speckle_noise,
    camera_noise,
    iso_noise,
)
from denoise_ext.data.noise.tone import linear_to_srgb, srgb_to_linear
from denoise_ext.data.random import NOISE, image_generator, step_generator

SIDE = 400


def flat(value: float) -> torch.Tensor:
    return torch.full((1, 1, SIDE, SIDE), value, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_moments(samples: torch.Tensor, mean: float, variance: float, excess: float = 0.0) -> None:
    """Within five standard errors: sqrt(var / n), and var * sqrt((2 + excess) / n).

    ``excess`` is the excess kurtosis of the distribution.
    """
    n = samples.numel()
    assert abs(samples.mean().item() - mean) < 5 * math.sqrt(variance / n)
    error = 5 * variance * math.sqrt((2 + excess) / n)
    assert abs(samples.var().item() - variance) < error + variance / n


@pytest.mark.parametrize("value", [0.02, 0.7])
def test_poisson(value):
    photons = 40.0
    noisy = add_poisson_noise(flat(value), photons, seeded())
    check_moments(noisy, value, value / photons, excess=1 / (photons * value))
    counts = noisy * photons
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)


def test_poisson_gaussian_from_gain_and_read_noise():
    # 0.4 DN per electron, 3 electrons of read noise, 12 bits: white is 10237.5 electrons
    shot, read = camera_noise(gain=0.4, read_noise=3.0, levels=4095)
    assert 1 / shot == pytest.approx(4095 / 0.4)
    assert read / shot == pytest.approx(3.0)
    noisy = add_poisson_gaussian_noise(flat(0.3), shot, read, seeded())
    check_moments(noisy, 0.3, shot * 0.3 + read**2, excess=shot / 0.3)
    dark = add_poisson_gaussian_noise(flat(0.0), shot, read, seeded())
    check_moments(dark, 0.0, read**2)


def test_iso_presets():
    for iso, (shot, variance) in ISO_PRESETS.items():
        assert iso_noise(iso) == pytest.approx((shot, math.sqrt(variance)))
    low, middle, high = (iso_noise(iso)[0] for iso in (1600, 1600 * math.sqrt(2), 3200))
    assert middle == pytest.approx(math.sqrt(low * high))  # halfway between, in logarithms
    for iso in (99, 25601, math.nan):
        with pytest.raises(ValueError, match=r"iso must be in \[100, 25600\]"):
            iso_noise(iso)
    with pytest.raises(ValueError, match=r"gain.*> 0.*0"):
        camera_noise(0, 3, 4095)


def test_speckle():
    check_moments(add_speckle_noise(flat(0.4), 0.2, seeded()), 0.4, (0.2 * 0.4) ** 2)
    assert not add_speckle_noise(flat(0.0), 0.2, seeded()).any()


def test_salt_and_pepper():
    x = torch.full((1, 3, SIDE, SIDE), 0.5)
    noisy = add_salt_and_pepper_noise(x, 0.1, 0.25, seeded())
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}
    assert torch.equal(noisy[:, 0], noisy[:, 1])  # whole pixels
    for value, probability in ((1.0, 0.025), (0.0, 0.075)):
        part = (noisy[:, 0] == value).double().mean().item()
        assert abs(part - probability) < 5 * math.sqrt(probability * (1 - probability)) / SIDE


def test_rician():
    sigma, s = 30.0, 30.0 / 255
    noisy = add_rician_noise(flat(0.0), sigma, seeded())  # Rayleigh
    mean, variance = s * math.sqrt(math.pi / 2), s**2 * (2 - math.pi / 2)
    check_moments(noisy, mean, variance, excess=0.2451)
    bright = add_rician_noise(flat(0.5), sigma, seeded())
    # E = x^2 + 2 s^2 and Var = 4 s^2 (x^2 + s^2) of the square, a noncentral chi^2 of 2 degrees
    variance = 4 * s**2 * (0.25 + s**2)
    assert abs(bright.square().mean() - 0.25 - 2 * s**2) < 5 * math.sqrt(variance) / SIDE


@pytest.mark.parametrize(("direction", "dim"), [("rows", 3), ("columns", 2)])
def test_banding(direction, dim):
    x = torch.full((4, 3, 500, 500), 0.5, dtype=torch.float64)
    offsets = add_banding_noise(x, 10.0, direction, seeded()) - x
    assert (offsets.amax(dim=(1, dim)) - offsets.amin(dim=(1, dim)) == 0).all()
    check_moments(offsets.mean(dim=(1, dim)), 0.0, (10 / 255) ** 2)
    with pytest.raises(ValueError, match=r"direction.*rows, columns.*'up'"):
        add_banding_noise(x, 1.0, "up")


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_a_turn_through_a_file(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, channels), dtype=np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    picture.save(stream, "JPEG", quality=40)  # Pillow's default is 4:2:0, too
    expected = np.asarray(Image.open(stream)).reshape(24, 16, channels)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0
    both = add_jpeg_artefacts(torch.cat([x, x]), torch.tensor([40.0, 90.0]))
    got = (both[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(got, expected)
    assert (both[1] - x[0]).abs().mean() < (both[0] - x[0]).abs().mean()


def test_a_map_of_sigma():
    x = torch.full((2, 3, 200, 400), 0.5, dtype=torch.float64)
    sigma = torch.full((2, 1, 200, 400), 5.0)
    sigma[..., 200:] = 40.0
    noise = add_gaussian_noise(x, sigma, seeded()) - x
    check_moments(noise[..., :200], 0.0, (5 / 255) ** 2)
    check_moments(noise[..., 200:], 0.0, (40 / 255) ** 2)


@pytest.mark.parametrize(
    "add",
    [
        lambda x, v, g: add_gaussian_noise(x, v * 100, g),
        lambda x, v, g: add_poisson_noise(x, v * 100, g),
        lambda x, v, g: add_poisson_gaussian_noise(x, v / 100, v / 10, g),
        lambda x, v, g: add_speckle_noise(x, v, g),
        lambda x, v, g: add_salt_and_pepper_noise(x, v, generator=g),
        lambda x, v, g: add_rician_noise(x, v * 100, g),
        lambda x, v, g: add_banding_noise(x, v * 100, generator=g),
    ],
    ids=["gaussian", "poisson", "poisson_gaussian", "speckle", "impulse", "rician", "banding"],
)
def test_batches_strengths_generators_and_errors(add):
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    strengths = torch.tensor([0.1, 0.5, 1.0])
    noisy = add(x, strengths, [seeded(i) for i in range(3)])
    assert noisy.shape == x.shape
    assert noisy.dtype == x.dtype
    for i in range(3):  # alone as in the batch
        alone = add(x[i : i + 1], float(strengths[i]), [seeded(i)])
        torch.testing.assert_close(alone[0], noisy[i], rtol=0, atol=1e-6)
    assert torch.equal(add(x, strengths, seeded(1)), add(x, strengths, seeded(1)))
    assert add(x.half(), strengths, seeded()).dtype == torch.float16
    with pytest.raises(ValueError, match="must be finite and"):
        add(x, torch.tensor([0.1, math.nan, 0.1]), seeded())
    with pytest.raises(ValueError, match="must be finite and"):
        add(x, -1.0, seeded())
    with pytest.raises(ValueError, match=r"\(N,\)"):
        add(x, torch.ones(2), seeded())
    with pytest.raises(ValueError, match="one per image"):
        add(x, strengths, [seeded()])
    with pytest.raises(TypeError, match="floating-point"):
        add(x.int(), strengths, seeded())


# ---- chains

CHAIN = TypeAdapter(list[NoiseStep])
EVERYTHING = [
    {"kind": "camera", "iso_min": 1600.0},
    {"kind": "gaussian", "sigma_max": 25.0, "varying": True},
    {"kind": "poisson", "photons_min": 50.0, "photons_max": 500.0},
    {"kind": "poisson_gaussian", "shot_min": 1e-3, "shot_max": 1e-2, "read_max": 0.01},
    {"kind": "speckle", "contrast_min": 0.0, "contrast_max": 0.1},
    {"kind": "salt_and_pepper", "amount_min": 0.0, "amount_max": 0.02},
    {"kind": "rician", "sigma_min": 1.0, "sigma_max": 5.0},
    {"kind": "banding", "sigma_min": 1.0, "sigma_max": 5.0, "probability": 0.5},
    {"kind": "jpeg", "quality_min": 60.0, "quality_max": 95.0, "probability": 0.5},
]


def test_a_chain_depends_on_seed_step_and_index_alone():
    steps = CHAIN.validate_python(EVERYTHING)
    x = torch.rand(4, 3, 16, 16, generator=seeded())
    noisy, level = add_noise_chain(x, steps, seed=1, step=2)
    torch.testing.assert_close(level, (noisy - x).square().mean(dim=(1, 2, 3)).sqrt() * 255)
    part, part_level = add_noise_chain(x[2:], steps, seed=1, step=2, first=2)
    assert torch.equal(part, noisy[2:])
    assert torch.equal(part_level, level[2:])
    for seed, step in ((1, 3), (2, 2)):
        assert not torch.equal(add_noise_chain(x, steps, seed, step)[0], noisy)


def test_the_strength_is_drawn_from_its_range():
    (step,) = CHAIN.validate_python([{"kind": "gaussian", "sigma_min": 10.0, "sigma_max": 30.0}])
    x = torch.full((400, 1, 24, 24), 0.5)
    _, level = add_noise_chain(x, [step], 0, 0)
    # 576 values: the level itself is known to 1/sqrt(2 * 576) = 3 %
    assert 10 * 0.85 < level.min() < 12
    assert 28 < level.max() < 30 * 1.15
    assert abs(level.mean() - 20) < 5 * (20 / math.sqrt(12)) / math.sqrt(400)


def test_probability():
    (step,) = CHAIN.validate_python([{"kind": "gaussian", "sigma_min": 9.0, "probability": 0.25}])
    _, level = add_noise_chain(torch.zeros(400, 1, 4, 4), [step], 0, 0)
    part = (level > 0).double().mean().item()
    assert abs(part - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 400)


def test_srgb_curve():
    x = torch.linspace(-0.1, 1.2, 200, dtype=torch.float64)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(x)), x, rtol=0, atol=1e-6)
    # IEC 61966-2-1: half of the light is 188 of 255
    assert linear_to_srgb(torch.tensor([0.5])).item() * 255 == pytest.approx(187.5, abs=0.1)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "gauss"}, "gaussian"),
        ({"kind": "jpeg", "quality_min": 0.0, "quality_max": 9.0}, "greater than or equal to 1"),
        ({"kind": "camera", "iso_max": 51200.0}, "less than or equal to 25600"),
        (
            {"kind": "gaussian", "sigma_min": 9.0, "sigma_max": 3.0},
            "sigma_max must be >= sigma_min",
        ),
        ({"kind": "rician", "sigma": 3.0}, "Extra inputs"),
    ],
)
def test_wrong_steps(step, message):
    with pytest.raises(ValidationError, match=message):
        CHAIN.validate_python([step])


def test_image_generators_are_independent_and_repeatable():
    draws = {
        (step, index, place): float(image_generator(5, step, NOISE, index, place).random())
        for step in (0, 7) for index in (0, 1, 2**31 - 1) for place in (0, 1, 255)
    }  # fmt: skip
    draws["whole batch"] = float(step_generator(5, 0, NOISE).random())
    assert len(set(draws.values())) == len(draws)
    assert draws[7, 1, 1] == float(image_generator(5, 7, NOISE, 1, 1).random())
    with pytest.raises(ValueError, match="index"):
        image_generator(5, 0, NOISE, -1)
