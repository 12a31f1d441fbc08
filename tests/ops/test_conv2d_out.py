"""The raw operators conv2d_out and conv2d_pack: borders, views, packed weights, algorithms."""

from __future__ import annotations

import itertools

import pytest
import torch
from calls_conv_out import assert_close, conv2d_out, expected, random
from torch import Tensor

from denoise_ext._loader import native

OPS = torch.ops.denoise_ext
BORDERS = ("constant", "reflect", "replicate", "circular")


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_borders(border, layout, isa):
    weight, bias = random(7, 5, 3, 3, seed=1), random(7, seed=2)
    for h, w in [(9, 8), (2, 2), (3, 50)]:
        x = random(2, 5, h, w).contiguous(memory_format=layout)
        out = torch.empty(2, 7, h, w).contiguous(memory_format=layout)
        conv2d_out(x, weight, out, bias=bias, padding=1, border=border)
        assert_close(out, expected(x, weight, bias, 1, border), weight)


@pytest.mark.parametrize("border", BORDERS)
def test_borders_of_a_strided_and_a_depthwise_convolution(border):
    x, weight = random(1, 6, 11, 10), random(6, 6, 5, 5, seed=1)
    out = torch.empty(1, 6, 6, 5)
    conv2d_out(x, weight, out, stride=2, padding=2, border=border)
    assert_close(out, expected(x, weight, None, 2, border, stride=2), weight)
    weight, out = random(6, 1, 3, 3, seed=2), torch.empty(1, 6, 11, 10)
    conv2d_out(x, weight, out, padding=1, groups=6, border=border)
    assert_close(out, expected(x, weight, None, 1, border, groups=6), weight)


def test_one_pixel_is_its_own_mirror_image():
    x, weight = random(1, 3, 1, 1), random(2, 3, 3, 3, seed=1)
    for border in ("reflect", "replicate", "circular"):
        out = conv2d_out(x, weight, torch.empty(1, 2, 1, 1), padding=1, border=border)
        assert_close(out, expected(x.expand(1, 3, 3, 3), weight), weight)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("position", ["before", "after"])
def test_slices_of_channels(layout, position):
    """Input, residual and output inside larger buffers: what surrounds the output stays."""
    buffer = random(2, 40, 9, 13).contiguous(memory_format=layout)
    weight, bias = random(16, 8, 3, 3, seed=1), random(16, seed=2)
    before = buffer.clone()
    x, residual, out = buffer[:, 3:11], buffer[:, 12:28], buffer[:, 23:39]
    residual = residual.clone()  # overlaps out otherwise
    conv2d_out(
        x, weight, out, bias=bias, padding=1, activation="relu", residual=residual,
        residual_position=position,
    )  # fmt: skip
    exact = expected(
        before[:, 3:11], weight, bias, 1, activation="relu", residual=residual,
        residual_position=position,
    )  # fmt: skip
    assert_close(out, exact, weight)
    assert torch.equal(buffer[:, :23], before[:, :23])
    assert torch.equal(buffer[:, 39:], before[:, 39:])


@pytest.mark.parametrize("position", ["before", "after"])
def test_the_output_may_be_the_residual(position):
    x, weight = random(2, 8, 9, 13), random(21, 8, 3, 3, seed=1)
    out = random(2, 21, 9, 13, seed=2).contiguous(memory_format=torch.channels_last)
    options = {"activation": "relu", "residual": out.clone(), "residual_position": position}
    exact = expected(x, weight, None, 1, **options)
    conv2d_out(x, weight, out, padding=1, **{**options, "residual": out})
    assert_close(out, exact, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(7, 5, 3, 3), (64, 16, 3, 3), (33, 20, 1, 1), (1, 3, 5, 4)])
def test_packed_weight_gives_the_same_result(dtype, size, isa):
    weight = random(*size, dtype=dtype)
    x = random(1, size[1], 9, 11, dtype=dtype, seed=1)
    shape = (1, size[0], 10 - size[2], 12 - size[3])
    plain = conv2d_out(x, weight, torch.empty(shape, dtype=dtype), algorithm="direct")
    packed = OPS.conv2d_pack(weight, "direct")
    for algorithm in ("auto", "direct"):
        out = torch.full(shape, float("nan"), dtype=dtype)
        assert torch.equal(conv2d_out(x, weight, out, packed=packed, algorithm=algorithm), plain)


def test_packed_weight_is_checked():
    x, weight, out = random(1, 4, 8, 8), random(4, 4, 3, 3), torch.empty(1, 4, 6, 6)
    packed = OPS.conv2d_pack(weight, "direct")

    def refused(match: str, packed: Tensor, weight: Tensor = weight, **options) -> None:
        with pytest.raises(RuntimeError, match=match):
            conv2d_out(x, weight, out, packed=packed, **options)

    refused("not a result of conv2d_pack", torch.zeros_like(packed))
    refused("not a result of conv2d_pack", packed[:-1].clone())
    refused("not a result of conv2d_pack", packed[:3].clone())
    refused("accumulation type", packed.double())
    refused("not contiguous", torch.stack([packed, packed], 1)[:, 0])
    refused("other sizes", OPS.conv2d_pack(random(4, 4, 2, 2), "direct"))
    refused(
        "groups = 1", OPS.conv2d_pack(random(4, 1, 3, 3), "direct"), random(4, 1, 3, 3), groups=4
    )
    isas = native().isa_available()
    before = native().isa_in_use()
    for first, second in itertools.permutations(isas, 2):
        native().force_isa(first)
        other = OPS.conv2d_pack(weight, "direct")
        native().force_isa(second)
        try:
            refused("another instruction set", other)
        finally:
            native().force_isa(before)


def test_arguments_are_checked():
    x, weight, out = random(1, 4, 8, 8), random(4, 4, 3, 3), torch.empty(1, 4, 6, 6)
    for options, match in (
        ({"border": "mirror"}, "border must be one of"),
        ({"algorithm": "fft"}, "algorithm must be one of"),
        ({"activation": "mish"}, "activation must be one of"),
        ({"residual": torch.empty(1, 4, 5, 6)}, "residual must have sizes"),
    ):
        with pytest.raises(RuntimeError, match=match):
            conv2d_out(x, weight, out, **options)
    with pytest.raises(RuntimeError, match=r"out.*sizes"):
        conv2d_out(x, weight, torch.empty(1, 4, 8, 8))
    with pytest.raises(RuntimeError, match=r"out and input.*dtype"):
        conv2d_out(x, weight, out.double())
    with pytest.raises(RuntimeError, match=r"algorithm.*named"):
        OPS.conv2d_pack(weight, "auto")
    with pytest.raises(RuntimeError, match=r"weight.*empty"):
        OPS.conv2d_pack(torch.empty(0, 4, 3, 3), "direct")


def test_empty_batch():
    out = conv2d_out(torch.empty(0, 4, 8, 8), random(4, 4, 3, 3), torch.empty(0, 4, 6, 6))
    assert out.shape == (0, 4, 6, 6)


def test_fake_kernels_and_compile():
    x, weight, out = random(1, 4, 8, 8), random(5, 4, 3, 3), torch.empty(1, 5, 6, 6)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.library.opcheck(OPS.conv2d_pack.default, (weight.to(dtype), "direct"))
    arguments = (
        x, weight, None, None, [1, 1], [0, 0], [1, 1], 1, "constant", "relu", 0.01, None, None,
        "before", "auto", out,
    )  # fmt: skip
    torch.library.opcheck(OPS.conv2d_out.default, arguments)
