"""Fused convolutions against PyTorch's convolution and activation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from denoise_ext import ops

# (batch, channels in, channels out, height, width): first, middle and last layer of a DnCNN, and
# the middle of a small FFDNet at half resolution.
SHAPES = {
    "first": (1, 1, 64, 256, 256),
    "middle": (1, 64, 64, 256, 256),
    "last": (1, 64, 1, 256, 256),
    "small": (1, 32, 32, 128, 128),
}
ROUNDING = 1e-5  # sums of at most 64 * 9 products below 1, in another order


def image_and_weight(shape: tuple[int, ...], kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    n, channels, filters, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, height, width, generator=generator)
    weight = torch.rand(filters, channels, kernel, kernel, generator=generator) - 0.5
    weight /= (channels * kernel * kernel) ** 0.5
    return x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SHAPES)
def test_conv2d_relu(bench, name):
    x, weight = image_and_weight(SHAPES[name], 3)
    bias = torch.linspace(-0.1, 0.1, weight.shape[0])
    bench(
        {
            "denoise_ext": lambda: ops.conv2d(x, weight, bias, padding=1, activation="relu"),
            "torch": lambda: F.conv2d(x, weight, bias, padding=1).relu_(),
        },
        tolerance=ROUNDING,
    )


def test_depthwise_conv2d(bench):
    x, _ = image_and_weight((1, 64, 64, 256, 256), 3)
    weight = torch.rand(64, 1, 3, 3, generator=torch.Generator().manual_seed(1)) / 9
    bench(
        {
            "denoise_ext": lambda: ops.conv2d(x, weight, padding=1, groups=64),
            "torch": lambda: F.conv2d(x, weight, padding=1, groups=64),
        },
        tolerance=ROUNDING,
    )


def test_conv_transpose2d(bench):
    x, weight = image_and_weight((1, 64, 64, 128, 128), 2)
    bench(
        {
            "denoise_ext": lambda: ops.conv_transpose2d(x, weight, stride=2),
            "torch": lambda: F.conv_transpose2d(x, weight, stride=2),
        },
        tolerance=ROUNDING,
    )
