"""Convolutions whose result takes the place of the residual: the same bits as elsewhere."""

from __future__ import annotations

import pytest
import torch
from calls_conv_out import conv2d_out, random
from torch import Tensor

OPS = torch.ops.denoise_ext
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# Filters, channels, kernel, stride, padding, algorithm: many, few and uneven numbers of filters,
# 1x1, strides, Winograd's with one block of filters and with several.
ORDINARY = [
    (21, 8, 3, 1, 1, "direct"), (3, 32, 3, 1, 1, "direct"), (64, 16, 1, 1, 0, "direct"),
    (32, 16, 2, 2, 0, "direct"), (48, 48, 3, 1, 1, "winograd4"), (12, 48, 3, 1, 1, "winograd4"),
    (80, 20, 3, 1, 1, "winograd4"), (40, 32, 3, 1, 1, "winograd6"), (16, 16, 4, 2, 1, "winograd4"),
]  # fmt: skip
# Channels, filters, kernel, stride, padding, algorithm: phases of one tap and of several.
TRANSPOSED = [
    (64, 32, 2, 2, 0, "direct"), (32, 16, 2, 2, 0, "direct"), (16, 5, 3, 2, 1, "direct"),
    (16, 16, 4, 2, 1, "winograd4"),
]  # fmt: skip


def same_in_place(write, residual: Tensor) -> None:
    out = torch.full_like(residual, torch.nan)
    write(out, residual)
    write(residual, residual)
    assert not out.isnan().any()
    assert torch.equal(residual, out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("case", ORDINARY, ids=str)
def test_ordinary(case, activation, layout, dtype, isa):
    filters, channels, kernel, stride, padding, algorithm = case
    weight = random(filters, channels, kernel, kernel, dtype=dtype, seed=1)
    packed = OPS.conv2d_pack(
        weight, algorithm, 1, "default", (stride, stride), (padding, padding), False
    )
    for rows, columns in ((26, 34), (9, 15), (1 + kernel, kernel)):
        x = random(2, channels, rows, columns, dtype=dtype).contiguous(memory_format=layout)
        size = [(n + 2 * padding - kernel) // stride + 1 for n in (rows, columns)]
        residual = random(2, filters, *size, dtype=dtype, seed=2).contiguous(memory_format=layout)
        for position in ("before", "after"):

            def write(out, residual, x=x, position=position):
                conv2d_out(
                    x, weight, out, packed=packed, stride=stride, padding=padding,
                    activation=activation, residual=residual, residual_position=position,
                    algorithm=algorithm,
                )  # fmt: skip

            same_in_place(write, residual.clone(memory_format=torch.preserve_format))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed(case, layout, isa):
    channels, filters, kernel, stride, padding, algorithm = case
    weight = random(channels, filters, kernel, kernel, seed=1)
    packed = OPS.conv2d_pack(
        weight, algorithm, 1, "default", (stride, stride), (padding, padding), True
    )
    for rows, columns in ((24, 32), (5, 7), (2, 3)):
        x = random(2, channels, rows, columns).contiguous(memory_format=layout)
        size = [(n - 1) * stride - 2 * padding + kernel for n in (rows, columns)]
        residual = random(2, filters, *size, seed=2).contiguous(memory_format=layout)

        def write(out, residual, x=x):
            OPS.conv_transpose2d_out(
                x, weight, None, [stride] * 2, [padding] * 2, [0, 0], 1, [1, 1], "relu", 0.01, None,
                residual, "before", "default", out, packed,
            )  # fmt: skip

        same_in_place(write, residual)


def test_larger_than_what_is_written_past_the_caches(isa):
    """Elsewhere 9 MiB of output bypass the caches; in place they are there already."""
    x = random(1, 16, 192, 192).contiguous(memory_format=torch.channels_last)
    residual = random(1, 64, 192, 192, seed=2).contiguous(memory_format=torch.channels_last)
    weight = random(64, 16, 1, 1, seed=1)
    same_in_place(lambda out, residual: conv2d_out(x, weight, out, residual=residual), residual)
