"""Blur kernels: formulas against integrals, forms of `open_kernel`, kernels that are refused."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from denoise_ext import io
from denoise_ext.restore import disk_kernel, gaussian_kernel, motion_kernel, open_kernel


def moments(kernel: torch.Tensor) -> tuple[float, float, float, float, float]:
    """Mean row and column from the middle, and variances and covariance (rows down)."""
    y = torch.arange(kernel.shape[0], dtype=torch.float64)[:, None] - kernel.shape[0] // 2
    x = torch.arange(kernel.shape[1], dtype=torch.float64) - kernel.shape[1] // 2
    means = [float((kernel * axis).sum()) for axis in (y, x)]
    second = [float((kernel * product).sum()) for product in (y * y, x * x, y * x)]
    return (*means, *second)


@pytest.mark.parametrize("kernel", [gaussian_kernel(2.0), motion_kernel(9.5, 30), disk_kernel(3.3)])
def test_kernels_sum_to_one_around_a_middle_pixel(kernel):
    assert kernel.dtype == torch.float64
    assert all(side % 2 for side in kernel.shape)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert bool((kernel >= 0).all())
    row, column, *_ = moments(kernel)
    assert (row, column) == pytest.approx((0, 0), abs=1e-12)


def test_gaussian_has_its_variance():
    *_, rows, columns, both = moments(gaussian_kernel(2.0))
    # Sampling adds less than 1e-15 at sigma 2; the part beyond 4 sigma has 0.05 % of the variance.
    assert (rows, columns) == pytest.approx((4, 4), rel=2e-3)
    assert both == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 135, -30, 210])
def test_motion_has_the_length_and_direction_of_its_line(angle):
    length = 14.0
    *_, rows, columns, both = moments(motion_kernel(length, angle))
    # A uniform line has length^2 / 12 along itself; sharing a point by four pixels adds at most
    # 1/4 to each variance, and up to 1/4 to the covariance.
    cos, sin = math.cos(math.radians(angle)), -math.sin(math.radians(angle))  # rows count down
    along = length**2 / 12
    assert rows == pytest.approx(along * sin * sin, abs=0.6)
    assert columns == pytest.approx(along * cos * cos, abs=0.6)
    assert both == pytest.approx(along * cos * sin, abs=0.6)


def test_a_horizontal_motion_is_one_row():
    kernel = motion_kernel(4, 0)
    assert kernel.shape == (1, 5)
    assert kernel[0].tolist() == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=0.02)


def test_disk_has_the_area_of_each_pixel():
    radius = 3.3
    kernel = disk_kernel(radius)
    area = math.pi * radius**2
    assert kernel.shape == (7, 7)
    # 1024 samples in a pixel: the error of a pixel's area is below the boundary's cells, 64 / 1024.
    assert float(kernel[3, 3]) == pytest.approx(1 / area, rel=5e-3)
    *_, rows, columns, _ = moments(kernel)
    # The variance of a disk, and that of a pixel.
    assert (rows, columns) == pytest.approx((radius**2 / 4 + 1 / 12,) * 2, rel=0.03)


def test_small_kernels_change_nothing():
    assert disk_kernel(0.4).shape == (1, 1)
    assert disk_kernel(0.02).tolist() == [[1.0]]
    assert float(gaussian_kernel(0.05).max()) == pytest.approx(1)


def test_every_form_of_a_kernel(tmp_path, caplog):
    kernel = np.arange(15.0).reshape(3, 5)
    io.write_image(tmp_path / "k.png", kernel.astype(np.uint8))
    io.write_image(tmp_path / "rgb.png", np.repeat(kernel.astype(np.uint8)[..., None], 3, 2))
    np.save(tmp_path / "k.npy", kernel.astype(np.float32))
    expected = kernel / kernel.sum()
    with caplog.at_level(logging.INFO, "denoise_ext.restore"):
        for given in (
            kernel, kernel.astype(np.int16), torch.from_numpy(kernel), kernel[::-1][::-1],
            tmp_path / "k.png", str(tmp_path / "rgb.png"), tmp_path / "k.npy",
        ):  # fmt: skip
            found = open_kernel(given)
            assert (found.dtype, found.shape) == (torch.float64, (3, 5))
            assert found.numpy() == pytest.approx(expected, abs=1e-7)
    assert "sum, 105" in caplog.text
    caplog.clear()
    assert open_kernel("gaussian:2.0").allclose(gaussian_kernel(2.0), rtol=1e-14)
    assert open_kernel("motion:15,30").allclose(motion_kernel(15, 30), rtol=1e-14)
    assert open_kernel("motion:15").allclose(motion_kernel(15, 0), rtol=1e-14)
    assert open_kernel("disk:4").allclose(disk_kernel(4), rtol=1e-14)
    assert caplog.text == ""  # their sum is 1


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (np.full((3, 3), np.nan), ["finite", "NaN"]),
        (np.zeros((3, 3)), ["sum > 0", "got 0"]),
        (np.array([[1.0, -1.0, 0.0]]), ["sum > 0"]),
        (-np.ones((3, 3)), ["sum > 0", "-9"]),
        (np.ones((4, 3)), ["odd", "4 x 3"]),
        (np.ones((3, 0)), ["(3, 0)"]),
        (np.ones(3), ["(h, w)", "(3,)"]),
        (np.ones((1, 1025)), ["1023", "1 x 1025"]),
        ("gaussian:x", ["gaussian:x", "gaussian:SIGMA"]),
        ("gaussian:1,2", ["gaussian:1,2"]),
        ("motion:1,2,3", ["motion:1,2,3"]),
        ("gaussian:0", ["sigma", "> 0", "0"]),
        ("gaussian:nan", ["sigma", "nan"]),
        ("gaussian:1e9", ["sigma", "at most", "1e9|1000000000"]),
        ("disk:-1", ["radius", "-1"]),
        ("motion:5,inf", ["angle", "inf"]),
        ("nowhere.png", ["nowhere.png", "no such file"]),
    ],
)
def test_bad_kernels_are_one_clear_error(kernel, words):
    with pytest.raises(ValueError) as raised:
        open_kernel(kernel)
    text = str(raised.value)
    assert "\n" not in text
    for word in words:
        assert any(part in text for part in word.split("|")), text


@pytest.mark.parametrize("kernel", [np.ones((3, 3), bool), np.ones((3, 3), complex), None, 3.0])
def test_kernels_of_no_real_numbers_are_type_errors(kernel):
    with pytest.raises(TypeError, match="kernel"):
        open_kernel(kernel)


def test_bad_kernel_files(tmp_path):
    colours = np.zeros((3, 3, 3), np.uint8)
    colours[1, 1] = (255, 0, 0)
    io.write_image(tmp_path / "colours.png", colours)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for name, word in (("colours.png", "gray"), ("broken.png", "broken.png")):
        with pytest.raises(io.ImageError, match=word):
            open_kernel(tmp_path / name)
