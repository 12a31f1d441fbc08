"""Synthetic noise, and randomness that depends on (seed, step) alone."""

from __future__ import annotations

import math

import pytest
import torch

from denoise_ext.data import add_gaussian_noise, step_generator, step_seed


def test_noise_has_the_sigma_it_was_asked_for():
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    noise = add_gaussian_noise(torch.full((1, 1, n, 1), 0.5), 25.0, generator) - 0.5
    sigma = 25.0 / 255.0
    # Standard errors: sigma / sqrt(n) of the mean, sigma / sqrt(2 n) of the deviation; five of each
    assert abs(noise.mean().item()) < 5 * sigma / math.sqrt(n)
    assert abs(noise.std().item() - sigma) < 5 * sigma / math.sqrt(2 * n)


def test_noise_is_not_clipped():
    generator = torch.Generator().manual_seed(0)
    noisy = add_gaussian_noise(torch.zeros(1, 1, 64, 64), 50.0, generator)
    assert noisy.min() < 0
    noisy = add_gaussian_noise(torch.ones(1, 1, 64, 64), 50.0, generator)
    assert noisy.max() > 1


def test_one_sigma_per_image():
    x = torch.full((3, 1, 32, 32), 0.5)
    sigma = torch.tensor([0.0, 10.0, 50.0])
    together = add_gaussian_noise(x, sigma, torch.Generator().manual_seed(3)) - x
    unit = add_gaussian_noise(x, 255.0, torch.Generator().manual_seed(3)) - x
    assert (together[0] == 0).all()
    # one rounding each of the product, the sum and the difference, all near 1
    for i in (1, 2):
        torch.testing.assert_close(
            together[i], unit[i] * (sigma[i] / 255.0), rtol=0, atol=16 * torch.finfo(x.dtype).eps
        )


def test_the_generator_decides():
    x = torch.rand(1, 3, 8, 8)
    a = add_gaussian_noise(x, 25, torch.Generator().manual_seed(7))
    b = add_gaussian_noise(x, 25, torch.Generator().manual_seed(7))
    c = add_gaussian_noise(x, 25, torch.Generator().manual_seed(8))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_stays(dtype):
    assert add_gaussian_noise(torch.rand(1, 1, 4, 4).to(dtype), 25).dtype == dtype


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_wrong_sigma(sigma):
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"sigma.*>= 0"):
        add_gaussian_noise(x, sigma)
    with pytest.raises(ValueError, match=r"sigma.*>= 0"):
        add_gaussian_noise(x, torch.tensor([1.0, sigma]))


def test_wrong_shape_or_type():
    with pytest.raises(ValueError, match=r"shape \(N,\)"):
        add_gaussian_noise(torch.rand(2, 1, 4, 4), torch.ones(3))
    with pytest.raises(TypeError, match="floating-point"):
        add_gaussian_noise(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 25)


def test_steps_and_streams_are_independent_and_repeatable():
    draws = {
        (seed, step, stream): float(step_generator(seed, step, stream).random())
        for seed in (0, 1, 2**64 - 1)
        for step in (0, 1, 2**48 - 1)
        for stream in range(4)
    }
    assert len(set(draws.values())) == len(draws)
    for key, value in draws.items():
        assert float(step_generator(*key).random()) == value
    assert step_seed(5, 6, 1) == step_seed(5, 6, 1) != step_seed(5, 7, 1)


def test_seed_and_step_out_of_range():
    with pytest.raises(ValueError, match="seed"):
        step_generator(-1, 0, 0)
    with pytest.raises(ValueError, match="step"):
        step_generator(0, 2**48, 0)
