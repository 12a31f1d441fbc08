"""Convolutions: one layer with bias and ReLU, as the networks are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext import nn as dn
from harness.cases import (
    OURS,
    Call,
    Case,
    Contender,
    Target,
    Work,
    bytes_of,
    channels_last,
    channels_last_module,
    uniform,
)
from harness.networks import convolution_operations, randomise
from on_cpu import competitors
from on_cpu.competitors import CHANNELS_LAST, COMPILED, FAST, NCHW, PACKED

# float32 sums in another order; F(4x4,3x3) adds 2e-5 of the output's scale, F(6x6,3x3) 4e-5.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def prepacked(layer: dn.Conv2d, x: Tensor) -> Call:
    """As the engine calls it: weights packed once, the output's memory used again."""
    raw = torch.ops.denoise_ext
    out = torch.empty_like(layer(x))
    packed = raw.conv2d_pack(layer.weight, "winograd4")
    tail = [layer.stride, layer.padding, layer.dilation, layer.groups, "constant"]
    tail += [layer.activation, layer.negative_slope, None, None, "before", "winograd4", out]

    def run() -> Tensor:
        raw.conv2d_out(x, layer.weight, packed, layer.bias, *tail)
        return out

    return run


def eager(layer: dn.Conv2d | dn.ConvTranspose2d, x: Tensor, layout: torch.memory_format) -> Call:
    """torch's operator, then its activation in place."""
    convolve = F.conv_transpose2d if isinstance(layer, nn.ConvTranspose2d) else F.conv2d
    activate = torch.relu_ if layer.activation == "relu" else (lambda y: y)
    x, weight = (t.contiguous(memory_format=layout) for t in (x, layer.weight))
    names = ["stride", "padding", "groups", "dilation"]
    names += ["output_padding"] if isinstance(layer, nn.ConvTranspose2d) else []
    settings = {name: getattr(layer, name) for name in names}
    return lambda: activate(convolve(x, weight, layer.bias, **settings))


def with_precision(layer: nn.Module, precision: str, x: Tensor) -> Call:
    layer = copy.deepcopy(layer)
    layer.precision = precision
    return lambda: layer(x)


# What more a case can be held against, by letter.
FURTHER: dict[str, Callable[[nn.Module, Tensor, bool], list[Contender]]] = {
    "P": lambda layer, x, tiny: [
        Contender(PACKED, lambda: prepacked(layer, x)),
        Contender(FAST, lambda: with_precision(layer, "fast", x)),
    ],
    "C": lambda layer, x, tiny: [
        Contender(COMPILED, lambda: competitors.torch_compiled(dn.to_torch(layer), x, tiny))
    ],
    "O": lambda layer, x, tiny: competitors.onnx_contenders(dn.to_torch(layer), x),
}


def conv_work(layer: nn.Module, size: int, further: str, dtype: torch.dtype, tiny: bool) -> Work:
    size = min(size, 12) if tiny else size
    layer = channels_last_module(randomise(layer).to(dtype))
    x = channels_last(uniform((1, layer.in_channels, size, size), low=-1).to(dtype))
    contenders = [
        Contender(CHANNELS_LAST, lambda: eager(layer, x, torch.channels_last)),
        Contender(OURS, lambda: lambda: layer(x)),
        Contender(NCHW, lambda: eager(layer, x, torch.contiguous_format)),
    ]
    for letter in further:
        contenders += FURTHER[letter](layer, x, tiny)
    moved = bytes_of(x, layer(x), layer.weight)
    return Work(contenders, convolution_operations(layer, x), moved, TOLERANCE[dtype])


def _case(
    name: str,
    make: Callable[[], nn.Module],
    size: int,
    least: float,
    further: str = "",
    dtype: torch.dtype = torch.float32,
    weight: float = 1.0,
) -> Case:
    build = partial(_build, make, size, further, dtype)
    # The layer as one calls it and, where it is measured, the kernel alone as the engine calls it.
    judged = [OURS, PACKED] if "P" in further else [OURS]
    targets = tuple(Target(least, (CHANNELS_LAST,), ours) for ours in judged)
    return Case(name, build, targets, weight)


def _build(make: Callable, size: int, further: str, dtype: torch.dtype, tiny: bool) -> Work:
    return conv_work(make(), size, further, dtype, tiny)


def _conv(channels: int, filters: int, kernel: int = 3, **settings: object) -> Callable:
    settings = {"padding": kernel // 2, "activation": "relu", **settings}
    return partial(dn.Conv2d, channels, filters, kernel, **settings)


def kernel_cases() -> list[Case]:
    """The middle layers."""
    same = "3x3 + ReLU"
    return [
        _case(f"64->64 {same}, 512x512", _conv(64, 64), 512, 2.9, "PCO", weight=4),
        _case(f"32->32 {same}, 512x512", _conv(32, 32), 512, 1.7, "P", weight=1.5),
        _case(f"96->96 {same}, 512x512", _conv(96, 96), 512, 2.8, "P", weight=2),
        _case(f"64->64 {same}, 128x128", _conv(64, 64), 128, 2.7, "P"),
        _case(f"64->64 {same}, 64x64", _conv(64, 64), 64, 2.7, "P"),
        _case(f"64->64 {same}, stride 2, 512x512", _conv(64, 64, stride=2), 512, 1.0),
        _case(f"64->64 {same}, dilation 2, 512x512", _conv(64, 64, padding=2, dilation=2), 512, 1),
        _case("64->64 1x1 + ReLU, 512x512", _conv(64, 64, 1), 512, 1.0),
        _case("64 depthwise 3x3 + ReLU, 512x512", _conv(64, 64, groups=64), 512, 1.0),
        _case(f"64->64 {same}, 512x512, bfloat16", _conv(64, 64), 512, 1.0, dtype=torch.bfloat16),
        # torch's float16 on the CPU is ten times slower than its float32.
        _case(f"64->64 {same}, 256x256, float16", _conv(64, 64), 256, 1.0, dtype=torch.float16),
    ]


def edge_cases() -> list[Case]:
    """First and last layers: few channels on one side."""
    return [
        _case("1->64 3x3 + ReLU, 512x512", _conv(1, 64), 512, 2.0),
        _case("64->1 3x3, 512x512", _conv(64, 1, activation="none"), 512, 3.5),
        _case("3->64 3x3 + ReLU, 512x512", _conv(3, 64), 512, 1.2),
        _case("64->3 3x3, 512x512", _conv(64, 3, activation="none"), 512, 2.7),
    ]


def transposed_cases() -> list[Case]:
    def make(kernel: int, padding: int, output_padding: int = 0) -> Callable:
        return partial(
            dn.ConvTranspose2d, 64, 64, kernel, stride=2, padding=padding,
            output_padding=output_padding, activation="relu",
        )  # fmt: skip

    return [
        _case("64->64 4x4 stride 2 + ReLU, 256->512", make(4, 1), 256, 1.3),
        _case("64->64 2x2 stride 2 + ReLU, 256->512", make(2, 0), 256, 1.1),
        _case("64->64 3x3 stride 2 + ReLU, 256->512", make(3, 1, 1), 256, 1.0),
    ]


def avx2_cases() -> list[Case]:
    """In a process of its own, in which everyone is held to AVX2."""
    return [_case("64->64 3x3 + ReLU, 512x512", _conv(64, 64), 512, 2.2, "P")]
