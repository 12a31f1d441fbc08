"""Convolutions as products of matrices: conv_tiled in float, conv_gemm_mma on tensor cores.

They take any stride, dilation, number of groups, kernel and layout, forward and as input gradients.
A tile is 128 pixels x 64 channels (conv_tiled of up to 8 channels: 256 x 8), a chunk of the sum 16
or 32 terms.
"""

from __future__ import annotations

import bounds
import cuda_emulator
import pytest
import torch
from cases import CASES, Call, make_tensors, to_float64, with_layout
from emulated_calls import conv
from op_checks import check_forward, check_gradients

from denoise_ext import ops, reference
from denoise_ext._loader import native

emulated = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
with_cuda = pytest.mark.skipif(
    not native().build_info()["cuda"], reason="the build has no CUDA kernels"
)


def _prelu(call: Call, channels: int) -> Call:
    return call.with_options(activation="prelu").with_shapes(prelu_weight=(channels,))


CONV = {
    "k2s2": conv((2, 20, 11, 13), (72, 20, 2, 2), 72, stride=2, activation="relu"),
    "k3s2": _prelu(conv((1, 33, 13, 9), (70, 33, 3, 3), 70, stride=2, padding=1), 70),
    "k4s2": conv((1, 8, 12, 15), (24, 8, 4, 4), 24, stride=(2, 3), padding=(1, 2)),
    "rectangle": conv((2, 16, 9, 15), (40, 16, 3, 5), 40, padding=(0, 2), activation="tanh")
    .with_shapes(residual=(2, 40, 7, 15)),
    "row": conv((1, 12, 6, 19), (8, 12, 1, 7), 8, padding=(2, 1)),
    "column": conv((1, 12, 17, 6), (9, 12, 9, 1), 9, padding=(4, 3)),
    "7x7_of_three": conv((1, 3, 17, 19), (64, 3, 7, 7), 64, stride=2, padding=3),
    "11x11": conv((1, 5, 13, 14), (3, 5, 11, 11), 3, padding=(5, 3), activation="sigmoid"),
    "one_output": conv((2, 24, 19, 18), (1, 24, 3, 3), 1, padding=1),
    "eight_outputs": _prelu(conv((1, 16, 17, 19), (8, 16, 3, 3), 8, padding=(1, 0)), 8)
    .with_shapes(residual=(1, 8, 17, 17)).with_options(residual_position="after"),
    "three_blocks": _prelu(conv((1, 16, 5, 7), (150, 16, 1, 1), 150), 150)
    .with_shapes(residual=(1, 150, 5, 7)),
    "groups": _prelu(conv((2, 36, 7, 8), (39, 12, 3, 3), 39, padding=1, groups=3), 39),
    "wide_groups": conv((1, 32, 9, 8), (48, 16, 3, 3), 48, groups=2, stride=2, dilation=2),
    "dilation": conv((1, 16, 15, 14), (16, 16, 3, 2), 16, dilation=(2, 3), padding=(3, 1)),
    "far_padding": conv((1, 8, 3, 2), (8, 8, 3, 3), 8, padding=(5, 4), stride=2),
    "one_pixel": conv((3, 24, 1, 1), (24, 24, 3, 3), 24, padding=1),
    "deep": conv((1, 260, 3, 5), (16, 260, 3, 3), 16, padding=1),
}  # fmt: skip
TRANSPOSED = {
    "k2s2": _prelu(conv((2, 16, 7, 9), (16, 72, 2, 2), 72, stride=2), 72),
    "k3s2": conv((1, 20, 6, 7), (20, 24, 3, 3), 24, stride=2, padding=(1, 0),
                  output_padding=(1, 0)),
    "k5s2": conv((1, 8, 6, 8), (8, 10, 5, 5), 10, stride=2, padding=2, output_padding=1),
    "k4s2_to_3": conv((1, 16, 9, 8), (16, 3, 4, 4), 3, stride=2, padding=1),
    "stride_3_and_4": conv((1, 9, 5, 4), (9, 8, 2, 5), 8, stride=(3, 4), padding=(0, 1)),
    "dilation": conv((1, 8, 5, 6), (8, 9, 3, 3), 9, stride=(2, 4), dilation=(3, 2), padding=1,
                      activation="relu"),
    "common_factor": conv((1, 8, 5, 4), (8, 8, 3, 3), 8, stride=4, dilation=2, output_padding=3),
    "groups": conv((1, 16, 5, 6), (16, 9, 3, 3), 18, stride=2, groups=2, padding=1),
    "7x7": conv((1, 8, 9, 8), (8, 8, 7, 7), 8, padding=(3, 1)),
}  # fmt: skip
CALLS = [("conv2d", name) for name in CONV] + [("conv_transpose2d", name) for name in TRANSPOSED]
LAYOUTS = ("contiguous", "channels_last", "strided")
# Kernel, dtype and compute capability.
KERNELS = [
    ("conv_tiled", torch.float32, 90),
    ("conv_tiled", torch.float32, 75),
    ("conv_tiled", torch.bfloat16, 75),
    ("conv_tiled", torch.float16, 86),
    ("conv_gemm_mma", torch.float16, 75),
    ("conv_gemm_mma", torch.float16, 90),
    ("conv_gemm_mma", torch.bfloat16, 80),
]
each_kernel = pytest.mark.parametrize(
    "kernel, dtype, capability", KERNELS, ids=lambda value: str(value).removeprefix("torch.")
)


