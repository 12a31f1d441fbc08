"""`estimate_kernel`: kernels that blurred an image, from that image alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from denoise_ext.restore import estimate_kernel, motion_kernel
from denoise_ext.restore.blind import _scales


def cells(side: int = 160, seed: int = 0) -> np.ndarray:
    """A picture of rectangles: strong edges in both directions, as a blind method needs them."""
    random, image = np.random.default_rng(seed), np.full((side, side), 0.5)
    for _ in range(60):
        top, left = random.integers(0, side - 12, 2)
        height, width = random.integers(10, 50, 2)
        image[top : top + height, left : left + width] = random.uniform(0.1, 0.9)
    return ndimage.rotate(image, 30, reshape=False, mode="reflect", order=1)


def blurred(kernel: np.ndarray, sigma: float = 1.0, mode: str = "wrap") -> np.ndarray:
    y = ndimage.convolve(cells(), kernel, mode=mode)
    return (y + np.random.default_rng(1).normal(0, sigma / 255, y.shape)).astype(np.float32)


def likeness(found: np.ndarray, kernel: np.ndarray) -> float:
    """Largest normalised correlation over all shifts: the place is not determined."""
    side = 2 * max(*found.shape, *kernel.shape)
    product = np.fft.fft2(found, (side, side)) * np.fft.fft2(kernel, (side, side)).conj()
    norm = np.linalg.norm(found) * np.linalg.norm(kernel)
    return float(np.fft.ifft2(product).real.max() / norm)


@pytest.mark.parametrize("angle", [0, 40, 115])
@pytest.mark.parametrize("border", ["free", "circular"])
def test_motions_are_found(angle, border):
    kernel = motion_kernel(11, angle).numpy()
    y = blurred(kernel)
    y = y[8:-8, 8:-8].copy() if border == "free" else y
    found = estimate_kernel(y, 15, border)
    assert found.shape == (15, 15) and found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-6)
    # The measure tells directions apart: a line of 11 pixels has 0.5 with one 40 degrees away.
    other = motion_kernel(11, angle + 40).numpy()
    assert likeness(other, kernel) < 0.65 < likeness(found, kernel)
    assert likeness(found, other) < likeness(found, kernel) - 0.1


def test_the_mass_is_in_the_middle():
    kernel = np.zeros((13, 13))
    kernel[1:6, 2] = 0.2  # a motion that is not centred
    found = estimate_kernel(blurred(kernel), 13, "circular")
    rows, columns = np.indices(found.shape)
    assert abs((found * rows).sum() - 6) <= 0.75 and abs((found * columns).sum() - 6) <= 0.75


def test_colours_share_a_kernel():
    kernel = motion_kernel(7, 60).numpy()
    gray = blurred(kernel)
    colour = np.stack([gray, gray, gray], -1)
    # The mean of three equal numbers is that number, up to rounding of float32.
    expected = estimate_kernel(gray, 11, "circular")
    assert estimate_kernel(colour, 11, "circular") == pytest.approx(expected, abs=1e-3)


def test_scales_end_at_the_size():
    for size in (3, 5, 13, 27, 63):
        sizes = _scales(size)
        assert sizes[0] == 3 and sizes[-1] == size
        assert all(side % 2 for side in sizes) and sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("image", "size", "border", "words"),
    [
        (cells(40), 21, "free", ["size", "42 x 42", "40 x 40"]),
        (cells(40), 8, "free", ["size", "8"]),
        (cells(40), 1, "free", ["size", "1"]),
        (cells(40), 65, "free", ["size", "65"]),
        (cells(40), 7.0, "free", ["size", "7.0"]),
        (cells(40), 7, "open", ["border", "open"]),
        (np.full((40, 40), 0.3), 7, "free", ["flat"]),
        (np.zeros((40, 40), bool), 7, "free", ["image", "bool"]),
        (np.zeros((0, 4)), 7, "free", ["empty"]),
    ],
)
def test_bad_arguments(image, size, border, words):
    with pytest.raises((TypeError, ValueError)) as raised:
        estimate_kernel(image, size, border)
    assert all(word in str(raised.value) for word in words), raised.value
