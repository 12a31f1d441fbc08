"""Depthwise convolutions that read channels_last images in place: borders, last channels."""

from __future__ import annotations

import pytest
import torch
from calls_conv_out import assert_close, conv2d_out, expected, random

CL = torch.channels_last
# Fewer than a vector of any instruction set has, whole vectors, and some that end inside one.
CHANNELS = (3, 4, 5, 8, 13, 16, 20, 33, 40, 64, 67, 100, 130)
# (kernel, stride, dilation, padding): some taps lie outside, or all of them.
GEOMETRIES = [
    (3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 1, 2), (7, 1, 1, 3), (3, 1, 2, 2), (3, 1, 1, 0),
    (3, 3, 1, 4), (5, 2, 2, 5), (1, 1, 1, 0),
]  # fmt: skip
SIZES = [(7, 7), (8, 9), (14, 31), (5, 60)]


def out_size(size: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_pixel_and_channel(geometry, isa):
    kernel, stride, dilation, padding = geometry
    for i, channels in enumerate(CHANNELS):
        h, w = SIZES[i % len(SIZES)]
        x = random(2, channels, h, w, seed=i).contiguous(memory_format=CL)
        weight, bias = random(channels, 1, kernel, kernel, seed=1), random(channels, seed=2)
        size = [out_size(n, kernel, stride, dilation, padding) for n in (h, w)]
        out = torch.full((2, channels, *size), torch.nan).contiguous(memory_format=CL)
        options = {"stride": stride, "dilation": dilation, "groups": channels}
        conv2d_out(x, weight, out, bias=bias, padding=padding, **options)
        assert_close(out, expected(x, weight, bias, padding, **options), weight)


@pytest.mark.parametrize("activation", ["none", "relu", "prelu", "gelu", "leaky_relu"])
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_follows_the_sums(activation, position, dtype, isa):
    """Slices of wider images: what surrounds the result stays."""
    for channels in (20, 40, 67):
        image = random(1, channels + 5, 9, 29, dtype=dtype).contiguous(memory_format=CL)
        x = image[:, 3 : channels + 3]
        weight = random(channels, 1, 3, 3, dtype=dtype, seed=1)
        residual = random(1, channels, 9, 29, dtype=dtype, seed=2).contiguous(memory_format=CL)
        whole = torch.full((1, channels + 9, 9, 29), 7.0, dtype=dtype).contiguous(memory_format=CL)
        out = whole[:, 4 : channels + 4]
        slopes = random(channels, dtype=dtype, seed=3) if activation == "prelu" else None
        options = {
            "groups": channels, "activation": activation, "prelu_weight": slopes,
            "residual": residual, "residual_position": position,
        }  # fmt: skip
        conv2d_out(x, weight, out, padding=1, **options)
        assert_close(out, expected(x, weight, None, 1, **options), weight)
        assert (whole[:, :4] == 7).all() and (whole[:, channels + 4 :] == 7).all()


@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_the_output_may_be_the_residual(activation, isa):
    """No pixel is added twice, though groups of pixels overlap elsewhere."""
    for channels in (16, 20, 67):
        for width in (8, 13, 21, 30):
            x = random(1, channels, 7, width).contiguous(memory_format=CL)
            weight = random(channels, 1, 3, 3, seed=1)
            out = random(1, channels, 7, width, seed=2).contiguous(memory_format=CL)
            options = {"groups": channels, "activation": activation}
            exact = expected(x, weight, None, 1, residual=out, **options)
            conv2d_out(x, weight, out, padding=1, residual=out, **options)
            assert_close(out, exact, weight)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed(stride, isa):
    for channels in (7, 16, 20, 67):
        x = random(2, channels, 6, 19, seed=1).contiguous(memory_format=CL)
        weight = random(channels, 1, 3, 3, seed=2)
        size = [(n - 1) * stride + 3 - 2 for n in (6, 19)]
        out = torch.full((2, channels, *size), torch.nan).contiguous(memory_format=CL)
        torch.ops.denoise_ext.conv_transpose2d_out(
            x, weight, None, [stride] * 2, [1, 1], [0, 0], channels, [1, 1], "none", 0.01, None,
            None, "before", "strict", out,
        )  # fmt: skip
        exact = torch.nn.functional.conv_transpose2d(
            x.double(), weight.double(), stride=stride, padding=1, groups=channels
        )
        assert_close(out, exact, weight)


def test_what_lies_outside_is_not_read(isa):
    """Infinity beside the image must not meet a zero: that is NaN."""
    wide = torch.full((1, 32, 12, 40), torch.inf).contiguous(memory_format=CL)
    x = wide[:, :, 3:9, 5:31]
    x.copy_(random(1, 32, 6, 26))
    weight = random(32, 1, 5, 5, seed=1)
    out = torch.empty(1, 32, 6, 26).contiguous(memory_format=CL)
    conv2d_out(x, weight, out, padding=2, groups=32)
    assert_close(out, expected(x, weight, None, 2, groups=32), weight)
