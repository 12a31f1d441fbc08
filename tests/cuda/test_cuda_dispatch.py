"""Which kernel each convolution of common networks takes on a GPU, forward and backward.

No call may land in a direct kernel, which has no reuse in registers or shared memory, except
calls in float64, with fewer than 8 channels on both sides, or with a kernel above 11 x 11.  Calls
for which the estimates of every other kernel are worse are in ``FASTER``, each group with its
reason.  The list may only become shorter: a reason that no call needs any more fails, and so does
a call that no reason covers, or one that another kernel is estimated to serve sooner.

To print every call with its estimated time beside the time that memory and arithmetic alone would
take, and a modelled time of cuDNN: ``PYTHONPATH=tests/support python
tests/cuda/test_cuda_dispatch.py sm_90``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from zoo import FAMILIES

from denoise_ext import ops
from denoise_ext._loader import native
from denoise_ext.models import create_model

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
STEPS = ("forward", "input gradient", "weight gradient")


@dataclass(frozen=True)
class Layer:
    """A convolution and the size of its input."""

    name: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        if self.transposed:
            return self.weight[0], self.weight[1] * self.groups
        return self.weight[1] * self.groups, self.weight[0]

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.channels == (self.groups, self.groups)

    def call(self) -> tuple[Callable[..., Tensor], dict[str, object]]:
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation,
                   "groups": self.groups}  # fmt: skip
        if not self.transposed:
            return ops.conv2d, options
        return ops.conv_transpose2d, options | {"output_padding": self.output_padding}


@dataclass(frozen=True)
class Row:
    """The kernel of one step of a layer."""

    layer: Layer
    dtype: torch.dtype
    channels_last: bool
    architecture: str
    step: str
    kernel: str
    estimate: float  # microseconds
    other: float  # of the next best kernel

    @property
    def tensor_cores(self) -> bool:
        """Whether the GPU has matrix products for this dtype (float32: in tf32)."""
        return self.architecture != "sm_75" or self.dtype == torch.float16


def _of(name: str, size: tuple[int, int], module: nn.Conv2d | nn.ConvTranspose2d) -> Layer:
    transposed = isinstance(module, nn.ConvTranspose2d)
    return Layer(
        name, (1, module.in_channels, *size), tuple(module.weight.shape), tuple(module.stride),
        tuple(module.padding), tuple(module.dilation), module.groups, transposed,
        tuple(module.output_padding) if transposed else (0, 0),
    )  # fmt: skip


def _of_the_zoo() -> Iterator[Layer]:
    """Every convolution of every network, at the size that an image of 270 x 358 gives it."""
    for name in FAMILIES:
        with torch.device("meta"):
            model = create_model(name).eval()
            image = torch.empty(1, model.in_channels, 270, 358)
        found: list[Layer] = []

        def note(module: nn.Module, args: tuple, path: str, found: list[Layer] = found) -> None:
            found.append(_of(path, tuple(args[0].shape[-2:]), module))

        for path, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_pre_hook(
                    lambda m, args, path=f"{name}.{path}", note=note: note(m, args, path)
                )
        with torch.no_grad():
            model(image, 25.0 if model.needs_sigma else None)
        yield from found


def _conv(name: str, channels: int, outputs: int, kernel: int, size=(135, 181), **options) -> Layer:
    with torch.device("meta"):
        return _of(name, size, nn.Conv2d(channels, outputs, kernel, **options))


def _up(name: str, channels: int, outputs: int, kernel: int, **options) -> Layer:
    with torch.device("meta"):
        return _of(name, (67, 91), nn.ConvTranspose2d(channels, outputs, kernel, **options))


@cache
def layers() -> tuple[Layer, ...]:
    """Layers of the zoo and of networks that people write; each geometry once."""
    common = [
        _conv("resnet.stem", 3, 64, 7, stride=2, padding=3),
        _conv("resnet.block", 64, 64, 3, padding=1),
        _conv("resnet.down", 64, 128, 3, stride=2, padding=1),
        _conv("resnet.shortcut", 64, 128, 1, stride=2),
        _conv("resnet.reduce", 256, 64, 1),
        _conv("resnext.grouped", 128, 128, 3, padding=1, groups=4),
        _conv("unet.first", 1, 32, 3, padding=1),
        _conv("unet.merge", 128, 64, 3, padding=1),
        _conv("unet.down_k4", 64, 128, 4, stride=2, padding=1),
        _up("unet.up_k2", 128, 64, 2, stride=2),
        _up("unet.up_k3", 128, 64, 3, stride=2, padding=1, output_padding=1),
        _up("unet.up_k4", 128, 64, 4, stride=2, padding=1),
        _up("unet.up_to_rgb", 64, 3, 4, stride=2, padding=1),
        _conv("unet.head", 64, 3, 1),
        _conv("nafnet.expand", 64, 128, 1),
        _conv("nafnet.depthwise", 128, 128, 3, padding=1, groups=128),
        _conv("nafnet.down", 64, 128, 2, stride=2),
        _conv("nafnet.up", 128, 256, 1),
        _conv("srvgg.body", 64, 64, 3, padding=1),
        _conv("srvgg.tail", 64, 48, 3, padding=1),
        _conv("srcnn.head", 3, 64, 9, padding=4),
        _conv("srcnn.tail", 32, 1, 5, padding=2),
        _conv("compressai.analysis_1", 3, 128, 5, stride=2, padding=2),
        _conv("compressai.analysis", 128, 128, 5, stride=2, padding=2),
        _up("compressai.synthesis", 128, 128, 5, stride=2, padding=2, output_padding=1),
        _up("compressai.synthesis_4", 128, 3, 5, stride=2, padding=2, output_padding=1),
        *(_conv(f"ircnn.{d}", 64, 64, 3, padding=d, dilation=d) for d in (2, 3, 4)),
        _conv("convnext.depthwise", 96, 96, 7, padding=3, groups=96),
        _conv("mobilenet.depthwise", 96, 96, 3, stride=2, padding=1, groups=96),
        _conv("inception.row", 64, 64, (1, 7), padding=(0, 3)),
        _conv("rectangle", 64, 64, (3, 5), padding=(1, 2)),
    ]
    once: dict[tuple, Layer] = {}
    for layer in (*common, *_of_the_zoo()):
        geometry = (layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups,
                    layer.transposed, layer.output_padding)  # fmt: skip
        once.setdefault(geometry, layer)
    return tuple(once.values())


def rows(architecture: str) -> Iterator[Row]:
    """What ``ops.explain`` says of every layer, dtype, layout and step."""
    for layer in layers():
        for dtype in DTYPES:
            for layout in LAYOUTS:
                x, w = (
                    torch.empty(shape, dtype=dtype, device="meta").to(memory_format=layout)
                    for shape in (layer.input, layer.weight)
                )
                op, options = layer.call()
                text = "forward:\n" + ops.explain(op, x, w, device=architecture, **options) + "\n"
                text += ops.explain(op, x, w, device=architecture, backward=True, **options)
                for step in STEPS:
                    said = re.search(
                        rf"^{step}:\n(\w+): chosen, estimated at ([\d.]+) us\n((?:conv.*\n)*)",
                        text, re.M,
                    )  # fmt: skip
                    assert said, f"{layer} {step}: {text}"
                    others = re.findall(r"could run, estimated at ([\d.]+) us", said[3])
                    channels_last = layout == torch.channels_last
                    yield Row(
                        layer, dtype, channels_last, architecture, step, said[1], float(said[2]),
                        min(map(float, others), default=float("inf")),
                    )  # fmt: skip


def _is_strided_transposed(row: Row) -> bool:
    """Forward of a strided conv_transpose2d, and the input gradient of a strided conv2d."""
    strided = row.layer.stride != (1, 1)
    return strided and row.layer.transposed == (row.step == "forward")


def _products(row: Row) -> int:
    """That one output of the step is the sum of, in a forward or an input gradient."""
    layer = row.layer
    inputs, outputs = (channels // layer.groups for channels in layer.channels)
    taps = layer.weight[2] * layer.weight[3]
    if _is_strided_transposed(row):
        taps //= layer.stride[0] * layer.stride[1]
    return taps * (inputs if row.step == "forward" else outputs)


# What takes a direct kernel although the rule has another; the first reason that fits is a row's.
# The figures are estimated microseconds: of the direct kernel, then of the next best one.
FASTER: dict[str, Callable[[Row], bool]] = {
    "an image of one pixel, nothing to share: 64 channels 2.8 and 3.0, on sm_75 2.8 and 6.6": (
        lambda row: row.layer.input[2:] == (1, 1)
    ),
    "depthwise with a stride, input gradient, 1 to 4 products an output: 4.8 and 43": (
        lambda row: row.layer.depthwise and _is_strided_transposed(row)
    ),
    "up to 3 channels on one side and at most 64 products, bound by memory: 4.2 and 6.0": (
        lambda row: min(row.layer.channels) <= 3 and _products(row) <= 64
    ),
    "one output channel without tensor cores, tiles of 8 are mostly empty: 92 and 108": (
        lambda row: min(row.layer.channels) == 1 and not row.tensor_cores
    ),
}


def reason_of(row: Row) -> str | None:
    """Why the row is in a direct kernel; None where there is no excuse."""
    return next((reason for reason, fits in FASTER.items() if fits(row)), None)


def is_excused(row: Row) -> bool:
    """Fewer than 8 channels on both sides, or a kernel above 11 x 11."""
    return max(row.layer.channels) < 8 or max(row.layer.weight[2:]) > 11


@pytest.fixture
def tf32():
    """PyTorch's own default, which conftest.py has switched off."""
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = False


