"""Operators: adjoint, prox against dense float64 algebra, convolution against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from denoise_ext.restore import Blur, Mask, Mosaic, Operator
from denoise_ext.restore.operators import filled

KERNEL = np.array([[0.0, 1, 2, 0, 0], [3, 9, 1, 4, 1], [0, 2, 0, 0, 2]])


def mask(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width)) < 0.4


class Average(Operator):
    """An operator as a user writes it: means of 2 x 2 pixels, without a prox of its own."""

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 2)

    def adjoint(self, y):
        return y.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4


# Operator, shape of x, for images of few pixels: a dense matrix is made of each.
OPERATORS = {
    "free": (lambda: Blur(KERNEL), (1, 2, 9, 11)),
    "circular": (lambda: Blur(KERNEL, "circular"), (2, 1, 8, 7)),
    "mask": (lambda: Mask(mask(6, 7)), (2, 3, 6, 7)),
    "mosaic": (lambda: Mosaic("GRBG"), (2, 3, 5, 6)),
    "a user's": (Average, (1, 1, 6, 8)),
}


def matrix(operator: Operator, shape: tuple[int, ...]) -> torch.Tensor:
    """The operator as a dense float64 matrix on one image."""
    unit = torch.eye(shape[1] * shape[2] * shape[3], dtype=torch.float64)
    columns = [operator.forward(column.reshape(1, *shape[1:])).flatten() for column in unit]
    return torch.stack(columns, dim=1)


@pytest.fixture(params=OPERATORS)
def case(request):
    make, shape = OPERATORS[request.param]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    v = torch.rand(shape, generator=generator, dtype=torch.float64)
    operator = make()
    noise = torch.randn(operator.forward(x).shape, generator=generator, dtype=torch.float64)
    return operator, x, v, operator.forward(x) + 0.1 * noise


def test_adjoint_is_the_transpose(case):
    operator, x, _, y = case
    dense = matrix(operator, x.shape)
    for image in range(x.shape[0]):
        expected = dense.T @ y[image].flatten()
        found = operator.adjoint(y[image : image + 1]).flatten()
        assert float((found - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("rho", [1e-3, 0.3, 20.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_prox_is_the_solution_of_the_normal_equations(case, rho, dtype):
    operator, x, v, y = case
    dense = matrix(operator, x.shape)
    normal = dense.T @ dense + rho * torch.eye(dense.shape[1], dtype=torch.float64)
    found = operator.prox(v.to(dtype), y.to(dtype), rho)
    assert found.dtype == dtype
    for image in range(x.shape[0]):
        right = dense.T @ y[image].flatten() + rho * v[image].flatten()
        residual = normal @ found[image].double().flatten() - right
        # Iterations end at 1e-5; float32 leaves some 1e-7 of the numbers that are added.
        assert float(residual.norm() / right.norm()) < 1.2e-5
    closed = not isinstance(operator, Average) and getattr(operator, "border", "") != "free"
    if dtype == torch.float64 and closed:
        expected = torch.linalg.solve(normal, right)
        assert float((found[-1].flatten() - expected).abs().max()) < 1e-10


def test_blur_is_scipys_convolution():
    x = np.random.default_rng(1).random((20, 17))
    kernel = KERNEL / KERNEL.sum()
    whole = torch.from_numpy(x)[None, None]
    circular = Blur(KERNEL, "circular").forward(whole)[0, 0].numpy()
    assert circular == pytest.approx(ndimage.convolve(x, kernel, mode="wrap"), abs=1e-12)
    free = Blur(KERNEL).forward(whole)[0, 0].numpy()
    inside = ndimage.convolve(x, kernel, mode="constant")[1:-1, 2:-2]
    assert free == pytest.approx(inside, abs=1e-12)


def test_free_borders_start_and_finish_at_the_measured_pixels():
    y = torch.rand(1, 3, 12, 10)
    blur = Blur(KERNEL)
    start = blur.start(y)
    assert start.shape == (1, 3, 14, 14)
    assert torch.equal(blur.finish(start, y, 5.0), y)
    assert blur.forward(start).shape == y.shape


def test_free_borders_are_wider_where_transforms_are_faster():
    generator = torch.Generator().manual_seed(2)
    y = torch.rand((1, 1, 11, 19), generator=generator, dtype=torch.float64)
    blur = Blur(KERNEL)
    start = blur.start(y)
    assert start.shape == (1, 1, 14, 24)  # 13 and 23 are the least, and primes
    assert torch.equal(blur.finish(start, y, 5.0), y)
    v, rho = torch.rand(start.shape, generator=generator, dtype=torch.float64), 0.01
    # Rows of the dense matrix that were measured: the first of both directions.
    measured = torch.zeros(blur.forward(start).shape[-2:], dtype=torch.bool)
    measured[:11, :19] = True
    dense = matrix(blur, start.shape)[measured.flatten()]
    normal = dense.T @ dense + rho * torch.eye(dense.shape[1], dtype=torch.float64)
    right = dense.T @ y.flatten() + rho * v.flatten()
    residual = normal @ blur.prox(v, y, rho).flatten() - right
    assert float(residual.norm() / right.norm()) < 1.2e-5


def test_one_blur_serves_images_of_any_size_and_type():
    blur = Blur("gaussian:1")
    for shape, dtype in (((1, 1, 20, 30), torch.float32), ((1, 1, 31, 30), torch.float64)):
        found = blur.forward(torch.ones(shape, dtype=dtype))
        assert found.dtype == dtype
        assert float((found - 1).abs().max()) < 1e-6  # a constant stays


def test_missing_pixels_do_not_count():
    known = mask(16, 15)
    operator = Mask(known.astype(np.uint8))
    x = torch.rand(1, 3, 16, 15)
    other = torch.where(torch.from_numpy(known), x, 7.0)
    assert torch.equal(operator.measured(other), operator.measured(x))
    start, known = operator.start(operator.measured(x)), torch.from_numpy(known)
    assert torch.equal(start[..., known], x[..., known])
    assert float(start.min()) >= float(x.min()) and float(start.max()) <= float(x.max())


def test_filling_keeps_constants_and_follows_planes():
    known = torch.from_numpy(mask(33, 40))[None, None].double()
    constant = torch.full((1, 2, 33, 40), 0.7, dtype=torch.float64)
    assert float((filled(constant * known, known) - 0.7).abs().max()) < 1e-12
    plane = torch.linspace(0, 1, 40, dtype=torch.float64).expand(1, 1, 33, 40)
    # Means of blocks are up to two known pixels away from a missing one.
    assert float((filled(plane * known, known) - plane).abs().max()) < 4 / 39


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_a_mosaic_measures_one_colour_of_each_pixel(pattern):
    x = torch.rand(1, 3, 7, 6)
    y = Mosaic(pattern).forward(x)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        expected = x[0, "RGB".index(colour), row::2, column::2]
        assert torch.equal(y[0, 0, row::2, column::2], expected)
    start = Mosaic(pattern).start(y)
    assert torch.equal(Mosaic(pattern).forward(start), y)  # interpolation keeps what is measured
    gray = torch.full((1, 1, 7, 6), 0.3)
    assert float((Mosaic(pattern).start(gray) - 0.3).abs().max()) < 1e-6


def test_noise_of_a_mosaic_is_that_of_its_sites():
    generator = torch.Generator().manual_seed(0)
    flat = torch.tensor([0.2, 0.5, 0.7]).reshape(1, 3, 1, 1).expand(1, 3, 256, 256)
    y = Mosaic().forward(flat) + torch.randn(1, 1, 256, 256, generator=generator) * 10 / 255
    assert Mosaic().estimate_sigma(y) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Blur(KERNEL, "reflect"), ValueError, ["border", "reflect", "free"]),
        (lambda: Blur(KERNEL).forward(torch.ones(1, 1, 2, 9)), ValueError, ["kernel", "2 x 9"]),
        (lambda: Blur(KERNEL, "circular").adjoint(torch.ones(1, 1, 9, 4)), ValueError, ["9 x 4"]),
        (lambda: Mask([[1]]), TypeError, ["mask", "list"]),
        (lambda: Mask(np.ones((2, 2, 1))), ValueError, ["mask", "(2, 2, 1)"]),
        (lambda: Mask(np.full((2, 2), 0.5)), ValueError, ["mask", "0 (missing)"]),
        (lambda: Mask(np.zeros((2, 2))), ValueError, ["mask", "no known"]),
        (lambda: Mask(np.ones((2, 2))).forward(torch.ones(1, 1, 2, 3)), ValueError, ["(2, 3)"]),
        (lambda: Mosaic("RGB"), ValueError, ["pattern", "RGB", "RGGB"]),
        (lambda: Mosaic().forward(torch.ones(1, 1, 4, 4)), ValueError, ["3 colours", "1"]),
        (lambda: Mosaic().adjoint(torch.ones(1, 1, 1, 4)), ValueError, ["2 x 2", "1 x 4"]),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error) as raised:
        call()
    for word in words:
        assert word in str(raised.value)
