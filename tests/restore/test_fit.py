"""Kernels from pairs of images: against SciPy's least squares, and against the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize

from denoise_ext import nn
from denoise_ext.restore import (
    disk_kernel,
    fit_inverse_kernel,
    fit_kernel,
    gaussian_kernel,
    motion_kernel,
)

RANDOM = np.random.default_rng(0)


def target(side: int, cell: int = 1) -> np.ndarray:
    """A random pattern of black and white cells, as it is drawn for calibration."""
    cells = RANDOM.integers(0, 2, (side // cell, side // cell)) * 0.8 + 0.1
    return np.kron(cells, np.ones((cell, cell)))


def blurred(x: np.ndarray, kernel: np.ndarray, sigma: float = 0.0) -> np.ndarray:
    noise = RANDOM.normal(0, sigma / 255, x.shape)
    return ndimage.convolve(x, kernel, mode="nearest") + noise


def placed(kernel: np.ndarray, size: int) -> np.ndarray:
    rows, columns = ((size - n) // 2 for n in kernel.shape)
    return np.pad(kernel, ((rows, rows), (columns, columns)))


@pytest.mark.parametrize(
    "kernel", [gaussian_kernel(1.2), motion_kernel(12, 30), disk_kernel(6.5)],
    ids=["gaussian", "motion", "disk"],
)  # fmt: skip
def test_a_kernel_of_15_pixels_is_found_within_two_percent_at_noise(kernel):
    x, kernel = target(256), kernel.numpy()
    found = fit_kernel(x, blurred(x, kernel, 2.55), 15)
    truth = placed(kernel, 15)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) <= 0.02


def test_without_noise_the_kernel_is_exact():
    x = target(64)
    kernel = np.arange(1.0, 16).reshape(3, 5)
    kernel /= kernel.sum()
    found = fit_kernel(x, blurred(x, kernel), 7)
    # The ridge of 1e-10 and 0.25 of variance leave some 1e-9.
    assert np.abs(found - placed(kernel, 7)).max() < 1e-7


def equations(source: np.ndarray, wanted: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel that the edge does not reach as one equation."""
    reach = size // 2
    windows = np.lib.stride_tricks.sliding_window_view(source, (size, size))
    rows = windows[..., ::-1, ::-1].reshape(-1, size * size)
    return rows, wanted[reach:-reach, reach:-reach].ravel()


def test_nonnegative_least_squares_equal_scipys():
    x = RANDOM.random((24, 25))
    # A kernel with negative numbers: many of the fitted ones end at zero.
    y = blurred(x, RANDOM.normal(0.1, 0.3, (5, 5)), 8.0)
    rows, values = equations(x, y, 5)
    expected, _ = optimize.nnls(rows, values)
    assert (expected == 0).any() and (expected > 0).any()
    found = fit_kernel(x, y, 5)
    assert found.ravel() == pytest.approx(expected / expected.sum(), abs=1e-8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_inverse_kernel_equals_numpys_least_squares(channels):
    pairs = []
    for side in (30, 26):
        x = RANDOM.random((side, side, channels))
        kernel = gaussian_kernel(0.8).numpy()[..., None]
        pairs.append((blurred(x, kernel, 3.0), x))
    layer = fit_inverse_kernel(pairs, 7)
    assert isinstance(layer, nn.Conv2d) and not layer.training
    assert layer.weight.shape == (channels, 1, 7, 7)
    rows, values = zip(
        *(equations(y[..., c], x[..., c], 7) for y, x in pairs for c in range(channels))
    )
    expected = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    for c in range(channels):  # a layer correlates
        weight = layer.weight[c, 0].detach().numpy()
        assert weight == pytest.approx(expected.reshape(7, 7)[::-1, ::-1], abs=1e-5)
    y = pairs[0][0]
    batch = torch.from_numpy(y).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        result = layer(batch)[0].permute(1, 2, 0).numpy()
    inverse = expected.reshape(7, 7, 1)
    assert result == pytest.approx(ndimage.convolve(y, inverse, mode="nearest"), abs=1e-4)


def test_large_images_are_summed_in_parts(monkeypatch):
    from denoise_ext.restore import fit

    x = target(64)
    y = blurred(x, disk_kernel(2).numpy(), 2.0)
    whole = fit_kernel(x, y, 7)
    monkeypatch.setattr(fit, "_CHUNK", 49 * 64 * 3)
    assert fit_kernel(x, y, 7) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: fit_kernel(x, x, 4), ValueError, ["size", "odd", "4"]),
        (lambda x: fit_kernel(x, x, 65), ValueError, ["size", "63", "65"]),
        (lambda x: fit_kernel(x, x, 3.0), TypeError, ["size", "3.0"]),
        (lambda x: fit_kernel(x, x[1:], 3), ValueError, ["sharp", "blurred", "(1, 20, 20)"]),
        (lambda x: fit_kernel(x, x, 21), ValueError, ["size", "21", "20 x 20"]),
        (lambda x: fit_kernel(x * 0 + 0.5, x, 3), ValueError, ["sharp", "flat"]),
        (lambda x: fit_kernel(x, x * 0, 3), ValueError, ["blurred", "zero"]),
        (lambda x: fit_inverse_kernel([], 3), ValueError, ["pairs", "empty"]),
        (lambda x: fit_inverse_kernel([x], 3), TypeError, ["pairs"]),
        (lambda x: fit_inverse_kernel([(x, x), (x[..., None].repeat(3, 2),) * 2], 3), ValueError,
         ["pairs", "[1, 3]"]),
        (lambda x: fit_kernel(x * np.nan, x, 3), ValueError, ["NaN"]),
    ],
)  # fmt: skip
def test_bad_pairs_are_one_clear_error(call, error, words):
    with pytest.raises(error) as raised:
        call(np.random.default_rng(0).random((20, 20)))
    for word in words:
        assert word in str(raised.value)
