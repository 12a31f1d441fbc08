"""The gradient of a convolution's weight on the CPU: channel blocks, tiles, threads, algorithms."""

from __future__ import annotations

import random
from functools import cache

import bounds
import pytest
import torch
import winograd_bounds
from torch import Tensor
from torch.nn import functional as F

EPS = torch.finfo(torch.float32).eps
CHANNELS = [
    (1, 1), (1, 64), (64, 1), (3, 64), (64, 3), (2, 130), (130, 5), (16, 16), (17, 33), (31, 100),
    (64, 64), (96, 96), (20, 112), (130, 97), (80, 128), (128, 130),
]  # fmt: skip


def values(*shape: int, seed: int, layout=torch.channels_last, dtype=torch.float32) -> Tensor:
    x = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1
    return x.to(dtype).contiguous(memory_format=layout)


def weight_grad(
    x: Tensor, grad: Tensor, weight: Tensor, *, stride=1, padding=1, dilation=1, groups=1,
    precision="default",
) -> Tensor:  # fmt: skip
    return torch.ops.denoise_ext.conv2d_backward(
        grad, x, weight, None, None, [stride] * 2, [padding] * 2, [dilation] * 2, groups, "none",
        0.0, [False, True, False, False, False], precision,
    )[1]  # fmt: skip


def exact(x: Tensor, grad: Tensor, weight: Tensor, **geometry: int) -> Tensor:
    weight = weight.double().requires_grad_()
    return torch.autograd.grad(F.conv2d(x.double(), weight, **geometry), weight, grad.double())[0]


def direct_bound(x: Tensor, grad: Tensor, weight: Tensor, **geometry: int) -> Tensor:
    """A sum of one product per pixel, and a few roundings more."""
    pixels = grad.numel() // grad.shape[1]
    return (pixels + 16) * EPS * exact(x.abs(), grad.abs(), weight, **geometry)


def check(actual: Tensor, expected: Tensor, allowed: Tensor, note: object = "") -> None:
    allowed = allowed + bounds.output_rounding(expected, actual.dtype)
    error = (actual.double() - expected).abs()
    assert (error <= allowed).all(), f"{float((error / allowed).max()):.3g} times the bound, {note}"


@cache
def channels_case(c: int, k: int) -> tuple[Tensor, ...]:
    """(input, gradient, weight, exact result, bounds of the direct sum and of Winograd's)."""
    padding = (c + k) % 3
    x, weight = values(2, c, 17, 11, seed=0), values(k, c, 3, 3, seed=1)
    grad = values(2, k, 15 + 2 * padding, 9 + 2 * padding, seed=2)
    image = F.pad(x.double(), [padding] * 4)
    return (
        x, grad, weight, exact(x, grad, weight, padding=padding),
        direct_bound(x, grad, weight, padding=padding),
        winograd_bounds.weight_gradient_bound(image, grad.double()),
    )  # fmt: skip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_channels(channels, layout, isa):
    """Blocks of channels, whole and not, over an odd image; both algorithms."""
    c, k = channels
    x, grad, weight, expected, direct, winograd = channels_case(c, k)
    x, grad = x.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
    strict = weight_grad(x, grad, weight, padding=(c + k) % 3, precision="strict")
    check(strict, expected, direct)
    default = weight_grad(x, grad, weight, padding=(c + k) % 3)
    if min(c, k) < 16:
        assert torch.equal(default, strict)
    else:
        assert not torch.equal(default, strict)
        check(default, expected, winograd)


