"""The raw operator conv_transpose2d_out: views as output, residuals, what is refused."""

from __future__ import annotations

import bounds
import pytest
import torch
from calls_conv_out import random

from denoise_ext import reference

OPS = torch.ops.denoise_ext
# kernel, stride, padding, output padding: phases of one tap, of 2x2 (Winograd's), uneven ones; none
GEOMETRIES = [(2, 2, 0, 0), (4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 1, 0)]


def run(x, weight, out, geometry=(2, 2, 0, 0), *, bias=None, activation="none", residual=None,
        position="before", precision="default"):  # fmt: skip
    _, stride, padding, output_padding = geometry
    OPS.conv_transpose2d_out(
        x, weight, bias, [stride] * 2, [padding] * 2, [output_padding] * 2, 1, [1, 1], activation,
        0.01, None, residual, position, precision, out,
    )  # fmt: skip
    return out


def expected(x, weight, geometry, bias, residual, position):
    """The float64 reference, ReLU and the residual around it as `position` says."""
    _, stride, padding, output_padding = geometry
    y = reference.conv_transpose2d(
        x.double(), weight.double(), bias.double(), stride=stride, padding=padding,
        output_padding=output_padding,
    )  # fmt: skip
    if position == "before":
        return (y + residual.double()).relu()
    return y.relu() + residual.double()


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_slices_of_channels(geometry, layout, position, isa):
    """Input and output inside larger buffers, a residual: what surrounds the output stays."""
    kernel, stride, padding, output_padding = geometry
    x = random(2, 24, 9, 13).contiguous(memory_format=layout)[:, 3:23]
    weight, bias = random(20, 16, kernel, kernel, seed=1), random(16, seed=2)
    size = [(n - 1) * stride - 2 * padding + kernel + output_padding for n in (9, 13)]
    buffer = random(2, 30, *size, seed=3).contiguous(memory_format=layout)
    residual = random(2, 16, *size, seed=4).contiguous(memory_format=layout)
    before = buffer.clone()
    run(x, weight, buffer[:, 5:21], geometry, bias=bias, activation="relu", residual=residual,
        position=position, precision="strict")  # fmt: skip
    exact = expected(x, weight, geometry, bias, residual, position)
    terms = 20 * kernel**2
    allowed = (terms + 16) * (terms + 2) * bounds.accumulator_eps(torch.float32)
    assert float((buffer[:, 5:21].double() - exact).abs().max()) <= allowed
    assert torch.equal(buffer[:, :5], before[:, :5])
    assert torch.equal(buffer[:, 21:], before[:, 21:])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_equals_the_operator_that_allocates(geometry):
    x = random(1, 16, 24, 31).contiguous(memory_format=torch.channels_last)
    weight, bias = random(16, 32, *[geometry[0]] * 2, seed=1), random(32, seed=2)
    _, stride, padding, output_padding = geometry
    plain = OPS.conv_transpose2d(
        x, weight, bias, [stride] * 2, [padding] * 2, [output_padding] * 2, 1, [1, 1], "none",
        0.01, None, "default",
    )  # fmt: skip
    assert torch.equal(run(x, weight, torch.empty_like(plain), geometry, bias=bias), plain)
    # Winograd's sums too, added to what lies in the output
    residual = random(*plain.shape, seed=5).contiguous(memory_format=torch.channels_last)
    added = run(x, weight, residual.clone(), geometry, bias=bias, residual=residual)
    torch.testing.assert_close(added, plain + residual, rtol=0, atol=4 * 16 * 2**-23 * 16)
    itself = residual.clone()
    assert torch.equal(run(x, weight, itself, geometry, bias=bias, residual=itself), added)


def test_wrong_arguments_are_named():
    x, weight = random(1, 4, 5, 5), random(4, 3, 2, 2)
    with pytest.raises(RuntimeError, match="conv_transpose2d_out: out"):
        run(x, weight, torch.empty(1, 3, 9, 10))
    with pytest.raises(RuntimeError, match="conv_transpose2d_out: residual"):
        run(x, weight, torch.empty(1, 3, 10, 10), residual=torch.empty(1, 3, 10, 9))


def test_an_empty_batch():
    assert run(torch.empty(0, 4, 5, 5), random(4, 3, 2, 2), torch.empty(0, 3, 10, 10)).numel() == 0


def test_opcheck():
    x, weight, out = random(1, 4, 5, 5), random(4, 3, 2, 2), torch.empty(1, 3, 10, 10)
    arguments = (x, weight, None, [2, 2], [0, 0], [0, 0], 1, [1, 1], "none", 0.01, None, None,
                 "before", "default", out)  # fmt: skip
    torch.library.opcheck(OPS.conv_transpose2d_out.default, arguments)


# Filters, and kernel and stride of rows and columns: one tap for each phase. Two or four phases are
# one product where the filters fill whole vectors; others are computed one by one.
ONE_TAP = [(16, (2, 2)), (32, (2, 2)), (64, (2, 2)), (16, (4, 4)), (16, (1, 2)), (32, (2, 1)),
           (16, (3, 3)), (20, (2, 2)), (8, (2, 2)), (4, (2, 2))]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("filters", "kernel"), ONE_TAP, ids=str)
def test_phases_of_one_tap(filters, kernel, dtype, isa):
    """Kernel and stride are equal: several rows to a task, the last group of pixels cut short."""
    for size in [(37, 29), (3, 1)]:
        x = random(2, 12, *size).to(dtype).contiguous(memory_format=torch.channels_last)
        weight = random(12, filters, *kernel, seed=1).to(dtype)
        bias = random(filters, seed=2).to(dtype)
        shape = (2, filters, *(n * k for n, k in zip(size, kernel, strict=True)))
        residual = random(*shape, seed=4).to(dtype).contiguous(memory_format=torch.channels_last)
        out = torch.full_like(residual, float("nan"))
        OPS.conv_transpose2d_out(
            x, weight, bias, list(kernel), [0, 0], [0, 0], 1, [1, 1], "relu", 0.01, None, residual,
            "before", "strict", out,
        )  # fmt: skip
        exact = reference.conv_transpose2d(
            x.double(), weight.double(), bias.double(), stride=kernel
        )
        exact = (exact + residual.double()).relu()
        # 12 products of two numbers below 5, and the two summands
        allowed = 14 * 12 * 25 * bounds.accumulator_eps(dtype)
        assert float((out.double() - exact).abs().max()) <= allowed