needs_cuda_build = pytest.mark.skipif(
    not native().build_info()["cuda"], reason="the build has no CUDA kernels"
)


@needs_cuda_build
@pytest.mark.rotates(turn=2)
@pytest.mark.usefixtures("tf32")
def test_every_direct_kernel_has_a_reason_and_every_reason_a_call():
    table = [row for architecture in ARCHITECTURES for row in rows(architecture)]
    calls = {(row.layer, row.dtype, row.channels_last, row.step) for row in table}
    assert len(calls) >= 200
    assert {row.step for row in table} == set(STEPS)
    direct = [row for row in table if row.kernel.endswith("_direct") and not is_excused(row)]
    reasons = {row: reason_of(row) for row in direct}
    assert [row for row, reason in reasons.items() if reason is None] == []
    assert set(FASTER) - set(reasons.values()) == set(), "reasons that no call needs any more"
    assert [row for row in direct if row.estimate > row.other] == []


@needs_cuda_build
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_and_large_kernels_take_the_direct_one(architecture):
    for dtype, kernel in ((torch.float64, 3), (torch.float32, 13)):
        x, w = (
            torch.empty(size, dtype=dtype, device="meta")
            for size in ((1, 64, 135, 181), (64, 64, kernel, kernel))
        )
        text = ops.explain(ops.conv2d, x, w, padding=kernel // 2, device=architecture)
        assert text.startswith("conv_direct: chosen") and "could run" not in text


# Multiprocessors, as typical_limits() of csrc/cuda/limits.cpp has them.
MULTIPROCESSORS = {"sm_75": 72, "sm_80": 108, "sm_86": 84, "sm_89": 142, "sm_90": 132,
                   "sm_100": 148, "sm_120": 188}  # fmt: skip


def times_of(row: Row) -> tuple[float, float]:
    """Microseconds at the least, and of cuDNN, by the rates of csrc/cuda/cost.h.

    At the least: each tensor is moved once, or all products run at full rate.  cuDNN is modelled,
    not timed: 80 % of the bandwidth, 75 % of the rate of multiply-adds or 45 % of the tensor cores'
    (that of an H200 with 64 channels), channels in multiples of 8 there, and of 16-bit NCHW tensors
    a copy to channels_last and back.
    """
    layer, (op, options) = row.layer, row.layer.call()
    x = torch.empty(layer.input, device="meta")
    y = op(x, torch.empty(layer.weight, device="meta"), **options)
    moved = (x.numel() + y.numel()) * row.dtype.itemsize
    memory = moved / (32.6e3 * MULTIPROCESSORS[row.architecture])
    pixels = x.shape[2] * x.shape[3] if layer.transposed else y.shape[2] * y.shape[3]
    products = pixels * torch.Size(layer.weight).numel()
    lanes = 128 * 1500 * MULTIPROCESSORS[row.architecture]
    if not row.tensor_cores or layer.depthwise:
        arithmetic, theirs = products / lanes, products / lanes / 0.75
    else:
        lanes *= 4 if row.dtype == torch.float32 else 8
        inputs, outputs = (channels / layer.groups for channels in layer.channels)
        padded = -(-inputs // 8) * 8 / inputs * -(-outputs // 8) * 8 / outputs
        arithmetic, theirs = products / lanes, products * padded / lanes / 0.45
    copies = 3 if row.dtype != torch.float32 and not row.channels_last else 1
    return max(memory, arithmetic), max(copies * memory / 0.8, theirs)


def main() -> None:
    """Prints the table of the architectures that are named."""
    for architecture in sys.argv[1:] or ["sm_90"]:
        for row in rows(architecture):
            layout = "channels_last" if row.channels_last else "contiguous"
            where = f"{row.layer.name:40} {str(row.dtype)[6:]:9} {layout:14} {row.step:16}"
            least, theirs = times_of(row)
            times = f"{row.estimate:10.1f} us, next {row.other:10.1f} us"
            times += f", at least {least:8.1f} us, cuDNN {theirs:8.1f} us"
            print(f"{architecture} {where} {row.kernel:25} {times}")


if __name__ == "__main__":
    main()
