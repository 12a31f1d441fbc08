"""Functions with scikit-image's arguments give scikit-image's results."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from denoise_ext import Denoiser
from denoise_ext._loader import native_error
from denoise_ext.integrations import scikit_image as ours

filters = pytest.importorskip("skimage.filters")
restoration = pytest.importorskip("skimage.restoration")
pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")


def image(dtype: str = "float64", channels: int = 0) -> np.ndarray:
    shape = (19, 23, channels) if channels else (19, 23)
    values = np.random.default_rng(0).random(shape)
    if dtype == "bool":
        return values > 0.5
    scale = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    return (scale * values).round(0 if scale > 1 else 9).astype(dtype)


def allowed(values: np.ndarray, taps: int) -> float:
    """Rounding of two sums of so many terms in the type of the result, both ways."""
    return 4 * taps * float(np.finfo(values.dtype).eps) * float(np.abs(values).max())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("preserve_range", [False, True])
def test_gaussian_of_every_type(dtype, preserve_range):
    x = image(dtype)
    expected = filters.gaussian(x, 1.3, preserve_range=preserve_range)
    found = ours.gaussian(x, 1.3, preserve_range=preserve_range)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.abs(found - expected).max() <= allowed(expected, 11 * 11)


@pytest.mark.parametrize("mode", ["nearest", "reflect", "constant", "mirror", "wrap"])
@pytest.mark.parametrize("sigma", [0.0, 2.5, (0.7, 3.0), (0.0, 1.0)])
def test_gaussian_beyond_every_edge(mode, sigma):
    x = image()
    expected = filters.gaussian(x, sigma, mode=mode, cval=0.4, truncate=3.0)
    found = ours.gaussian(x, sigma, mode=mode, cval=0.4, truncate=3.0)
    assert np.abs(found - expected).max() <= allowed(expected, 19 * 19)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channels_are_found(axis):
    x = np.moveaxis(image("float64", 3), -1, axis)
    expected = filters.gaussian(x, 1.0, channel_axis=axis)
    found = ours.gaussian(x, 1.0, channel_axis=axis)
    assert found.shape == x.shape
    assert np.abs(found - expected).max() <= allowed(expected, 9 * 9)


def test_numbers_may_be_numpys():
    x = image()
    expected = ours.gaussian(x, 1.5, truncate=3.0)
    assert np.array_equal(ours.gaussian(x, np.float32(1.5), truncate=np.int64(3)), expected)
    assert np.array_equal(ours.gaussian(x, np.array([1.5, 1.5]), truncate=3.0), expected)


def rounded_distances(x: np.ndarray, bins: int, sigma_color: float, taps: int) -> float:
    """The most that scikit-image's rounding of colour distances changes a mean of `taps` pixels.

    Steps are max(x) / bins wide. The slope of exp(-d^2 / 2) is at most exp(-1/2), so no weight
    changes by more than the step / sigma_color * exp(-1/2). The pixel itself has weight 1, and
    values differ by at most their range.
    """
    step = float(x.max()) / bins
    return taps * step / sigma_color * np.exp(-0.5) * float(x.max() - x.min())


@pytest.fixture
def right_table(monkeypatch):
    """scikit-image with a table of spatial weights as large as its window.

    That of 0.26 has a side of win_size + 1, and is read as if it had win_size: the weights are not
    a Gaussian around the pixel.
    """
    module = importlib.import_module("skimage.restoration._denoise")

    def table(win_size, sigma, *, dtype=float):
        place = np.arange(win_size) - win_size // 2
        return (
            np.exp(-(np.hypot(*np.meshgrid(place, place)) ** 2) / (2 * sigma**2))
            .ravel()
            .astype(dtype)
        )

    monkeypatch.setattr(module, "_compute_spatial_lut", table)


@pytest.mark.parametrize("mode", ["constant", "edge", "symmetric", "reflect", "wrap"])
def test_bilateral_beyond_every_edge(mode, right_table):
    x, bins = image(), 2_000_000
    given = {"win_size": 7, "sigma_color": 0.2, "sigma_spatial": 1.7, "mode": mode, "cval": 0.3}
    expected = restoration.denoise_bilateral(x, **given, bins=bins)
    found = ours.denoise_bilateral(x, **given)
    bound = rounded_distances(x, bins, 0.2, 49) + allowed(x, 49)
    assert bound < 5e-4
    assert np.abs(found - expected).max() <= bound
    assert np.abs(found - x).max() > 0.05


@pytest.mark.rotates(each=["dtype"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_bilateral_of_colours(dtype, channels, right_table):
    x, bins = image(dtype, channels), 50_000_000 if dtype.startswith("uint") else 2_000_000
    expected = restoration.denoise_bilateral(x, sigma_color=0.1, bins=bins, channel_axis=-1)
    found = ours.denoise_bilateral(x, sigma_color=0.1, channel_axis=-1)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    # Its steps are of the integers, its distances of the numbers in [0, 1].
    step = float(x.max()) / bins
    weight = step / 0.1 * np.exp(-0.5)
    rounding = 3e-6 if dtype != "float64" else 0  # of a weight: ops.bilateral_blur
    bound = 49 * (weight + rounding) + allowed(found, 49)
    assert np.abs(found - expected).max() <= bound


def test_defaults_are_scikit_images(right_table):
    x = image()
    expected = restoration.denoise_bilateral(x, bins=2_000_000)
    found = ours.denoise_bilateral(x)
    assert np.abs(found - expected).max() <= rounded_distances(x, 2_000_000, x.std(), 49)
    flat = np.full((9, 9), 0.5)
    assert np.array_equal(ours.denoise_bilateral(flat), flat)


def test_negative_values():
    """scikit-image 0.26 makes its table before it moves such images to 0, and reads it after."""
    x = image()
    found = ours.denoise_bilateral(x - 0.5, sigma_color=0.2, mode="edge")
    expected = ours.denoise_bilateral(x, sigma_color=0.2, mode="edge") - 0.5
    # float64 weights to rounding; differences of moved values are exact to an eps each.
    assert np.abs(found - expected).max() <= 100 * 49 * np.finfo(np.float64).eps


def test_a_network_takes_sigma_on_its_scale():
    noisy = (0.5 + 0.1 * np.random.default_rng(0).standard_normal((40, 48))).astype(np.float32)
    denoiser = Denoiser("dxnet_s")
    found = ours.denoise_network(noisy, 0.1, denoiser=denoiser)
    assert np.array_equal(found, denoiser(noisy, 25.5))
    assert found.std() < 0.2 * noisy.std()
    assert np.array_equal(ours.denoise_network(noisy, 0.1, strength=0.0), noisy)
    colours = np.stack([noisy] * 3)
    assert ours.denoise_network(colours, channel_axis=0).shape == colours.shape


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ours.gaussian([[1.0]]), TypeError, ["image", "list"]),
        (lambda: ours.gaussian(np.zeros((3, 3), np.int32)), TypeError, ["image", "int32"]),
        (lambda: ours.gaussian(np.zeros((3, 3, 3))), ValueError, ["image", "(3, 3, 3)"]),
        (lambda: ours.gaussian(np.zeros((0, 3))), ValueError, ["image", "(0, 3)"]),
        (lambda: ours.gaussian(np.zeros((3, 3)), -1.0), ValueError, ["sigma", "-1.0"]),
        (lambda: ours.gaussian(np.zeros((3, 3)), float("nan")), ValueError, ["sigma", "nan"]),
        (lambda: ours.gaussian(np.zeros((3, 3)), mode="edge"), ValueError, ["mode", "edge"]),
        (lambda: ours.denoise_bilateral(image(), mode="nearest"), ValueError, ["mode", "nearest"]),
        (
            lambda: ours.denoise_bilateral(image(channels=3), channel_axis=5),
            ValueError, ["channel_axis", "5"],
        ),
        (lambda: ours.denoise_network(image(), -0.1), ValueError, ["sigma"]),
        (lambda: ours.gaussian(image(), None), TypeError, ["sigma", "None"]),
        (lambda: ours.gaussian(image(), (1.0, 2.0, 3.0)), ValueError, ["sigma", "3.0"]),
        (lambda: ours.gaussian(image(), truncate=-1.0), ValueError, ["truncate", "-1.0"]),
        (lambda: ours.gaussian(image(), 1e5), ValueError, ["sigma", "truncate", "65535"]),
        (lambda: ours.denoise_bilateral(image(), win_size=0), ValueError, ["win_size", "0"]),
        (lambda: ours.denoise_bilateral(image(), win_size=4), ValueError, ["win_size", "4"]),
        (lambda: ours.denoise_bilateral(image(), win_size=5.0), TypeError, ["win_size", "5.0"]),
        (
            lambda: ours.denoise_bilateral(image(), sigma_spatial=1e3),
            ValueError, ["win_size", "1023", "sigma_spatial 1000"],
        ),
        (
            lambda: ours.denoise_bilateral(image(), sigma_spatial=float("nan")),
            ValueError, ["sigma_spatial", "nan"],
        ),
        (
            lambda: ours.denoise_bilateral(image(channels=3), sigma_color=-0.1, channel_axis=2),
            ValueError, ["sigma_color", "-0.1"],
        ),
    ],
)  # fmt: skip
def test_bad_calls(call, error, words):
    with pytest.raises(error) as raised:
        call()
    assert all(word in str(raised.value) for word in words), raised.value
