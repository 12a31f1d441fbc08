"""Convolutions that the row ring computes in parts: groups, dilation, transposed strides.

And depthwise convolutions whose input gradient is a depthwise convolution again.
"""

from __future__ import annotations

import cuda_emulator
import pytest
import torch
from cases import CASES, make_tensors
from emulated_calls import conv
from op_checks import check_forward, check_gradients

from denoise_ext import ops
from denoise_ext._loader import native

emulated = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
with_cuda = pytest.mark.skipif(
    not native().build_info()["cuda"], reason="the build has no CUDA kernels"
)


CONV = {
    "dilation": conv((2, 16, 9, 21), (24, 16, 3, 3), 24, padding=2, dilation=2, activation="relu"),
    "uneven_dilation": conv((1, 9, 11, 23), (8, 9, 3, 3), 8, padding=(3, 1), dilation=(2, 3)),
    "dilation_beyond_the_image": conv((1, 8, 3, 5), (9, 8, 3, 3), 9, padding=7, dilation=7),
    "one_axis": conv((1, 8, 7, 19), (8, 8, 5, 5), 8, padding=(2, 4), dilation=(1, 2)),
    "groups": conv(
        (2, 24, 7, 18), (30, 8, 3, 3), 30, padding=1, groups=3, activation="prelu"
    ).with_shapes(prelu_weight=(30,), residual=(2, 30, 7, 18)),
    "one_slope": conv((1, 16, 5, 17), (20, 8, 1, 1), 20, groups=2, activation="prelu").with_shapes(
        prelu_weight=(1,)
    ),
    "groups_and_dilation": conv(
        (1, 16, 8, 19), (18, 8, 3, 3), 18, padding=2, groups=2, dilation=2, activation="relu"
    )
    .with_shapes(residual=(1, 18, 8, 19))
    .with_options(residual_position="after"),
}
TRANSPOSED = {
    "k2s2": conv((2, 16, 5, 17), (16, 24, 2, 2), 24, stride=2, activation="relu"),
    "few_outputs": conv((1, 16, 6, 9), (16, 3, 2, 2), 3, stride=2),
    "k6s2": conv((1, 9, 5, 18), (9, 8, 6, 6), 8, stride=2, padding=(2, 1), output_padding=(0, 1)),
    "k3s3": conv((1, 8, 4, 7), (8, 9, 3, 3), 9, stride=3, padding=1, activation="prelu")
    .with_shapes(prelu_weight=(9,)),
    "dilation": conv((1, 8, 7, 19), (8, 10, 3, 3), 10, padding=1, dilation=2),
    "groups": conv((1, 16, 5, 9), (16, 9, 2, 2), 18, stride=2, groups=2),
}  # fmt: skip
CALLS = [("conv2d", name) for name in CONV] + [("conv_transpose2d", name) for name in TRANSPOSED]
LAYOUTS = ("contiguous", "channels_last", "strided")
DEPTHWISE = {
    "3x3": conv((2, 24, 9, 19), (24, 1, 3, 3), 24, padding=1, groups=24, activation="relu"),
    "5x3": conv((1, 16, 9, 18), (16, 1, 5, 3), 16, padding=(1, 2), groups=16),
    "7x7": conv((1, 8, 11, 12), (8, 1, 7, 7), 8, padding=3, groups=8),
}


def _case_and_call(op: str, name: str):
    return CASES[op], (CONV if op == "conv2d" else TRANSPOSED)[name]


@pytest.mark.rotates(each=["op", "layout"])
@emulated
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op, name", CALLS)
def test_every_part_is_in_its_place(op, name, layout):
    case, call = _case_and_call(op, name)
    tensors = make_tensors(call, torch.float16, layout=layout)
    with cuda_emulator.emulated_cuda(variant="conv_parts") as machine:
        check_forward(case, call, tensors)
        assert "conv_parts" in machine.variants()


