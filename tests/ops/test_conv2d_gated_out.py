"""The raw operator conv2d_gated_out against float64: dense and depthwise, in layouts it takes."""

from __future__ import annotations

import pytest
import torch
from conv_images import values
from torch import Tensor
from torch.nn import functional as F

OPS = torch.ops.denoise_ext
LAST = torch.channels_last
# Each with the largest slope, and the largest value for |x| of up to 1, of the function.
GATES = {
    "none": (lambda x: x, 1.0), "sigmoid": (torch.sigmoid, 0.25), "tanh": (torch.tanh, 1.0),
    "gelu": (F.gelu, 1.13), "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 1.13),
    "silu": (F.silu, 1.1), "hardswish": (F.hardswish, 1.5),
    "hardsigmoid": (F.hardsigmoid, 1 / 6), "relu6": (F.relu6, 1.0),
}  # fmt: skip


def check(first: tuple, second: tuple, gate: str, geometry: tuple, out: Tensor) -> None:
    """Compare with float64; ``first`` and ``second``: image, weight, packed weight, bias."""
    stride, padding, dilation, groups = geometry
    function, slope = GATES[gate]

    def convolve(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(image, weight, bias, stride, padding, dilation, groups)

    def exactly(image: Tensor, weight: Tensor, packed: Tensor | None, bias: Tensor | None):
        of_bias = None if bias is None else bias.double()
        exact = convolve(image.double(), weight.double(), of_bias)
        size = convolve(
            image.double().abs(), weight.double().abs(), None if bias is None else of_bias.abs()
        )
        return exact, size

    OPS.conv2d_gated_out(*first, *second, gate, *geometry, out)
    (left, left_size), (right, right_size) = (
        exactly(*first),
        exactly(first[0] if second[0] is None else second[0], *second[1:]),
    )
    activated = function(right)
    eps, terms = torch.finfo(out.dtype).eps, first[1][0].numel() + 2
    # Sums of L terms, each off by L eps of the sum of magnitudes at most.  The activation passes
    # that on with its slope, and is off by 8 eps of what it reads or makes; the product rounds.
    of_gate = slope * terms * eps * right_size + 8 * eps * (activated.abs() + right.abs())
    bound = terms * eps * left_size * (activated.abs() + of_gate) + left.abs() * of_gate
    bound += eps * (left * activated).abs() + torch.finfo(out.dtype).tiny
    assert ((out.double() - left * activated).abs() <= bound).all()


def parameters(filters: int, channels: int, size: int, dtype=torch.float32) -> list[Tensor]:
    """Two weights and two biases."""
    scale = (channels * size * size) ** -0.5
    weights = [(values(filters, channels, size, size, seed=s) * scale).to(dtype) for s in (1, 2)]
    biases = [values(filters, 1, 1, 1, seed=s).flatten().to(dtype) for s in (3, 4)]
    return [*weights, *biases]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("packed", [False, True])
def test_dense(gate, packed, isa):
    geometry = ([1, 1], [0, 0], [1, 1], 1)
    for channels, filters in [(5, 5), (16, 32), (33, 40), (64, 150)]:
        weight, gate_weight, bias, gate_bias = parameters(filters, channels, 1)
        packs = [OPS.conv2d_pack(w, "direct") if packed else None for w in (weight, gate_weight)]
        for size in [(1, 1), (3, 5), (17, 40)]:
            for layout in (torch.contiguous_format, LAST):
                x = values(2, channels, *size, layout=layout)
                out = torch.full((2, filters, *size), torch.nan).contiguous(memory_format=layout)
                first = (x, weight, packs[0], bias)
                second = (None, gate_weight, packs[1], gate_bias)
                check(first, second, gate, geometry, out)


@pytest.mark.parametrize("gate", GATES)
def test_depthwise(gate, isa):
    """Both images are channels of one, as behind a chunk."""
    for channels in (16, 24, 33, 127):
        for size, stride, padding, dilation in [
            (3, 1, 1, 1),
            (3, 2, 1, 1),
            (5, 1, 2, 1),
            (3, 1, 2, 2),
        ]:
            weight, gate_weight, bias, gate_bias = parameters(channels, 1, size)
            geometry = ([stride] * 2, [padding] * 2, [dilation] * 2, channels)
            for pixels in [(5, 7), (18, 41)]:
                x = values(2, 2 * channels, *pixels, layout=LAST)
                first = (x[:, channels:], weight, None, bias)
                second = (x[:, :channels], gate_weight, None, gate_bias)
                shape = F.conv2d(first[0], weight, bias, *geometry).shape
                out = torch.full(shape, torch.nan).contiguous(memory_format=LAST)
                check(first, second, gate, geometry, out)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_double_and_slices_of_channels(layout, isa):
    """The output inside a larger buffer: what surrounds it stays."""
    for groups in (1, 20):
        weight, gate_weight, bias, _ = parameters(20, 20 // groups, 3, torch.float64)
        geometry = ([1, 1], [1, 1], [1, 1], groups)
        x = values(1, 40, 9, 26, layout=LAST).double()
        buffer = values(1, 30, 9, 26, layout=layout).double()
        before = buffer.clone()
        images = x[:, :20], x[:, 20:] if groups > 1 else None
        first, second = (images[0], weight, None, None), (images[1], gate_weight, None, bias)
        check(first, second, "silu", geometry, buffer[:, 5:25])
        assert torch.equal(buffer[:, :5], before[:, :5])
        assert torch.equal(buffer[:, 25:], before[:, 25:])


@pytest.mark.parametrize("groups", [1, 16])
def test_numbers_beyond_the_range(groups, isa):
    """Infinity and NaN: to the bit what conv2d_out makes of both, multiplied."""
    weight, gate_weight, bias, gate_bias = parameters(16, 16 // groups, 1)
    x = values(1, 16, 6, 8, layout=LAST)
    x[0, :, 1], x[0, :, 2], x[0, :, 3] = torch.nan, torch.inf, -torch.inf
    geometry = ([1, 1], [0, 0], [1, 1], groups)
    for gate in GATES:
        out, left, right = (torch.empty_like(x) for _ in range(3))
        first, second = (x, weight, None, bias), (None, gate_weight, None, gate_bias)
        OPS.conv2d_gated_out(*first, *second, gate, *geometry, out)
        for side, activation, result in (
            (first, "none", left), ((x, *second[1:]), gate, right),
        ):  # fmt: skip
            rest = (0.0, None, None, "before", "direct", result)
            OPS.conv2d_out(*side, *geometry, "constant", activation, *rest)
        torch.testing.assert_close(out, left * right, rtol=0, atol=0, equal_nan=True)
        assert out[0, :, 1].isnan().all()


def test_empty_batch_and_threads():
    weight, gate_weight, bias, gate_bias = parameters(32, 1, 3)
    geometry = ([1, 1], [1, 1], [1, 1], 32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for count in (0, 1):
                x = values(1, 64, 37, 50, layout=LAST)[:count]
                first, second = (
                    (x[:, :32], weight, None, bias),
                    (x[:, 32:], gate_weight, None, gate_bias),
                )
                out = torch.empty(count, 32, 37, 50)
                OPS.conv2d_gated_out(*first, *second, "gelu", *geometry, out)
            results.append(out)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_wrong_arguments_are_named():
    weight, gate_weight, bias, gate_bias = parameters(16, 8, 1)
    x, geometry = values(1, 8, 4, 4, layout=LAST), ([1, 1], [0, 0], [1, 1], 1)
    out, packed = values(1, 16, 4, 4, layout=LAST), OPS.conv2d_pack(weight, "direct")
    first, second = (x, weight, None, bias), (None, gate_weight, None, gate_bias)
    wide, few = values(1, 32, 4, 4, layout=torch.contiguous_format), parameters(3, 32, 1)
    deep = parameters(16, 1, 1)
    of_wide = ([1, 1], [0, 0], [1, 1], 16)
    none = (None, None, "none")
    for match, arguments in [
        ("relu", (*first, *second, "relu", *geometry, out)),
        (r"gate_weight.*sizes", (*first, None, gate_weight[:8], *none, *geometry, out)),
        (r"gate_input.*sizes", (*first, x[:, :4], *second[1:], "none", *geometry, out)),
        ("same input", (*first, x.clone(), *second[1:], "none", *geometry, out)),
        ("bias", (x, weight, None, bias[:3], *second, "none", *geometry, out)),
        ("bias", (*first, *second[:3], bias[:3], "none", *geometry, out)),
        ("packed", (x, weight, packed, bias, *second, "none", *geometry, out)),
        ("packed_weight", (*first, *second[:2], 0 * packed, None, "none", *geometry, out)),
        (r"out.*sizes", (*first, *second, "none", *geometry, out[:, :, 1:])),
        ("too few", (wide, few[0], None, None, None, few[1], *none, *geometry, out[:, :3])),
        ("side by side", (wide[:, :16], deep[0], None, None, wide[:, 16:], deep[1], None, None,
                          "none", *of_wide, out)),
    ]:  # fmt: skip
        with pytest.raises(RuntimeError, match=match):
            OPS.conv2d_gated_out(*arguments)
    overlapping = values(1, 16, 4, 4, layout=LAST)
    square = parameters(16, 16, 1)
    with pytest.raises(RuntimeError, match=r"out.*input"):
        OPS.conv2d_gated_out(
            overlapping, square[0], None, None, None, square[1], None, None, "none",
            *geometry, overlapping,
        )  # fmt: skip


def test_opcheck():
    weight, gate_weight, bias, gate_bias = parameters(16, 8, 1)
    x = values(1, 8, 4, 4, layout=LAST)
    arguments = (x, weight, None, bias, None, gate_weight, None, gate_bias, "gelu", [1, 1], [0, 0],
                 [1, 1], 1, torch.empty(1, 16, 4, 4))  # fmt: skip
    torch.library.opcheck(OPS.conv2d_gated_out.default, arguments)
