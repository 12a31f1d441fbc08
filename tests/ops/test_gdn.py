"""The raw operator gdn_out against float64, in every layout and type."""

from __future__ import annotations

import pytest
import torch
from conv_images import values
from torch import Tensor
from torch.nn import functional as F

OPS = torch.ops.denoise_ext
EPS = torch.finfo(torch.float32).eps


def parameters(channels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Weight and bias, none negative."""
    weight = values(channels, channels, 1, 1, seed=1).abs() / channels
    return weight.to(dtype), (values(channels, 1, 1, 1, seed=2).flatten().abs() + 0.1).to(dtype)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, inverse: bool, out: Tensor) -> Tensor:
    OPS.gdn_out(x, weight, OPS.conv2d_pack(weight, "direct"), bias, inverse, out)
    return out


def expected(x: Tensor, weight: Tensor, bias: Tensor | None, inverse: bool) -> Tensor:
    """The definition, in float64."""
    bias = None if bias is None else bias.double()
    root = F.conv2d(x.double() ** 2, weight.double(), bias).sqrt()
    return x.double() * root if inverse else x.double() / root


def check(x: Tensor, weight: Tensor, bias: Tensor | None, inverse: bool, out: Tensor) -> None:
    exact = expected(x, weight, bias, inverse)
    error = (run(x, weight, bias, inverse, out).double() - exact).abs()
    # Terms are not negative: a sum of C of them is off by (C + 2) eps of itself, its root by half
    # of that. 2 ulp of the root, and products.
    relative = ((x.shape[1] + 2) / 2 + 4) * EPS
    if x.dtype != torch.float32:
        relative += torch.finfo(x.dtype).eps / 2
    assert (error <= relative * exact.abs() + torch.finfo(x.dtype).tiny).all()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("channels", [5, 16, 33, 64, 128, 200])
def test_channels(channels, inverse, isa):
    weight, bias = parameters(channels)
    for size in [(1, 1), (3, 5), (17, 40)]:
        x = 3 * values(2, channels, *size)
        check(x, weight, bias, inverse, torch.full_like(x, float("nan")))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slices_of_channels(dtype, layout, isa):
    """Input and output inside larger buffers: what surrounds the output stays."""
    weight, bias = parameters(24, dtype)
    x = values(2, 30, 9, 26, layout=layout).to(dtype)[:, 3:27]
    buffer = values(2, 40, 9, 26, seed=3, layout=layout).to(dtype)
    before = buffer.clone()
    check(x, weight, bias, False, buffer[:, 5:29])
    assert torch.equal(buffer[:, :5], before[:, :5]) and torch.equal(buffer[:, 29:], before[:, 29:])


@pytest.mark.parametrize("inverse", [False, True])
def test_numbers_without_a_normal_root(inverse, isa):
    """Zero, infinity, NaN and numbers whose squares leave the range: as in PyTorch."""
    weight = torch.eye(16).reshape(16, 16, 1, 1)
    x = values(1, 16, 4, 8)
    x[0, 2, 1], x[0, 3, 1], x[0, 4, 1] = 0.0, float("inf"), float("nan")
    x[0, 5, 1], x[0, 6, 1] = 1e25, 1e-30
    actual = run(x, weight, None, inverse, torch.empty_like(x))
    # A weight of zero makes NaN of infinity, in every channel of that pixel.
    root = F.conv2d(x * x, weight).sqrt()
    wanted = x * root if inverse else x / root
    torch.testing.assert_close(actual, wanted, equal_nan=True)


def test_threads_change_nothing():
    weight, bias = parameters(64)
    x, before, results = values(1, 64, 37, 50), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(x, weight, bias, False, torch.empty_like(x)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_wrong_arguments_are_named():
    weight, bias = parameters(16)
    x = values(1, 16, 4, 4)
    out, packed = torch.empty_like(x), OPS.conv2d_pack(weight, "direct")
    for match, arguments in [
        ("weight.*sizes", (x, values(8, 16, 1, 1), packed, bias, False, out)),
        ("packed_weight", (x, weight, torch.zeros_like(packed), bias, False, out)),
        ("packed_weight", (x, weight, torch.empty(0), bias, False, out)),
        ("bias", (x, weight, packed, bias[:3], False, out)),
        ("out.*sizes", (x, weight, packed, bias, False, out[:, :, 1:])),
        ("out.*input", (x, weight, packed, bias, False, x)),
        ("float64", (x.double(), weight.double(), packed, None, False, out.double())),
    ]:
        with pytest.raises(RuntimeError, match=match):
            OPS.gdn_out(*arguments)


def test_opcheck():
    weight, bias = parameters(16)
    x = values(1, 16, 4, 4)
    packed = OPS.conv2d_pack(weight, "direct")
    torch.library.opcheck(
        OPS.gdn_out.default, (x, weight, packed, bias, False, torch.empty_like(x))
    )
