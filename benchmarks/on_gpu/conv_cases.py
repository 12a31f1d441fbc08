"""Convolutions and transposed convolutions: the layers of denoising networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import ops
from harness.cases import Absent, Target, channels_last, dtype_name, uniform
from on_gpu.cases import (
    DRY,
    HD,
    KernelCase,
    Shape,
    Tensors,
    Way,
    all_in,
    both_layouts,
    micros,
    random_weight,
)


def with_tf32(run: Callable[[Tensors], Tensor]) -> Callable[[Tensors], Tensor]:
    """PyTorch may round factors to tf32 too."""

    def allowed(t: Tensors) -> Tensor:
        # None: as it is. The defaults of flags() would switch cuDNN off.
        with torch.backends.cudnn.flags(None, None, None, None, allow_tf32=True):
            return run(t)

    return allowed


def _relu_(x: Tensor, activation: str) -> Tensor:
    return x.relu_() if activation == "relu" else x


def conv(
    name: str,
    filters: int,
    shape: Shape,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    dtype: torch.dtype = torch.float16,
    layout: torch.memory_format = torch.channels_last,
    activation: str = "relu",
    residual: bool = False,
    tf32: bool = False,
    compiled: bool = False,
    targets: tuple[Target, ...] = (),
) -> KernelCase:
    channels = shape[1]
    padding = kernel // 2
    arguments = (stride, padding, 1, groups)

    def output_shape(s: Shape) -> Shape:
        rows, cols = ((size + 2 * padding - kernel) // stride + 1 for size in s[2:])
        return (s[0], filters, rows, cols)

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        tensors = {
            "x": uniform(s, device, seed).to(dtype).contiguous(memory_format=layout),
            "w": random_weight((filters, channels // groups, kernel, kernel), dtype, device),
            "b": uniform((filters,), device, 8, -0.1, 0.1).to(dtype),
        }
        if layout == torch.contiguous_format:
            tensors["w"] = tensors["w"].contiguous()
        if residual:
            r = uniform(output_shape(s), device, seed + 1, -1.0, 1.0).to(dtype)
            tensors["r"] = r.contiguous(memory_format=layout)
        return tensors

    options = {"activation": activation, "precision": "fast" if tf32 else "default"}

    def ours(t: Tensors) -> Tensor:
        return ops.conv2d(t["x"], t["w"], t["b"], *arguments, residual=t.get("r"), **options)

    def eager(t: Tensors) -> Tensor:
        y = F.conv2d(t["x"], t["w"], t["b"], *arguments)
        return _relu_(y.add_(t["r"]) if residual else y, activation)

    def cudnn(t: Tensors) -> Tensor:
        if not t["x"].is_cuda:
            raise Absent("cuDNN runs on GPUs only")
        pairs = ([stride] * 2, [padding] * 2, [1, 1], groups)
        if residual:
            return torch.cudnn_convolution_add_relu(t["x"], t["w"], t["r"], 1.0, t["b"], *pairs)
        return torch.cudnn_convolution_relu(t["x"], t["w"], t["b"], *pairs)

    others = both_layouts(eager)
    if activation == "relu":
        others["cuDNN fused"] = Way(cudnn, all_in(torch.channels_last))
    if compiled:
        others["torch.compile"] = Way(eager, all_in(torch.channels_last), compiled=True)
    if tf32:
        others = {name: replace(one, run=with_tf32(one.run)) for name, one in others.items()}
    element = torch.empty((), dtype=dtype).element_size()

    def moved(s: Shape) -> int:
        n, k, rows, cols = output_shape(s)
        weights = filters * channels // groups * kernel * kernel
        inputs = s[0] * s[1] * s[2] * s[3]
        return element * (inputs + n * k * rows * cols * (2 if residual else 1) + weights)

    def operations(s: Shape) -> int:
        n, k, rows, cols = output_shape(s)
        return 2 * n * k * rows * cols * (channels // groups) * kernel * kernel

    return KernelCase(
        f"{name}, {'tf32' if tf32 else dtype_name(dtype)}", "convolution", "conv2d", shape,
        (shape[0] if shape[0] < 3 else 3, channels, *DRY), dtype, make, ours, others, moved,
        operations,
        lambda t: (
            ops.conv2d,
            (t["x"], t["w"], t["b"], *arguments),
            {**options, "residual": t.get("r")},
        ),
        targets, tf32,
    )  # fmt: skip


def transposed(
    kernel: int,
    channels: int,
    filters: int,
    *,
    compiled: bool = False,
    targets: tuple[Target, ...] = (),
) -> KernelCase:
    """To 1080p, stride 2."""
    padding, extra = {2: (0, 0), 3: (1, 1), 4: (1, 0)}[kernel]
    shape = (1, channels, HD[0] // 2, HD[1] // 2)
    dtype = torch.float16

    def make(s: Shape, device: torch.device, seed: int) -> Tensors:
        return {
            "x": channels_last(uniform(s, device, seed).to(dtype)),
            "w": random_weight((channels, filters, kernel, kernel), dtype, device),
            "b": uniform((filters,), device, 8, -0.1, 0.1).to(dtype),
        }

    def ours(t: Tensors) -> Tensor:
        return ops.conv_transpose2d(
            t["x"], t["w"], t["b"], 2, padding, extra, activation="relu"
        )  # fmt: skip

    def eager(t: Tensors) -> Tensor:
        return F.conv_transpose2d(t["x"], t["w"], t["b"], 2, padding, extra).relu_()

    others = both_layouts(eager)
    if compiled:
        others["torch.compile"] = Way(eager, all_in(torch.channels_last), compiled=True)

    def moved(s: Shape) -> int:
        pixels = s[0] * s[2] * s[3]
        return 2 * (pixels * channels + 4 * pixels * filters + channels * filters * kernel**2)

    return KernelCase(
        f"transposed {channels}->{filters} {kernel}x{kernel} stride 2 to 1080p, float16",
        "convolution", "conv_transpose2d", shape, (1, channels, *DRY), dtype, make, ours, others,
        moved, lambda s: 2 * s[0] * s[2] * s[3] * channels * filters * kernel**2,
        lambda t: (
            ops.conv_transpose2d,
            (t["x"], t["w"], t["b"], 2, padding, extra),
            {"activation": "relu"},
        ),
        targets,
    )  # fmt: skip


def conv_cases() -> list[KernelCase]:
    """The most wanted first: a short run still has them."""
    fused = Target(1.2, ("cuDNN fused",))
    hd64: Shape = (1, 64, *HD)
    small: Shape = (1, 64, 512, 512)
    batch: Shape = (16, 64, 512, 512)
    f32, bf16 = torch.float32, torch.bfloat16
    contiguous = torch.contiguous_format
    return [
        conv("64->64 3x3 1080p", 64, hd64, compiled=True, targets=(micros(360), fused)),
        conv("3->64 3x3 1080p", 64, (1, 3, *HD), compiled=True, targets=(micros(85),)),
        conv("64->3 3x3 1080p", 3, hd64, activation="none", compiled=True, targets=(micros(85),)),
        transposed(4, 64, 32, compiled=True, targets=(micros(65),)),
        conv("64->64 3x3 1080p + residual", 64, hd64, residual=True),
        conv("64->64 3x3 1080p", 64, hd64, dtype=bf16),
        conv("64->64 3x3 1080p", 64, hd64, dtype=f32, tf32=True),
        conv("64->64 3x3 16x512x512", 64, batch),
        conv("64->64 3x3 1080p, 4 groups", 64, hd64, groups=4),
        conv("96->96 3x3 1080p", 96, (1, 96, *HD)),
        conv("depthwise 64 3x3 1080p", 64, hd64, groups=64),
        conv("depthwise 64 3x3 1080p NCHW", 64, hd64, groups=64, dtype=f32, layout=contiguous),
        transposed(2, 64, 32),
        transposed(3, 64, 32),
        conv("1->64 3x3 1080p", 64, (1, 1, *HD)),
        conv("64->1 3x3 1080p", 1, hd64, activation="none"),
        conv("64->64 1x1 1080p", 64, hd64, kernel=1),
        conv("64->64 5x5 1080p", 64, hd64, kernel=5),
        conv("64->128 3x3 stride 2 1080p", 128, hd64, stride=2),
        conv("64->64 3x3 512x512", 64, small, dtype=f32),
        conv("64->64 3x3 512x512 NCHW", 64, small, dtype=f32, layout=contiguous),
        conv("64->64 3x3 512x512 NCHW", 64, small, dtype=f32, layout=contiguous, tf32=True),
        conv("3->64 3x3 1080p NCHW", 64, (1, 3, *HD), dtype=f32, layout=contiguous),
    ]  # fmt: skip