@pytest.mark.parametrize("index", range(20))
def test_direct_geometries(index, isa):
    """Strides, dilations, groups, kernels; tiles of several strips."""
    rng = random.Random(index)
    groups, stride, dilation = rng.choice([1, 1, 2, 5]), rng.randint(1, 3), rng.randint(1, 3)
    c, k = groups * rng.randint(1, 24), groups * rng.randint(1, 24)
    if index % 5 == 0:
        groups = c = k = rng.randint(2, 70)
    kernel, padding = (rng.randint(1, 4), rng.randint(1, 4)), rng.randint(0, 4)
    size = rng.randint(10, 60), rng.randint(10, 60)
    layout = rng.choice([torch.contiguous_format, torch.channels_last])
    x, weight = values(2, c, *size, seed=0, layout=layout), values(k, c // groups, *kernel, seed=1)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    grad = values(*F.conv2d(x, weight, **geometry).shape, seed=2, layout=layout)
    actual = weight_grad(x, grad, weight, precision="strict", **geometry)
    allowed = direct_bound(x, grad, weight, **geometry)
    check(actual, exact(x, grad, weight, **geometry), allowed, geometry)


@pytest.mark.parametrize("size", [(6, 6), (7, 6), (8, 31), (33, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_winograd_dtypes_and_views(dtype, size, isa):
    """16-bit tensors and views with gaps take the packed path; groups are sums of their own."""
    buffer = values(2, 80, *size, seed=0, dtype=dtype)
    x, weight = buffer[:, 7:47], values(36, 20, 3, 3, seed=1, dtype=dtype)
    grad = values(2, 36, size[1], size[0], seed=2, dtype=dtype).transpose(2, 3)
    allowed = torch.cat(
        [
            winograd_bounds.weight_gradient_bound(F.pad(a.double(), [1] * 4), b.double())
            for a, b in zip(x.chunk(2, 1), grad.chunk(2, 1))
        ]
    )
    actual = weight_grad(x, grad, weight, groups=2)
    assert actual.dtype == dtype
    check(actual, exact(x, grad, weight, padding=1, groups=2), allowed)


@pytest.mark.parametrize("channels", [(64, 64), (1, 64), (64, 1), (130, 97)], ids=str)
@pytest.mark.parametrize("precision", ["strict", "default"])
def test_threads_do_not_change_a_bit(channels, precision):
    c, k = channels
    x, grad = values(3, c, 37, 41, seed=0), values(3, k, 37, 41, seed=1)
    weight, threads, results = values(k, c, 3, 3, seed=2), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            results.append(weight_grad(x, grad, weight, precision=precision))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    "channels, size, kernel, dtype, options",
    [
        ((15, 64), 20, 3, torch.float32, {}),
        ((64, 15), 20, 3, torch.float32, {}),
        ((16, 16), 20, 3, torch.float64, {}),
        ((16, 16), 20, 3, torch.float32, {"stride": 2}),
        ((16, 16), 20, 3, torch.float32, {"dilation": 2}),
        ((16, 16), 20, 5, torch.float32, {}),
        ((32, 32), 20, 3, torch.float32, {"groups": 4}),
        ((16, 16), 2, 3, torch.float32, {}),
    ],
    ids=str,
)
def test_direct_where_winograd_does_not_apply_or_pay(channels, size, kernel, dtype, options):
    c, k = channels
    x = values(1, c, size, size, seed=0, dtype=dtype)
    weight = values(k, c // options.get("groups", 1), kernel, kernel, seed=1, dtype=dtype)
    grad = values(*F.conv2d(x, weight, padding=1, **options).shape, seed=2, dtype=dtype)
    strict = weight_grad(x, grad, weight, precision="strict", **options)
    assert torch.equal(weight_grad(x, grad, weight, **options), strict)


def test_bound_uses_a_correct_algorithm():
    x, grad = values(2, 3, 11, 9, seed=0).double(), values(2, 4, 9, 7, seed=1).double()
    error = winograd_bounds.weight_gradient(x, grad) - exact(x, grad, torch.zeros(4, 3, 3, 3))
    assert error.abs().max() < 1e-12
    # What tests/native/kernels.cpp says about values of one magnitude: 16 products for each tile.
    ones = winograd_bounds.weight_gradient(
        torch.ones(1, 1, 6, 6).double(), torch.ones(1, 1, 4, 4).double(), magnitude=True
    )
    assert float(ones.max()) / 16 == pytest.approx(68.5, abs=0.1)
