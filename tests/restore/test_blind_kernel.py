"""Kernels from the blurred image alone: against the truth, and the steps against other code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from denoise_ext import io
from denoise_ext.restore import blind, estimate_kernel, gaussian_kernel, motion_kernel


def drawing(side: int, seed: int = 0) -> np.ndarray:
    """Rectangles of many sizes on each other."""
    random = np.random.default_rng(seed)
    x = np.full((side, side), 0.5)
    for _ in range(60):
        top, left = random.integers(0, side, 2)
        height, width = random.integers(4, side // 3, 2)
        x[top : top + height, left : left + width] = random.uniform(0.1, 0.9)
    return x


def blurred(x: np.ndarray, kernel: np.ndarray, sigma: float = 2.55) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma / 255, x.shape)
    return ndimage.convolve(x, kernel, mode="nearest") + noise


def placed(kernel: np.ndarray, size: int) -> np.ndarray:
    rows, columns = ((size - n) // 2 for n in kernel.shape)
    return np.pad(kernel, ((rows, rows), (columns, columns)))


@pytest.mark.parametrize(
    "kernel", [motion_kernel(9, 30), motion_kernel(11, -60), gaussian_kernel(1.0)],
    ids=["right", "down", "gaussian"],
)  # fmt: skip
def test_a_blur_is_found(kernel):
    found = estimate_kernel(blurred(drawing(160), kernel.numpy()), 15)
    assert found.dtype == torch.float64 and found.shape == (15, 15)
    assert float(found.sum()) == pytest.approx(1) and bool((found >= 0).all())
    # Position is known up to a pixel's rounding: half a pixel in rows and in columns.
    truth = placed(kernel.numpy(), 15)
    moved = ndimage.shift(truth, (0.5, 0.5), order=1), ndimage.shift(truth, (0.5, -0.5), order=1)
    bound = max(np.linalg.norm(other - truth) for other in moved)
    assert np.linalg.norm(found.numpy() - truth) < bound


def test_a_sharp_drawing_has_no_blur():
    found = estimate_kernel(drawing(96), 7)
    # Two step edges a pixel apart are what a blur of two pixels makes: most of it is in one.
    assert float(found[3, 3]) > 0.5


def test_the_same_image_gives_the_same_kernel_whatever_its_kind(tmp_path):
    pixels = np.round(blurred(drawing(64), motion_kernel(5).numpy()).clip(0, 1) * 255)
    pixels = pixels.astype(np.uint8)
    first = estimate_kernel(pixels, 7)
    io.write_image(tmp_path / "a.png", pixels)
    deep = torch.from_numpy(pixels.astype(np.uint16) * np.uint16(257))
    for image in (pixels, Image.fromarray(pixels), str(tmp_path / "a.png"), deep):
        assert torch.equal(estimate_kernel(image, 7), first)
    scaled = estimate_kernel(pixels.astype(np.float32), 7, value_range=(0, 255))
    assert torch.equal(scaled, first)


def test_alpha_does_not_count_and_colours_are_averaged():
    gray = blurred(drawing(48), motion_kernel(5).numpy()).astype(np.float32)
    alpha = np.random.default_rng(0).random(gray.shape).astype(np.float32)
    assert torch.equal(estimate_kernel(np.stack([gray, alpha], -1), 5), estimate_kernel(gray, 5))
    colours = np.stack([gray * 0.5, gray, gray * 1.5], -1)
    mean = colours.astype(np.float64).mean(-1)
    assert torch.equal(estimate_kernel(colours, 5), estimate_kernel(mean, 5))


def test_of_a_large_image_the_middle_is_used(monkeypatch):
    monkeypatch.setattr(blind, "LARGEST_PART", 48)
    image = blurred(drawing(60), motion_kernel(5).numpy())
    assert torch.equal(estimate_kernel(image, 5), estimate_kernel(image[6:54, 6:54], 5))


@pytest.mark.parametrize("shape", [(15, 15), (15, 90), (16, 17)])
def test_images_as_small_as_the_kernel(shape):
    image = np.random.default_rng(0).random(shape)
    found = estimate_kernel(image, 15)
    assert bool(torch.isfinite(found).all()) and float(found.sum()) == pytest.approx(1)


def test_a_kernel_of_one_pixel():
    assert estimate_kernel(drawing(32), 1).tolist() == [[1.0]]


BROKEN = np.random.default_rng(0).random((32, 32))
BROKEN[3, 4] = np.nan


@pytest.mark.parametrize(
    ("image", "size", "error", "words"),
    [
        (drawing(32), 4, ValueError, ["size", "odd", "4"]),
        (drawing(32), 0, ValueError, ["size", "0"]),
        (drawing(80), 65, ValueError, ["size", "63", "65"]),
        (drawing(32), 5.0, TypeError, ["size", "5.0"]),
        (drawing(32), True, TypeError, ["size", "True"]),
        (drawing(32)[:9], 11, ValueError, ["size", "11", "9 x 32"]),
        (np.full((32, 32), 0.3), 5, ValueError, ["image", "flat"]),
        (BROKEN, 5, ValueError, ["image", "NaN"]),
        (torch.rand(2, 1, 32, 32), 5, ValueError, ["image", "batch", "2"]),
        ([[1.0]], 5, TypeError, ["image", "list"]),
        (np.full((32, 32), 0.5) + 1e-6 * np.eye(32), 5, ValueError, ["image", "edge"]),
    ],
)
def test_bad_input(image, size, error, words):
    with pytest.raises(error) as raised:
        estimate_kernel(image, size)
    for word in words:
        assert word in str(raised.value)


# --- the steps -------------------------------------------------------------------------------


def test_the_kernel_step_equals_numpys_least_squares():
    random = np.random.default_rng(2)
    given = [np.pad(random.standard_normal((12, 13)), 3) for _ in range(2)]
    kernel = random.random((3, 3))
    wanted = [ndimage.convolve(x, kernel, mode="constant") for x in given]
    found = blind._between(*([torch.from_numpy(x) for x in xs] for xs in (given, wanted)), 3)
    rows = np.concatenate([
        np.stack([np.roll(x, (i, j), (0, 1)).ravel() for i in (-1, 0, 1) for j in (-1, 0, 1)], 1)
        for x in given
    ])  # fmt: skip
    gram = rows.T @ rows
    gram[np.diag_indices(9)] *= 1 + blind._RIDGE
    right = rows.T @ np.concatenate([y.ravel() for y in wanted])
    assert found.numpy().ravel() == pytest.approx(np.linalg.solve(gram, right), abs=1e-10)


def test_the_image_step_keeps_a_drawing_and_removes_weak_texture():
    drawn = torch.full((48, 48), 0.2)
    drawn[10:30, 8:40] = 0.8  # edges far above the root of the cost, texture far below
    texture = 0.01 * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(0))
    sharp = blind._with_few_edges(drawn + texture, torch.ones(1, 1), 8e-3)
    before, after = ((x - drawn).square().mean().sqrt() for x in (drawn + texture, sharp))
    assert after < before / 2
    flat = blind._with_few_edges(0.5 + texture, torch.ones(1, 1), 8e-3)
    assert float(flat.max() - flat.min()) < 0.01 * float(texture.max() - texture.min())


def test_specks_are_removed_as_scipy_labels_them():
    random = np.random.default_rng(3)
    kernel = random.random((15, 15)) * (random.random((15, 15)) < 0.2)
    kernel[6:9] = 1
    labels, count = ndimage.label(kernel, np.ones((3, 3)))
    sums = ndimage.sum(kernel, labels, np.arange(count + 1))
    expected = np.where(sums[labels] >= 0.1 * kernel.sum(), kernel, 0)
    assert count > 2 and (expected != kernel).any()
    assert np.array_equal(blind._without_specks(torch.from_numpy(kernel)).numpy(), expected)


def test_the_image_goes_on_without_a_jump():
    x = torch.from_numpy(drawing(20)).float() + torch.linspace(0, 3, 20)
    larger = blind._continued(x, (32, 27))
    assert torch.equal(larger[:20, :20], x)
    # A mirrored part repeats neighbours. The passage from one edge to the other adds its slope.
    for dim, more in ((0, 12), (1, 7)):
        jumps = (larger.roll(-1, dim) - larger).abs().max()
        slope = np.pi / 2 / (more + 1) * (x.max() - x.min())
        assert jumps <= (x.roll(-1, dim) - x).narrow(dim, 0, 19).abs().max() + slope
