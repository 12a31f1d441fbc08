"""Gradients of convolutions, each by itself: what a layer's backward pass is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.cases import channels_last, dtype_name, uniform
from on_gpu.cases import (
    DRY,
    HD,
    KernelCase,
    Shape,
    Tensors,
    both_layouts,
    random_weight,
)

aten = torch.ops.aten
native = torch.ops.denoise_ext
INPUT, WEIGHT, BIAS, PRELU = range(4)


def _only(index: int, count: int) -> list[bool]:
    return [i == index for i in range(count)]


def gradient(
    name: str,
    wanted: int,
    filters: int,
    shape: Shape,
    *,
    activation: str = "none",
    groups: int = 1,
    dtype: torch.dtype = torch.float16,
) -> KernelCase:
    """Of a 3x3 convolution of stride 1, with respect to its input, weight, bias or PReLU slopes."""
    channels = shape[1]
    pairs = ([1, 1], [1, 1], [1, 1])  # stride, padding, dilation

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        outputs = (s[0], filters, s[2], s[3])
        saved = uniform(outputs, device, seed + 2, -1.0, 1.0)
        tensors = {
            "g": channels_last(uniform(outputs, device, seed, -1.0, 1.0).to(dtype)),
            "x": channels_last(uniform(s, device, seed + 1).to(dtype)),
            "w": random_weight((filters, channels // groups, 3, 3), dtype, device),
        }
        if activation != "none":  # what the forward pass keeps: relu's output, PReLU's input
            saved = saved.relu_() if activation == "relu" else saved
            tensors["saved"] = channels_last(saved.to(dtype))
        if activation == "prelu":
            tensors["slopes"] = uniform((filters,), device, 9, 0.1, 0.5).to(dtype)
        return tensors

    def arguments(t: Tensors) -> tuple:
        images = (t["g"], t["x"], t["w"], t.get("saved"), t.get("slopes"))
        return (*images, *pairs, groups, activation, 0.0, _only(wanted, 5))

    def theirs(t: Tensors) -> Tensor:
        g = t["g"]
        if wanted == PRELU:
            slopes = t["slopes"].view(1, -1, 1, 1)
            return aten._prelu_kernel_backward(g, t["saved"], slopes)[1].sum((0, 2, 3))
        if activation == "relu":
            g = aten.threshold_backward(g, t["saved"], 0)
        if wanted == BIAS:
            return g.sum((0, 2, 3))
        return aten.convolution_backward(
            g, t["x"], t["w"], None, *pairs, False, [0, 0], groups, _only(wanted, 3)
        )[wanted]

    element = torch.empty((), dtype=dtype).element_size()
    convolves = wanted in (INPUT, WEIGHT)

    def moved(s: Shape) -> int:
        images = filters * (1 if activation == "none" else 2) + (channels if convolves else 0)
        return element * s[0] * s[2] * s[3] * images

    def operations(s: Shape) -> int:
        each = 18 * channels // groups if convolves else 1 if wanted == BIAS else 2
        return s[0] * s[2] * s[3] * filters * each

    return KernelCase(
        f"{name}, {dtype_name(dtype)}", "gradient", "conv2d_backward", shape,
        (1, channels, *DRY), dtype, make,
        lambda t: native.conv2d_backward(*arguments(t))[wanted],
        both_layouts(theirs),
        moved, operations,
        lambda t: (native.conv2d_backward, arguments(t), {}),
    )  # fmt: skip


def transposed_gradient(name: str, wanted: int, channels: int, filters: int) -> KernelCase:
    """Of a transposed 4x4 convolution of stride 2 to 1080p."""
    shape = (1, channels, HD[0] // 2, HD[1] // 2)
    dtype = torch.float16
    stride, padding, none = [2, 2], [1, 1], [0, 0]

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        outputs = (s[0], filters, 2 * s[2], 2 * s[3])
        return {
            "g": channels_last(uniform(outputs, device, seed, -1.0, 1.0).to(dtype)),
            "x": channels_last(uniform(s, device, seed + 1).to(dtype)),
            "w": random_weight((channels, filters, 4, 4), dtype, device),
        }

    def arguments(t: Tensors) -> tuple:
        images = (t["g"], t["x"], t["w"], None, None)
        return (*images, stride, padding, none, 1, [1, 1], "none", 0.0, _only(wanted, 4))

    def theirs(t: Tensors) -> Tensor:
        return aten.convolution_backward(
            t["g"], t["x"], t["w"], None, stride, padding, [1, 1], True, none, 1, _only(wanted, 3)
        )[wanted]

    return KernelCase(
        f"{name}, {dtype_name(dtype)}", "gradient", "conv_transpose2d_backward", shape,
        (1, channels, *DRY), dtype, make,
        lambda t: native.conv_transpose2d_backward(*arguments(t))[wanted],
        both_layouts(theirs),
        lambda s: 2 * s[0] * s[2] * s[3] * (channels + 4 * filters),
        lambda s: 2 * s[0] * s[2] * s[3] * channels * filters * 16,
        lambda t: (native.conv_transpose2d_backward, arguments(t), {}),
    )  # fmt: skip


def gradient_cases() -> list[KernelCase]:
    """The most wanted first."""
    hd64, small = (1, 64, *HD), (1, 64, 512, 512)
    f32 = torch.float32
    return [
        gradient("input gradient and mask 64->64 3x3 1080p", INPUT, 64, hd64, activation="relu"),
        gradient("weight gradient 64->64 3x3 1080p", WEIGHT, 64, hd64),
        gradient("weight gradient 3->64 3x3 1080p", WEIGHT, 64, (1, 3, *HD)),
        gradient("weight gradient 1->64 3x3 1080p", WEIGHT, 64, (1, 1, *HD)),
        gradient("weight gradient 64->3 3x3 1080p", WEIGHT, 3, hd64),
        gradient("input gradient 64->3 3x3 1080p", INPUT, 3, hd64),
        gradient("bias gradient and mask 64->64 3x3 1080p", BIAS, 64, hd64, activation="relu"),
        gradient("PReLU slopes' gradient 64 1080p", PRELU, 64, hd64, activation="prelu"),
        gradient("input gradient depthwise 64 3x3 1080p", INPUT, 64, hd64, groups=64),
        gradient("weight gradient depthwise 64 3x3 1080p", WEIGHT, 64, hd64, groups=64),
        transposed_gradient("input gradient transposed 64->32 4x4 to 1080p", INPUT, 64, 32),
        transposed_gradient("weight gradient transposed 64->32 4x4 to 1080p", WEIGHT, 64, 32),
        gradient("weight gradient 64->64 3x3 512x512", WEIGHT, 64, small, dtype=f32),
    ]