@pytest.mark.rotates(each=["op", "dtype"])
@emulated
@pytest.mark.parametrize("op, name", CALLS)
@pytest.mark.parametrize("dtype, capability", [(torch.float16, 75), (torch.bfloat16, 80)])
def test_other_architectures_and_bfloat16(op, name, dtype, capability):
    case, call = _case_and_call(op, name)
    tensors = make_tensors(call, dtype, layout="channels_last")
    options = {"compute_capability": capability, "multiprocessors": 3, "variant": "conv_parts"}
    with cuda_emulator.emulated_cuda(seed=1, **options) as machine:
        check_forward(case, call, tensors)
        assert "conv_parts" in machine.variants()


@emulated
@pytest.mark.parametrize("op, name", [("conv2d", "dilation"), ("conv2d", "groups"),
                                      ("conv_transpose2d", "k6s2")])  # fmt: skip
def test_gradients(op, name):
    """The input's gradients of dilated and grouped ones are such convolutions again."""
    case, call = _case_and_call(op, name)
    tensors = make_tensors(call, torch.float16, layout="channels_last")
    with cuda_emulator.emulated_cuda(variant="conv_parts") as machine:
        check_gradients(case, call, tensors)
        assert "conv_parts" in machine.variants()


@pytest.mark.rotates(each=["dtype", "layout"])
@emulated
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_gradients(name, dtype, layout):
    call = DEPTHWISE[name]
    kernel = "conv_depthwise_rows" if layout == "channels_last" else "conv_depthwise_planes"
    tensors = make_tensors(call, dtype, layout=layout)
    leaf = tensors["input"].clone().requires_grad_()
    with cuda_emulator.emulated_cuda(variant=kernel) as machine:
        check_gradients(CASES["conv2d"], call, tensors)
        output = ops.conv2d(leaf, tensors["weight"], **call.options | {"activation": "none"})
        machine.configure(variant=kernel)  # forgets what the forward pass could have taken
        torch.autograd.grad(output, leaf, output.detach())
        assert kernel in machine.variants()


def _input_gradient(architecture: str, x: torch.Tensor, w: torch.Tensor, **options) -> str:
    text = ops.explain(
        ops.conv2d, x.requires_grad_(), w, device=architecture, backward=True, **options
    )
    return text.split("input gradient:\n", 1)[1].split(":", 1)[0]


@with_cuda
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_they_are_chosen(architecture):
    x, w = (
        torch.empty(size, dtype=torch.float16, device="meta")
        for size in ((1, 64, 540, 961), (64, 64, 3, 3))
    )
    for dilation in (2, 3, 4):
        options = {"padding": dilation, "dilation": dilation}
        text = ops.explain(ops.conv2d, x, w, device=architecture, **options)
        assert text.startswith("conv_parts"), text
        assert _input_gradient(architecture, x, w, **options) == "conv_parts"
    depthwise = torch.empty(64, 1, 3, 3, dtype=torch.float16, device="meta")
    kernel = _input_gradient(architecture, x, depthwise, padding=1, groups=64)
    assert kernel == "conv_depthwise_planes"


@with_cuda
def test_what_it_leaves_alone():
    x = torch.empty(1, 64, 135, 181, dtype=torch.float16, device="meta")
    for weight, options, kernel in (
        ((64, 64, 3, 3), {"stride": 2}, "conv_gemm_mma"),  # strided, not transposed
        ((64, 4, 3, 3), {"groups": 16}, "conv_tiled"),  # 4 channels each
        ((64, 64, 3, 3), {"dilation": 9}, "conv_gemm_mma"),  # 81 launches
        ((64, 64, 2, 3), {"dilation": 2}, "conv_gemm_mma"),
    ):
        w = torch.empty(weight, dtype=torch.float16, device="meta")
        text = ops.explain(ops.conv2d, x, w, device="sm_90", **options)
        assert text.startswith(kernel), text
