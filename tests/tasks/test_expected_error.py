"""Expected errors of smooth and of detailed places, against denoisers whose errors are known."""

from __future__ import annotations

import math

import pytest
import torch

from denoise_ext.models.registry import Factors
from denoise_ext.tasks.expected_error import Places, balanced, spread_out
from denoise_ext.tasks.uncertainty import deviations_of, estimate, probe

SIGMA = 25.0
LEVEL = SIGMA / 255
PROBES = 4


def shares(height: int, width: int) -> torch.Tensor:
    """The diagonal of a denoiser: 0.02 on the left, 0.5 on the right."""
    by = torch.full((1, 1, height, width), 0.02, dtype=torch.float64)
    by[..., width // 2 :] = 0.5
    return by


def images(by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(clean, noisy) for which `by` is best: pixels of variance by / (1 - by) around 0.5."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(2, *by.shape, generator=generator, dtype=torch.float64)[:, 0]
    clean = 0.5 + LEVEL * (by / (1 - by)).sqrt() * numbers[0]
    return clean, clean + LEVEL * numbers[1]


def shrink(by: torch.Tensor):
    return lambda y, sigma: 0.5 + by * (y - 0.5)


def errors(by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared errors in units of the noise's variance, and the noisy image."""
    clean, y = images(by)
    return ((shrink(by)(y, SIGMA) - clean) / LEVEL).square(), y


@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
def test_stein_corrects_wrong_ratios(wrong):
    by = shares(512, 512)
    squares, y = errors(by)
    found = probe(shrink(by), y, SIGMA, PROBES)
    factors = Factors((wrong, wrong), (1.0, 1.0), 0.0, 1.645)
    ratios, error, deviation = balanced(found.places, factors)
    # In smooth places Stein's estimate of 0.02 has a deviation of sqrt(2 / 2^17) = 0.004.
    assert float(ratios[0]) == pytest.approx(1, abs=0.6)
    assert float(ratios[1]) == pytest.approx(1, abs=0.03)
    assert error == pytest.approx(float(squares.mean()), abs=4 * deviation)
    # All that is not known is the noise's energy: the prior helps in smooth places alone.
    assert 0.4 < deviation / math.sqrt(2 / y.numel()) < 1.05
    # The map follows, pixel by pixel; half of a block to each side of the edge is in between.
    widths = deviations_of(found, factors).square()
    right = (..., slice(272, None))
    assert float(widths[right].mean()) == pytest.approx(float(squares[right].mean()), rel=0.03)


def test_sure_ratios_stay():
    by = shares(64, 64)
    _, y = errors(by)
    found = probe(shrink(by), y, SIGMA, PROBES)
    ratios, error, _ = balanced(found.places, Factors((1.3, 1.2), (1e-4, 1e-4), 0.9, 1.645))
    # Miyasawa's variance is not known to 0.01.  Smooth places predict 0.02, so that they may move.
    assert float(ratios[1]) == pytest.approx(1.2, rel=2 * 0.01 / 0.6)
    assert error == pytest.approx((0.026 + 0.6) / 2, abs=0.01)


def test_correlation_carries_what_detail_shows_to_smooth_places():
    by = shares(128, 128)
    _, y = errors(by)
    places = probe(shrink(by), y, SIGMA, PROBES).places
    alone, together = (
        float(balanced(places, Factors((2.0, 2.0), (1.0, 1.0), correlation, 1.645))[0][0])
        for correlation in (0.0, 0.95)
    )
    assert together < 0.9 * alone  # detail shows a ratio of 1 where 2 was expected


@pytest.mark.parametrize("by", [0.0, 0.01, 0.8])
def test_images_of_one_kind_of_place(by):
    everywhere = torch.full((1, 1, 96, 96), by, dtype=torch.float64)
    squares, y = errors(everywhere)
    found = probe(shrink(everywhere), y, SIGMA, PROBES)
    ratios, error, deviation = balanced(found.places, Factors((1.0, 1.0), (0.5, 0.2), 0.3, 1.6))
    assert bool(ratios.isfinite().all()) and error > 0
    assert error == pytest.approx(float(squares.mean()), abs=4 * deviation)


def test_what_was_removed_unseen_widens_intervals():
    everywhere = torch.full((1, 1, 96, 96), 0.02, dtype=torch.float64)
    found = probe(shrink(everywhere), errors(everywhere)[1], SIGMA, PROBES)
    factors = Factors((1.0, 1.0), (0.5, 0.2), 0.3, 1.6, 0.003)
    ratio = float(balanced(found.places, factors)[0][0])
    variance = deviations_of(found, factors).square()
    expected = torch.full_like(variance, ratio * 0.02 + 0.003)
    assert torch.allclose(variance, expected, rtol=1e-6)  # ratios of pixels are float32


def test_sums_over_blocks():
    by = shares(40, 70)  # 2 x 4 whole blocks, 32 x 64 pixels; two columns of them are smooth
    generator = torch.Generator().manual_seed(1)
    places = Places(by.shape, 3)
    changes = by + 0.01 * torch.randn(3, *by.shape[1:], generator=generator, dtype=torch.float64)
    for change in changes:
        places.add(change[None])
    removed = torch.rand(by.shape, generator=generator, dtype=torch.float64)
    places.close(removed)
    assert places.detailed.tolist() == [[[[0, 1, 1, 1]] * 2]]  # 3 x 3 blocks around count
    assert places.numbers.tolist() == [2 * 256, 6 * 256]
    left, right = (..., slice(32), slice(16)), (..., slice(32), slice(16, 64))
    expected = [float(changes.mean(0)[None][part].mean()) for part in (left, right)]
    assert places.diagonal.tolist() == pytest.approx(expected, abs=1e-6)
    mean, variance = places.stein
    for i, part in enumerate((left, right)):
        stein = float(removed[part].mean()) - 1 + 2 * expected[i]
        assert float(mean[i]) == pytest.approx(stein, abs=1e-6)
        assert float(variance[i]) == pytest.approx(2 / places.numbers[i], rel=0.05)
        assert float(places.errors(removed)[i]) == pytest.approx(float(removed[part].mean()))


def test_ratios_of_pixels_have_no_steps():
    by = shares(70, 200)
    places = probe(shrink(by), images(by)[1], SIGMA, 2).places
    ratios = spread_out(torch.tensor([0.5, 2.0], dtype=torch.float64), places, (1, 3, 70, 200))
    assert ratios.shape == (1, 1, 70, 200)
    assert float(ratios[..., 0].max()) == pytest.approx(0.5)
    assert float(ratios[..., -1].min()) == pytest.approx(2.0)
    # From 0.5 to 2 in 16 pixels: at most a sixteenth of log 4 for each.
    steps = ratios.log().diff(dim=-1)
    assert float(steps.max()) < 1.01 * math.log(4) / 16


def test_the_scale_of_the_image_does_not_matter():
    by = shares(64, 96)
    _, y = errors(by)
    factors = Factors((1.1, 1.2), (0.4, 0.2), 0.5, 1.6)
    one = estimate(shrink(by), y, SIGMA, PROBES, factors)
    half = estimate(lambda x, s: shrink(by)(2 * x, s) / 2, y / 2, SIGMA / 2, PROBES, factors)
    assert half.psnr == pytest.approx(one.psnr + 20 * math.log10(2), abs=1e-6)
    assert torch.allclose(2 * half.deviation, one.deviation)
