"""What ``denoise-ext bench`` measures: our calls, PyTorch's, and OpenCV's where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from denoise_ext import models, ops, reference
from denoise_ext import nn as dn
from denoise_ext._modules import channels_last
from denoise_ext._timing import Call
from denoise_ext.engine import accelerate

OURS, TORCH, PLAIN = "denoise_ext", "torch channels_last", "plain torch operations"
LAYERS = "denoise_ext without accelerate"
SIGMA = 25.0


@dataclass(frozen=True)
class BenchCase:
    """Several ways to compute one thing."""

    name: str
    contenders: dict[str, Call]
    tolerance: float  # largest difference, as a part of the largest value

    def check(self) -> None:
        """RuntimeError where one computes something else: its time would mean nothing."""
        results = {name: torch.as_tensor(call()).double() for name, call in self.contenders.items()}
        expected = results[OURS]
        for name, result in results.items():
            error = float((result.reshape(expected.shape) - expected).abs().max())
            if error > self.tolerance * float(expected.abs().max()):
                raise RuntimeError(f"{self.name}: {name} computes something else, by {error:.2g}")


def bench_cases(what: str, size: int) -> Iterator[BenchCase]:
    """The cases of "kernels", "nets", "filters" or "all", with ``size`` x ``size`` images."""
    parts = {"kernels": _kernels, "nets": _networks, "filters": _filters}
    for name, cases in parts.items():
        if what in (name, "all"):
            yield from cases(size)


def _random(*shape: int) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def _pair(name: str, module: nn.Module, *inputs: object) -> BenchCase:
    """A module of this package beside the same of torch.nn, both channels_last."""
    ours = channels_last(module.eval())
    plain = dn.to_torch(ours)
    calls: dict[str, Call] = {OURS: lambda: ours(*inputs), TORCH: lambda: plain(*inputs)}
    return BenchCase(name, calls, tolerance=1e-3)  # networks by Winograd's algorithm in float32


def _kernels(size: int) -> Iterator[BenchCase]:
    conv, transposed = dn.ConvReLU2d, dn.ConvTransposeReLU2d
    image = f"{size}x{size}"
    for channels, filters in ((64, 64), (32, 32), (1, 64), (64, 1), (3, 64), (64, 3)):
        x = _random(1, channels, size, size)
        name = f"convolution 3x3 {channels}->{filters} + ReLU, {image}"
        yield _pair(name, conv(channels, filters, 3, padding=1), x)
    x = _random(1, 64, size, size)
    yield _pair(f"depthwise 3x3 of 64 + ReLU, {image}", conv(64, 64, 3, padding=1, groups=64), x)
    yield _pair(f"convolution 1x1 64->64 + ReLU, {image}", conv(64, 64, 1), x)
    x = _random(1, 64, size // 2, size // 2)
    for kernel, padding in ((4, 1), (2, 0)):
        name = f"transposed {kernel}x{kernel} stride 2 64->64 + ReLU, to {image}"
        yield _pair(name, transposed(64, 64, kernel, stride=2, padding=padding), x)


def _networks(size: int) -> Iterator[BenchCase]:
    for name in ("dncnn_gray", "ffdnet_gray", "ffdnet_color"):
        model = models.create_model(name).eval()
        assert isinstance(model, models.ImageDenoiser)
        image = _random(1, model.in_channels, size, size)
        inputs = (image, SIGMA) if model.needs_sigma else (image,)
        case = _pair(f"{name}, {size}x{size}", model, *inputs)
        layers = case.contenders[OURS]
        accelerated = partial(accelerate(model, inputs), *inputs)
        calls: dict[str, Call] = {
            OURS: accelerated, LAYERS: layers, TORCH: case.contenders[TORCH],
        }  # fmt: skip
        yield replace(case, contenders=calls)


def _filters(size: int) -> Iterator[BenchCase]:
    for channels in (1, 3):
        image = _random(1, channels, size, size)
        where = f"{channels} channel{'s' * (channels > 1)}, {size}x{size}"
        rivals = _opencv(image)
        gaussian, bilateral = (image, 15, 2.5), (image, 9, 0.1, (3.0, 3.0))
        yield BenchCase(
            f"Gaussian sigma 2.5, {where}",
            {
                OURS: partial(ops.gaussian_blur2d, *gaussian),
                **rivals.get("gaussian", {PLAIN: partial(reference.gaussian_blur2d, *gaussian)}),
            },
            tolerance=1e-4,
        )
        circle = partial(reference.bilateral_blur, *bilateral, window="circle")
        yield BenchCase(
            f"bilateral 9x9, {where}",
            {
                OURS: partial(ops.bilateral_blur, *bilateral, window="circle"),
                **rivals.get("bilateral", {PLAIN: circle}),
            },
            tolerance=1e-3,  # OpenCV interpolates exp() in a table
        )


def _opencv(image: Tensor) -> dict[str, dict[str, Call]]:
    """OpenCV's way to the same results; none where it is not installed."""
    try:
        import cv2
    except ImportError:
        return {}
    cv2.setNumThreads(torch.get_num_threads())
    array = image[0].permute(1, 2, 0).numpy()  # (H, W, C), the same memory

    def call(function: Callable[..., np.ndarray], *arguments: object) -> Call:
        def run() -> Tensor:
            result = torch.from_numpy(function(array, *arguments))
            return result.reshape(array.shape).permute(2, 0, 1)[None]

        return run

    return {
        "gaussian": {"OpenCV": call(cv2.GaussianBlur, (15, 15), 2.5)},
        "bilateral": {"OpenCV": call(cv2.bilateralFilter, 9, 0.1, 3.0)},
    }
