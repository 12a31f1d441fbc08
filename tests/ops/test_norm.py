"""Normalisations of images whose mean is far from zero."""

from __future__ import annotations

import pytest
import torch

from denoise_ext import ops


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [6, 16, 40])  # 16: whole vectors are read in place
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_a_mean_costs_no_digits_of_the_variance(mean, channels, layout, isa):
    torch.manual_seed(0)
    # Multiples of 2^-20 below 2^20 are sums of float64 without rounding.
    exact = (torch.randn(2, channels, 19, 70, dtype=torch.float64) * 2**20).round() / 2**20
    x = (exact + mean).contiguous(memory_format=layout)
    assert torch.equal(x - mean, exact)
    for groups in (1, 2, channels):
        values = exact.view(2, groups, -1)
        expected = (values - values.mean(2, keepdim=True)) / (
            values.var(2, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        # x * scale + shift rounds each of both, at 6 standard deviations from the mean or less.
        # Roundings of sums of n terms are a random walk, with 4 times its length for both sides.
        terms = 8 * (mean + 6) + 4 * 6 * values.shape[2] ** 0.5
        allowed = torch.finfo(torch.float64).eps * terms
        actual = ops.group_norm(x, groups)
        assert float((actual - expected.view_as(x)).abs().max()) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [16, 40, 41])
@pytest.mark.parametrize("channels", [2, 3, 4, 8])
def test_pixels_of_few_channels(channels, width, dtype, isa):
    """Pixels side by side fill a vector together, where a row has a whole number of vectors."""
    torch.manual_seed(0)
    wide = (torch.randn(2, 2 * channels, 9, width) + 3).to(dtype)
    wide = wide.contiguous(memory_format=torch.channels_last)
    weight, bias = (torch.rand(2, channels) + 0.5).to(dtype)
    for x in (wide[:, :channels].contiguous(memory_format=torch.channels_last), wide[:, channels:]):
        for groups in (1, channels):
            actual = ops.group_norm(x, groups, weight, bias, activation="leaky_relu")
            # Each image and channel on its own shows what is read as another's.
            exact = torch.nn.functional.group_norm(
                x.double(), groups, weight.double(), bias.double()
            )
            exact = torch.nn.functional.leaky_relu(exact, 0.01)
            # As above, times the weight, and rounded once more.  Sums of float32 are exact.
            terms = 8 * (3 + 6)
            if dtype == torch.float64:
                terms += 4 * 6 * (9 * width * channels / groups) ** 0.5
            sums = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
            allowed = 1.5 * sums * terms + torch.finfo(dtype).eps * exact.abs()
            assert ((actual.double() - exact).abs() <= allowed).all()


@pytest.mark.parametrize("channels", [16, 20, 37])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_squares_that_overflow_are_an_infinite_deviation(channels, layout, isa):
    """Also of channels that two vectors share: infinity times 0 would be NaN."""
    x = 1e20 * torch.randn(1, channels, 5, 21, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.rand(channels) + 0.5, torch.arange(float(channels))
    actual = ops.layer_norm2d(x.contiguous(memory_format=layout), weight, bias)
    assert torch.equal(actual, bias.view(1, -1, 1, 1).expand_as(x))


def _divided(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """What deviation_norm_out is, in float64."""
    exact = x.double()
    result = exact / (exact.var(1, correction=0, keepdim=True) + eps).sqrt()
    return result if weight is None else result * weight.double().view(1, -1, 1, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 6, 16, 37, 48, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_division_by_the_deviation(dtype, channels, layout, isa):
    """Every layout of image and result: the mean stays."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(2, channels, 7, 75, generator=generator) + 1.5).to(dtype)
    x = x.contiguous(memory_format=layout)
    weight = (torch.rand(channels, generator=generator) + 0.5).to(dtype)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    subnormal = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    for given in (None, weight):
        for form in (torch.contiguous_format, torch.channels_last):
            buffer = torch.full((2, channels + 4, 7, 75), torch.nan, dtype=dtype)
            out = buffer.contiguous(memory_format=form)[:, 2:-2]
            torch.ops.denoise_ext.deviation_norm_out(x, given, 1e-5, out)
            exact, values = _divided(x, given, 1e-5), x.double()
            # The mean is off by C eps of the values' size, and each square by twice that of the
            # product with a difference: relative to the variance, r^2 with r = rms / deviation.
            ratio = (values.square().mean(1, True) + 1e-5) / (
                values.var(1, correction=0, keepdim=True) + 1e-5
            )
            relative = (channels + 8) * eps * (1 + ratio)
            if dtype in (torch.bfloat16, torch.float16):
                relative = relative + torch.finfo(dtype).eps / 2
            assert ((out.double() - exact).abs() <= relative * exact.abs() + subnormal).all()


def test_division_by_the_deviation_keeps_nan_and_names_what_is_wrong(isa):
    operator = torch.ops.denoise_ext.deviation_norm_out
    x = torch.randn(1, 16, 4, 20).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 2], x[0, 5, 2, 7] = torch.nan, torch.inf
    out = torch.zeros_like(x)
    operator(x, None, 1e-5, out)
    assert torch.equal(out.isnan(), _divided(x, None, 1e-5).isnan())
    for match, arguments in [
        ("weight", (x, torch.ones(15), 1e-5, out)),
        ("eps", (x, None, -1.0, out)),
        ("out", (x, None, 1e-5, out[:, 1:])),
        ("out", (x, None, 1e-5, x)),
    ]:
        with pytest.raises(RuntimeError, match=match):
            operator(*arguments)
    torch.library.opcheck(operator.default, (x, torch.ones(16), 1e-5, out))
