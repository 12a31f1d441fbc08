"""Measures of fine detail: closed forms, what they see and what they do not."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from denoise_ext.metrics import high_frequency_energy, lpips, patch_wasserstein


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_energy_of_half_the_amplitude_is_a_quarter():
    x = noise(0, 2, 3, 40, 56)
    assert torch.allclose(high_frequency_energy(0.5 * x, x), torch.full((2,), 0.25).double())


def test_only_energy_above_half_of_nyquist_counts():
    place = torch.arange(64, dtype=torch.float64)
    slow, fast = (torch.cos(2 * torch.pi * f * place).expand(1, 1, 64, 64) for f in (0.125, 0.375))
    # The window's own spectrum is two lines wide: nothing of the slow wave reaches 0.25.
    found = high_frequency_energy(5.0 * slow + fast, slow + fast)
    assert float(found) == pytest.approx(1.0, abs=1e-6)
    assert float(high_frequency_energy(slow + 2 * fast, slow + fast)) == pytest.approx(
        4.0, abs=1e-4
    )


def test_the_edge_of_an_image_is_no_fine_detail():
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 1, 64, 64)
    x = ramp + 1e-3 * noise(1, 1, 1, 64, 64)
    assert float(high_frequency_energy(ramp, x)) < 0.01


def test_equal_images_are_at_distance_0_and_shuffled_detail_is_near():
    x = noise(0, 1, 1, 128, 128)
    assert float(patch_wasserstein(x, x)) == 0.0
    other = noise(1, 1, 1, 128, 128)  # the same distribution, other values
    assert float(patch_wasserstein(other, x)) < 0.06
    assert float(patch_wasserstein(0.7 * x, x)) > 0.15


def test_one_level_of_scaled_noise_has_its_closed_form():
    """The coordinate of a patch of a x is a times that of x: distance (1 - a) E|c| / deviation."""
    x = noise(0, 2, 1, 64, 64)
    half, nine = (patch_wasserstein(a * x, x, levels=1) for a in (0.5, 0.9))
    assert torch.allclose(half, 5 * nine, rtol=1e-3)
    # Coordinates of white noise would have deviation 1 and E|c| = sqrt(2 / pi); the finest level of
    # the pyramid is nearly white. The directions are random: 64 of them.
    assert float(half[0]) == pytest.approx(0.5 * (2 / torch.pi) ** 0.5, rel=0.15)


def test_it_is_a_function_of_its_seed_and_does_not_depend_on_the_scale():
    x, y = noise(0, 1, 3, 40, 40), noise(1, 1, 3, 40, 40)
    assert torch.equal(patch_wasserstein(y, x), patch_wasserstein(y, x))
    assert not torch.equal(patch_wasserstein(y, x), patch_wasserstein(y, x, seed=1))
    scaled = patch_wasserstein(100 * y, 100 * x)
    assert torch.allclose(scaled, patch_wasserstein(y, x), rtol=1e-4)


def test_flat_images_have_a_distance():
    flat = torch.zeros(1, 1, 32, 32)
    assert float(patch_wasserstein(flat, flat)) == 0.0
    assert float(patch_wasserstein(flat + 0.01 * noise(0, 1, 1, 32, 32), flat)) > 1


@pytest.mark.parametrize("measure", [high_frequency_energy, patch_wasserstein])
def test_bad_images_are_named(measure):
    x = torch.zeros(1, 1, 64, 64)
    with pytest.raises(TypeError, match="bool"):
        measure(x > 0, x > 0)
    with pytest.raises(ValueError, match=r"\(1, 1, 63, 64\)"):
        measure(x, x[..., 1:, :])
    with pytest.raises(ValueError, match=r"H, W >= \d+, got \(1, 1, 4, 64\)"):
        measure(x[..., :4, :], x[..., :4, :])


@pytest.mark.parametrize("levels", [0, -1, 1.5, True])
def test_bad_levels_are_named(levels):
    x = torch.zeros(1, 1, 64, 64)
    with pytest.raises(ValueError, match=f"levels .*{levels}"):
        patch_wasserstein(x, x, levels)


def test_lpips_calls_the_package(monkeypatch):
    """The package's calling convention, with a network that needs no weights."""
    made = []

    class LPIPS(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            made.append(net)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.shape[1] == 3 and float(a.min()) >= -1 and float(a.max()) <= 1
            return (a - b).square().mean(dim=(1, 2, 3), keepdim=True)

    module = types.ModuleType("lpips")
    module.LPIPS = LPIPS
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setattr("denoise_ext.metrics.texture._lpips", {})
    a, b = torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)
    assert torch.equal(lpips(a, b), torch.full((2,), 4.0, dtype=torch.float64))
    lpips(a, b)
    assert made == ["alex"]  # loaded once


def test_lpips_without_its_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ModuleNotFoundError, match="lpips"):
        lpips(x, x)
    with pytest.raises(ValueError, match=r"net .*'resnet'"):
        lpips(x, x, net="resnet")
    with pytest.raises(ValueError, match=r"\(1, 2, 32, 32\)"):
        lpips(x[:, :2], x[:, :2])
