"""Every kernel of a convolution's weight gradient, on the geometries that each was written for.

Weight and bias are compared with float64: a sum of L products in float32 is off by at most
``(L + 16) eps`` of the sum of their sizes, and tf32 rounds each factor by 2^-11 of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import bounds
import cuda_emulator
import pytest
import torch
from cases import with_layout
from torch import Tensor

from denoise_ext import ops
from denoise_ext._loader import native

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
SLACK = 16
TF32_PRODUCT_ERROR = 2 * 2.0**-11 + 2.0**-22


@dataclass(frozen=True)
class Gradient:
    """The weight's and bias' gradient of conv2d, or the weight's of conv_transpose2d."""

    input: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)
    activation: str = "none"

    def tensors(self, dtype: torch.dtype, layout: str) -> dict[str, Tensor]:
        """``saved``: the output of leaky ReLU, laid out as the gradient that it masks."""
        generator = torch.Generator().manual_seed(5)

        def uniform(shape: tuple[int, ...]) -> Tensor:
            x = torch.rand(shape, generator=generator, dtype=F64) * 2 - 1
            return with_layout(x.to(dtype), layout)

        shape = self.forward(torch.empty(self.input), torch.empty(self.weight)).shape
        return {
            "x": uniform(self.input), "weight": uniform(self.weight),
            "grad": uniform(shape), "saved": uniform(shape),
        }  # fmt: skip

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        tail = (self.groups, self.dilation) if self.transposed else (self.dilation, self.groups)
        if self.transposed:
            return torch.nn.functional.conv_transpose2d(
                x, weight, None, self.stride, self.padding, self.output_padding, *tail
            )
        return torch.nn.functional.conv2d(x, weight, None, self.stride, self.padding, *tail)

    def run(self, t: dict[str, Tensor], precision: str) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        saved = t["saved"] if self.activation != "none" else None
        if self.transposed:
            _, weight, bias, _ = torch.ops.denoise_ext.conv_transpose2d_backward(
                t["grad"], t["x"], t["weight"], saved, None, self.stride, self.padding,
                self.output_padding, self.groups, self.dilation, self.activation, 0.25,
                [False, True, True, False], precision,
            )  # fmt: skip
        else:
            _, weight, bias, *_ = torch.ops.denoise_ext.conv2d_backward(
                t["grad"], t["x"], t["weight"], saved, None, *geometry, self.activation, 0.25,
                [False, True, True, False, False], precision,
            )  # fmt: skip
        return weight, bias

    def exact(self, x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        weight = weight.double().requires_grad_()
        wanted = torch.autograd.grad(self.forward(x.double(), weight), weight, grad.double())[0]
        return wanted, grad.double().sum((0, 2, 3))


# Odd sizes, channels that fill no vector, tile or warp; the first has two parts of pixels.
CALLS = {
    "first_gray": Gradient((2, 1, 11, 13), (40, 1, 3, 3), padding=(1, 1), activation="leaky_relu"),
    "first_rgb": Gradient((1, 3, 7, 9), (24, 3, 3, 3), padding=(1, 1)),
    "stem_7x7": Gradient((1, 3, 13, 17), (24, 3, 7, 7), stride=(2, 2), padding=(3, 3)),
    "head_9x9": Gradient((1, 3, 6, 7), (9, 3, 9, 9), padding=(4, 4)),
    "last_rgb": Gradient((1, 40, 5, 9), (3, 40, 3, 3), padding=(1, 1), activation="leaky_relu"),
    "last_gray_5x5": Gradient((2, 12, 5, 6), (1, 12, 5, 5), padding=(2, 2)),
    "last_16": Gradient((1, 16, 6, 9), (16, 16, 3, 3), padding=(1, 1)),
    "dense": Gradient((1, 40, 5, 9), (72, 40, 3, 3), padding=(1, 1), activation="leaky_relu"),
    "dense_1x1": Gradient((3, 136, 4, 5), (72, 136, 1, 1), activation="leaky_relu"),
    "odd_channels": Gradient((2, 13, 5, 7), (21, 13, 3, 3), padding=(1, 1)),
    "down_k2": Gradient((1, 24, 13, 15), (40, 24, 2, 2), stride=(2, 2)),
    "down_k3": Gradient((1, 8, 13, 15), (24, 8, 3, 3), stride=(2, 2), padding=(1, 1)),
    "down_k4_uneven": Gradient((1, 8, 12, 19), (8, 8, 4, 4), stride=(2, 3), padding=(1, 2)),
    "rectangle": Gradient((1, 16, 5, 11), (24, 16, 1, 7), padding=(0, 3), activation="leaky_relu"),
    "rectangle_tall": Gradient((2, 8, 7, 5), (8, 8, 5, 2), padding=(2, 0)),
    "uneven_padding": Gradient((1, 8, 7, 9), (8, 8, 3, 3), padding=(0, 2)),
    "dilated": Gradient((1, 8, 9, 11), (8, 8, 3, 3), padding=(2, 3), dilation=(2, 3)),
    "grouped": Gradient((1, 16, 5, 9), (32, 8, 3, 3), padding=(1, 1), groups=2),
    "grouped_few": Gradient((1, 9, 5, 7), (15, 3, 3, 3), padding=(1, 1), groups=3),
    "depthwise": Gradient((1, 40, 9, 11), (40, 1, 3, 3), padding=(1, 1), groups=40,
        activation="leaky_relu"),
    "depthwise_7x7": Gradient((1, 3, 9, 10), (3, 1, 7, 7), padding=(3, 3), groups=3),
    "depthwise_stride": Gradient((2, 33, 9, 7), (33, 1, 3, 3), (2, 2), (1, 1), groups=33),
    "depthwise_multiplied": Gradient((1, 4, 9, 11), (8, 1, 5, 3), padding=(2, 0), groups=4),
    "up_k2": Gradient((1, 24, 5, 9), (24, 16, 2, 2), stride=(2, 2), transposed=True),
    "up_k4": Gradient((1, 16, 5, 7), (16, 8, 4, 4), stride=(2, 2), padding=(1, 0), transposed=True),
    "up_k5": Gradient((1, 8, 5, 6), (8, 3, 5, 5), stride=(2, 2), padding=(2, 2),
        output_padding=(1, 1), transposed=True),
    "up_grouped": Gradient((1, 16, 5, 7), (16, 4, 3, 3), stride=(2, 1), padding=(1, 1),
        groups=2, transposed=True, activation="leaky_relu"),
    "one_pixel": Gradient((3, 16, 1, 1), (24, 16, 1, 1)),
    "one_column": Gradient((2, 8, 50, 1), (8, 8, 3, 3), padding=(1, 1)),
    "kernel_13": Gradient((1, 2, 6, 7), (3, 2, 13, 13), padding=(6, 5)),
}  # fmt: skip


def kernels_of(call: Gradient, dtype: torch.dtype, precision: str, capability: int) -> set[str]:
    """The kernels of any geometry that must be able to take the call."""
    kernels = set() if dtype == F16 else {"tiled"}
    # A block for every pair of channels and 9 taps takes the emulator long.
    if call.weight[0] * call.weight[1] <= 600:
        kernels.add("taps")
    if dtype == F16 or (capability >= 80 and (dtype == BF16 or precision == "fast")):
        kernels |= {"gemm"} if dtype != F64 else set()
    return kernels


def check(
    call: Gradient, t: dict[str, Tensor], precision: str, kernel: str, **machine: int
) -> tuple[Tensor, Tensor]:
    """Runs the call with the kernel and compares; gives what it computed."""
    with cuda_emulator.emulated_cuda(variant=kernel, **machine) as emulator:
        weight, bias = call.run(t, precision)
        assert kernel in emulator.variants()
    dtype, grad = t["x"].dtype, t["grad"]
    if call.activation != "none":
        grad = torch.where(t["saved"] > 0, grad, grad * 0.25)
    expected = call.exact(t["x"], t["weight"], grad)
    sizes = call.exact(t["x"].abs(), t["weight"], grad.abs())
    length = {True: t["x"], False: grad}[call.transposed]
    eps = bounds.accumulator_eps(dtype)
    relative = [(length.numel() // length.shape[1] + SLACK) * eps] * 2
    if kernel.endswith("gemm") and dtype == F32:
        relative[0] += TF32_PRODUCT_ERROR
    for ours, exact, size, error in zip((weight, bias), expected, sizes, relative, strict=True):
        allowed = error * size + bounds.output_rounding(exact, dtype)
        difference = (ours.double() - exact).abs()
        assert (difference <= allowed).all(), f"{float((difference / allowed).max()):.3g}"
    return weight, bias


@pytest.mark.rotates(each=["call"], turns=8)
@pytest.mark.parametrize("dtype, precision, layout", [
    (F32, "default", "contiguous"), (F32, "default", "channels_last"), (F32, "default", "strided"),
    (F32, "fast", "contiguous"), (F32, "fast", "channels_last"), (F16, "default", "contiguous"),
    (F16, "default", "channels_last"), (BF16, "default", "channels_last"),
    (BF16, "default", "strided"), (F64, "default", "contiguous"), (F64, "default", "channels_last"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_kernel_of_any_geometry(call, dtype, precision, layout):
    t = call.tensors(dtype, layout)
    for kernel in sorted(kernels_of(call, dtype, precision, 90)):
        if precision == "fast" and kernel != "gemm":
            continue  # as with "default"
        check(call, t, precision, f"conv_weight_grad_{kernel}")


@pytest.mark.parametrize("capability", (75, 80, 86, 120))
@pytest.mark.parametrize("dtype", (F16, BF16), ids=str)
@pytest.mark.parametrize("name", ("odd_channels", "last_rgb", "down_k3"))
def test_other_architectures(name, dtype, capability):
    call = CALLS[name]
    t = call.tensors(dtype, "channels_last")
    for kernel in sorted(kernels_of(call, dtype, "default", capability)):
        check(call, t, "default", f"conv_weight_grad_{kernel}", compute_capability=capability)


@pytest.mark.parametrize("kernel, dtype, precision", [
    ("gemm", F16, "default"), ("gemm", F32, "fast"), ("tiled", F32, "default"),
    ("taps", F32, "default"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ("first_gray", "last_rgb", "down_k3", "up_k4"))
def test_same_bits_in_every_order(name, kernel, dtype, precision):
    call = CALLS[name]
    t = call.tensors(dtype, "channels_last")
    for processors in (2, 3):
        results = [
            check(call, t, precision, f"conv_weight_grad_{kernel}", seed=seed,
                  multiprocessors=processors)
            for seed in cuda_emulator.SEEDS.values()
        ]  # fmt: skip
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_strict_float32_is_never_rounded():
    call = CALLS["down_k3"]
    t = call.tensors(F32, "channels_last")
    with cuda_emulator.emulated_cuda(variant="conv_weight_grad_gemm") as emulator:
        call.run(t, "strict")
        assert "conv_weight_grad_gemm" not in emulator.variants()
    strict = check(call, t, "strict", "conv_weight_grad_tiled")[0]
    assert torch.equal(strict, check(call, t, "default", "conv_weight_grad_tiled")[0])
    assert not torch.equal(strict, check(call, t, "fast", "conv_weight_grad_gemm")[0])


@pytest.mark.parametrize("dtype", (F16, F32), ids=str)
def test_an_infinite_channel_reaches_its_own_weights_alone(dtype):
    """Rows and columns that fill up a tile are zeros, and times zero an infinity would be NaN."""
    call = Gradient((1, 5, 7, 9), (6, 5, 3, 3), padding=(1, 1))
    t = call.tensors(dtype, "contiguous")
    t["grad"][:, 2] = torch.inf
    others = [0, 1, 3, 4, 5]
    for kernel in sorted(kernels_of(call, dtype, "fast", 90)):
        with cuda_emulator.emulated_cuda(variant=f"conv_weight_grad_{kernel}") as emulator:
            weight, bias = call.run(t, "fast")
            assert f"conv_weight_grad_{kernel}" in emulator.variants()
        assert weight[others].isfinite().all() and bias[others].isfinite().all(), kernel
        assert not weight[2].isfinite().any() and bias[2] == torch.inf, kernel


@pytest.mark.skipif(not native().build_info()["cuda"], reason="the build has no CUDA kernels")
@pytest.mark.parametrize("architecture", ("sm_75", "sm_80", "sm_90"))
@pytest.mark.parametrize("dtype", (F32, F16, BF16), ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_one_of_them_is_chosen(name, dtype, architecture):
    """And is taken for what it was written for: groups of few channels by the one of taps."""
    call = CALLS[name]
    t = call.tensors(dtype, "channels_last")
    op = ops.conv_transpose2d if call.transposed else ops.conv2d
    options = {"output_padding": call.output_padding} if call.transposed else {}
    text = ops.explain(
        op, t["x"], t["weight"].requires_grad_(), None, call.stride, call.padding,
        device=architecture, backward=True, dilation=call.dilation, groups=call.groups, **options,
    )  # fmt: skip
    chosen = text.split("weight gradient:\n")[1].split(":")[0].removeprefix("conv_weight_grad_")
    assert chosen in ("mma", "gemm", "tiled", "taps")
    if name.startswith("depthwise"):
        assert chosen == "taps"
