"""Bilateral filters on the CPU: channels that lie side by side take routes of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from denoise_ext import ops

# Narrower than a vector, whole vectors and some pixels over, and several tiles of 512 columns.
SIZES = [(1, 1), (5, 7), (9, 33), (20, 64), (3, 531), (35, 1029)]


def image(channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    x = torch.rand(2, channels, height, width, generator=generator)
    return (255 * x).to(dtype) if dtype == torch.uint8 else x.to(dtype)


def blur(x: Tensor, **options) -> Tensor:
    sigma = 40.0 if x.dtype == torch.uint8 else 0.2
    return ops.bilateral_blur(x, (5, 7), sigma, (1.0, 1.5), **options)


@pytest.mark.rotates(each=["dtype", "channels", "isa"])
@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8], ids=str)
def test_layouts_give_the_same_bits(dtype, channels, size, border, isa):
    x = image(channels, *size, dtype)
    side_by_side = x.contiguous(memory_format=torch.channels_last)
    expected = blur(x, border_type=border)
    assert torch.equal(blur(side_by_side, border_type=border), expected)
    # A part of a larger image: rows and images do not follow each other in memory.
    room = torch.zeros(2, size[0] + 2, size[1] + 3, channels, dtype=dtype).permute(0, 3, 1, 2)
    room[:, :, 1:-1, 2:-1] = x
    assert torch.equal(blur(room[:, :, 1:-1, 2:-1], border_type=border), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_joint_layouts_give_the_same_bits(size, isa):
    x, guide = image(3, *size, torch.float32), image(3, *size, torch.float32).flip(3)
    arguments = ((5, 7), 0.2, (1.0, 1.5))
    expected = ops.joint_bilateral_blur(x, guide, *arguments)
    for a, b in ((True, True), (True, False), (False, True)):
        pair = [
            t.contiguous(memory_format=torch.channels_last) if last else t
            for t, last in ((x, a), (guide, b))
        ]
        assert torch.equal(ops.joint_bilateral_blur(*pair, *arguments), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1e-30])
@pytest.mark.parametrize("column", [0, 7, 8, 17, 31, 32, 44])
def test_unusual_values_are_seen_wherever_they_are(value, column, isa):
    # Tiles with such values take another kernel, so the search for them must not miss a lane.
    x = image(3, 9, 45, torch.float32) * (1.0 if value > 1 or value != value else 1e-30)
    x[0, 1, 4, column] = value
    side_by_side = x.contiguous(memory_format=torch.channels_last)
    expected = blur(x)
    assert torch.equal(blur(side_by_side).nan_to_num(7.0), expected.nan_to_num(7.0))
    assert torch.isfinite(expected).all() == (value == value and value != float("inf"))