def _case_and_call(op: str, name: str):
    return CASES[op], (CONV if op == "conv2d" else TRANSPOSED)[name]


@emulated
@pytest.mark.rotates(each=["kernel", "dtype", "capability"], turns=8)
@each_kernel
@pytest.mark.parametrize("op, name", CALLS)
def test_forward(op, name, kernel, dtype, capability):
    case, call = _case_and_call(op, name)
    options = {"compute_capability": capability, "multiprocessors": 3, "variant": kernel}
    for seed, layout in enumerate(LAYOUTS):
        tensors = make_tensors(call, dtype, layout=layout)
        with cuda_emulator.emulated_cuda(seed, **options) as machine:
            check_forward(case, call, tensors, layout)
            assert kernel in machine.variants()


@emulated
@pytest.mark.rotates()
@pytest.mark.parametrize("op, name", CALLS)
def test_tf32(op, name):
    """Rounding of the factors comes on top of float32's error; no activation amplifies it."""
    case, call = _case_and_call(op, name)
    for layout in LAYOUTS[:2]:
        tensors = make_tensors(call, torch.float32, layout=layout)
        with cuda_emulator.emulated_cuda(compute_capability=80, variant="conv_gemm_mma") as machine:
            got = case.op(**tensors, **call.options, precision="fast")
            assert "conv_gemm_mma" in machine.variants()
        exact = to_float64(tensors)
        expected = case.reference(**exact, **call.options)
        linear = {
            k: v for k, v in call.options.items() if k not in ("activation", "residual_position")
        }
        products = case.reference(exact["input"].abs(), exact["weight"].abs(), **linear)
        limit = case.bound(call, exact, torch.float32) + bounds.TF32_PRODUCT_ERROR * products
        limit = limit + bounds.output_rounding(expected, torch.float32)
        assert ((got.double() - expected).abs() <= limit).all(), layout


@emulated
@pytest.mark.parametrize("kernel, dtype", [("conv_tiled", torch.float32),
                                           ("conv_gemm_mma", torch.float16)])  # fmt: skip
@pytest.mark.parametrize("op, name", [
    ("conv2d", "k3s2"), ("conv2d", "k4s2"), ("conv2d", "rectangle"), ("conv2d", "wide_groups"),
    ("conv2d", "11x11"), ("conv_transpose2d", "k3s2"), ("conv_transpose2d", "k4s2_to_3"),
    ("conv_transpose2d", "dilation"),
])  # fmt: skip
def test_input_gradients(op, name, kernel, dtype):
    """The gradient of a strided convolution is a transposed one, and the other way round."""
    case, call = _case_and_call(op, name)
    for layout in LAYOUTS[:2]:
        tensors = make_tensors(call, dtype, layout=layout)
        with cuda_emulator.emulated_cuda(variant=kernel) as machine:
            check_gradients(case, call, tensors)
            assert kernel in machine.variants()


@emulated
@each_kernel
def test_residual_in_another_layout(kernel, dtype, capability):
    call = CONV["three_blocks"]
    tensors = make_tensors(call, dtype, layout="channels_last")
    options = {"compute_capability": capability, "variant": kernel}
    for layout in ("contiguous", "strided"):
        tensors["residual"] = with_layout(tensors["residual"], layout)
        with cuda_emulator.emulated_cuda(**options):
            check_forward(CASES["conv2d"], call, tensors, layout)


@emulated
@each_kernel
def test_batches_by_their_strides(kernel, dtype, capability):
    """Every second image of a batch, backwards in memory; and one image seen as many."""
    call = CONV["k2s2"]
    for layout in LAYOUTS[:2]:
        tensors = make_tensors(call, dtype, layout=layout)
        many = torch.cat([tensors["input"]] * 2)
        options = {"compute_capability": capability, "variant": kernel}
        for images in (many[::2], many[:1].expand(3, -1, -1, -1)):
            with cuda_emulator.emulated_cuda(**options):
                check_forward(CASES["conv2d"], call, {**tensors, "input": images}, layout)


@emulated
@pytest.mark.parametrize("outputs", [3, 40])
@pytest.mark.parametrize("stride", [1, 2])
def test_float32_is_not_rounded(outputs, stride):
    """Integers of 12 bits, which tf32 has not: every sum of theirs is exact in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2049, 4096, (1, 20, 9, 11), generator=generator).float()
    w = torch.randint(-3, 4, (outputs, 20, 3, 3), generator=generator).float()
    with cuda_emulator.emulated_cuda(variant="conv_tiled"):
        got = ops.conv2d(x, w, padding=1, stride=stride, precision="strict")
    assert torch.equal(
        got, reference.conv2d(x.double(), w.double(), padding=1, stride=stride).float()
    )


@emulated
@pytest.mark.rotates(each=["kernel", "dtype", "capability"])
@each_kernel
@pytest.mark.parametrize("name", ["k3s2", "rectangle", "eight_outputs", "groups"])
def test_same_bits_in_every_order(name, kernel, dtype, capability):
    call, expected = CONV[name], None
    tensors = make_tensors(call, dtype, layout="channels_last")
    for order, seed in cuda_emulator.SEEDS.items():
        options = {"compute_capability": capability, "variant": kernel, "multiprocessors": 5}
        with cuda_emulator.emulated_cuda(seed, preempt=7, **options):
            got = ops.conv2d(**tensors, **call.options)
        expected = got if expected is None else expected
        assert torch.equal(got, expected), order


def _kernel(architecture: str, dtype: torch.dtype, weight: tuple[int, ...], **options) -> str:
    x, w = torch.empty(1, weight[1], 135, 181, dtype=dtype), torch.empty(weight, dtype=dtype)
    return ops.explain(ops.conv2d, x, w, device=architecture, **options).split(":")[0]


@with_cuda
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_89", "sm_90", "sm_120"])
def test_they_are_chosen(architecture):
    for weight, options in (
        ((64, 64, 2, 2), {"stride": 2}), ((64, 64, 3, 3), {"stride": 2, "padding": 1}),
        ((64, 64, 3, 5), {"padding": (1, 2)}), ((64, 64, 9, 9), {"padding": 4}),
    ):  # fmt: skip
        strict = _kernel(architecture, torch.float32, weight, precision="strict", **options)
        assert strict == "conv_tiled"
        assert _kernel(architecture, torch.float16, weight, **options) == "conv_gemm_mma"
    square = (64, 64, 3, 3)
    strict = _kernel(architecture, torch.float32, square, padding=1, precision="strict")
    assert strict == "conv_tiled"
    assert _kernel(architecture, torch.float16, square, padding=1) == "conv_rowring"


@with_cuda
def test_what_they_leave_alone():
    x, w = torch.empty(1, 16, 33, 35), torch.empty(16, 16, 12, 3)
    text = ops.explain(ops.conv2d, x, w, device="sm_90")
    assert text.startswith("conv_direct") and "at most 11 x 11" in text
    double = ops.explain(ops.conv2d, x.double(), w.double()[:, :, :3], device="sm_90")
    assert double.startswith("conv_direct") and "float64" in double
    up = torch.empty(16, 16, 3, 3)
    far = ops.explain(ops.conv_transpose2d, x, up, stride=17, device="sm_90")
    assert far.startswith("conv_direct") and "up to 16" in far
