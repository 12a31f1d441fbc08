"""ops.explain: the kernel a call would take, without computing anything."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from denoise_ext import ops
from denoise_ext._loader import native
from denoise_ext.ops import _explain

WITH_CUDA = bool(native().build_info()["cuda"])


def test_cpu_names_kernel_and_instruction_set():
    x, w = torch.empty(1, 8, 16, 16), torch.empty(4, 8, 3, 3)
    text = ops.explain(ops.conv2d, x, w, padding=1)
    assert text.splitlines()[0] == f"conv_direct: chosen (CPU, {native().isa_in_use()})"
    depthwise = ops.explain(ops.conv2d, x, torch.empty(8, 1, 3, 3), groups=8)
    assert depthwise.startswith("conv_depthwise: chosen")


@pytest.mark.skipif(not WITH_CUDA, reason="the build has no CUDA kernels")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_120"])
def test_cuda_accounts_for_every_kernel(architecture):
    x, w = torch.empty(1, 8, 16, 16), torch.empty(8, 8, 5, 4)
    lines = ops.explain(ops.conv2d, x, w, stride=3, device=architecture).splitlines()
    names = [line.split(":")[0] for line in lines]
    assert names[0] == "conv_direct"  # stride 3 and a 5 x 4 kernel leave no other
    assert len(set(names)) == len(names)
    assert re.fullmatch(r"\w+: chosen, estimated at [\d.]+ us", lines[0])
    assert all(line.split(": ", 1)[1] for line in lines)


@pytest.mark.skipif(WITH_CUDA, reason="the build has CUDA kernels")
def test_a_build_without_cuda_says_so():
    x, w = torch.empty(1, 8, 16, 16), torch.empty(8, 8, 3, 3)
    assert "no CUDA kernels" in ops.explain(ops.conv2d, x, w, device="sm_90")


def test_transposed():
    x, w = torch.empty(1, 8, 16, 16), torch.empty(8, 4, 2, 2)
    assert ops.explain(ops.conv_transpose2d, x, w, stride=2).startswith("conv_direct: chosen")


def steps(text: str) -> dict[str, str]:
    """Step of a backward -> what runs, and the reasons of the rest."""
    found, step = {}, ""
    for line in text.splitlines():
        if line.endswith(":"):
            step = line[:-1]
        found[step] = f"{found[step]}\n{line}" if step in found and line != f"{step}:" else ""
    return {name: text.strip() for name, text in found.items()}


def test_steps_of_a_backward_on_cpu():
    x, w = torch.empty(1, 8, 16, 16), torch.empty(4, 8, 3, 3)
    text = steps(ops.explain(ops.conv2d, x, w, padding=1, activation="relu", backward=True))
    assert list(text) == ["activation gradient", "input gradient", "weight gradient"]
    assert text["activation gradient"].startswith("activation_grad: chosen")
    assert text["weight gradient"].startswith("conv_weight_grad: chosen (CPU")
    assert "conv_weight_grad_winograd4: a group has fewer than 16" in text["weight gradient"]
    x, w = torch.empty(1, 64, 32, 32), torch.empty(64, 64, 3, 3)
    text = steps(ops.explain(ops.conv2d, x, w, padding=1, backward=True))
    assert text["input gradient"].startswith("conv_winograd4: chosen (CPU")
    assert text["weight gradient"].startswith("conv_weight_grad_winograd4: chosen (CPU")


@pytest.mark.skipif(not WITH_CUDA, reason="the build has no CUDA kernels")
def test_steps_of_a_backward_on_cuda():
    def explained(dtype=torch.float16, device="sm_90", **options):
        x = torch.empty(1, 64, 270, 480, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.empty(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        return steps(
            ops.explain(ops.conv2d, x, w, padding=1, device=device, backward=True, **options)
        )

    fused = explained(activation="relu")
    assert "through the activation's mask" in fused["activation gradient"]
    assert fused["input gradient"].startswith("conv_rowring: chosen")
    assert fused["weight gradient"].startswith("conv_weight_grad_mma: chosen")
    # No mask: another activation, or kernels that read an element more than once.
    assert explained(activation="tanh")["activation gradient"].startswith("activation_grad: chosen")
    exact = explained(torch.float32, activation="relu", precision="strict")
    assert exact["activation gradient"].startswith("activation_grad: chosen")
    assert "precision='strict' excludes" in exact["input gradient"]
    tf32 = explained(torch.float32, activation="relu", precision="fast")
    assert tf32["input gradient"].startswith("conv_rowring: chosen")
    assert "through the activation's mask" in tf32["activation gradient"]
    turing = explained(torch.float32, "sm_75", activation="relu", precision="fast")
    assert turing["input gradient"].startswith("conv_tiled: chosen")
    assert explained()["activation gradient"] == "none: there is no activation"


@pytest.mark.skipif(not WITH_CUDA, reason="the build has no CUDA kernels")
def test_backward_of_what_requires_a_gradient():
    x = torch.empty(1, 3, 64, 64, dtype=torch.float16)
    w = torch.empty(64, 3, 3, 3, dtype=torch.float16, requires_grad=True)
    text = steps(ops.explain(ops.conv2d, x, w, device="sm_80", activation="relu", backward=True))
    assert "input gradient" not in text
    # Nothing but the weight's gradient reads grad_output, and all its kernels know the mask.
    assert "through the activation's mask" in text["activation gradient"]
    transposed = steps(
        ops.explain(ops.conv_transpose2d, x, w[:3], device="sm_80", stride=2, backward=True)
    )
    assert "weight gradient" in transposed


def test_filters_on_cpu():
    x = torch.empty(1, 3, 16, 16)
    assert ops.explain(ops.gaussian_blur2d, x, 5, 1.0).startswith("gaussian_ring: chosen")
    for text in (
        ops.explain(ops.bilateral_blur, x, 5, 0.1, 1.0),
        ops.explain(ops.joint_bilateral_blur, x, x[:, :1], 5, 0.1, 1.0),
    ):
        assert text.startswith("bilateral_tile: chosen (CPU")


@pytest.mark.skipif(not WITH_CUDA, reason="the build has no CUDA kernels")
def test_filters_on_cuda():
    def chosen(*call):
        return ops.explain(*call, device="sm_90").split(":")[0]

    x = torch.empty(1, 3, 64, 64)
    assert chosen(ops.gaussian_blur2d, x, 5, 1.0) == "gaussian_ring"
    assert chosen(ops.gaussian_blur2d, x, (5, 20001), 1.0) == "gaussian_direct"
    assert chosen(ops.bilateral_blur, x, 5, 0.1, 1.0) == "bilateral_tile"
    assert chosen(ops.joint_bilateral_blur, x, x[:, :1], 5, 0.1, 1.0) == "bilateral_tile"
    assert chosen(ops.bilateral_blur, x.double(), 5, 0.1, 1.0) == "bilateral_direct"
    four = torch.empty(1, 4, 64, 64)
    assert chosen(ops.bilateral_blur, four, 5, 0.1, 1.0) == "bilateral_tile"
    another = torch.empty_like(four)
    assert chosen(ops.joint_bilateral_blur, four, another, 5, 0.1, 1.0) == "bilateral_direct"
    # An image that is its own guidance is read once, by the operator and so by its explanation.
    assert chosen(ops.joint_bilateral_blur, four, four, 5, 0.1, 1.0) == "bilateral_tile"


NATIVE = torch.ops.denoise_ext
BILATERAL = ([5, 5], torch.ones(1), torch.ones(1, 2), "reflect", "l1", "square", [True] * 4)


def test_gradients_of_filters_on_cpu():
    x = torch.empty(1, 3, 16, 16)
    gaussian = (NATIVE.gaussian_blur2d_backward, x, x, [5, 5], torch.ones(1, 2), "reflect")
    lines = ops.explain(*gaussian, [True, True]).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "grad_input", "gaussian_ring", "grad_sigma", "gaussian_sigma_ring",
    ]  # fmt: skip
    assert ops.explain(*gaussian, [False, True]).startswith("grad_sigma:\n")
    text = ops.explain(NATIVE.joint_bilateral_blur_backward, x, x, x, x, *BILATERAL)
    assert text.startswith("bilateral_grad_tile: chosen (CPU")


@pytest.mark.skipif(not WITH_CUDA, reason="the build has no CUDA kernels")
def test_gradients_of_filters_on_cuda():
    def lines(x, guide):
        call = (NATIVE.joint_bilateral_blur_backward, x, x, guide, x, *BILATERAL)
        return ops.explain(*call, device="sm_90").splitlines()

    x = torch.empty(1, 3, 64, 64)
    for guide in (x, x[:, :1]):
        assert lines(x, guide)[0].startswith("bilateral_grad_tile: chosen")
    chosen, other = lines(x.double(), x.double())
    assert chosen.startswith("bilateral_grad_direct: chosen")
    assert other == "bilateral_grad_tile: float64 is not compiled into it"
    five = torch.empty(1, 5, 64, 64)
    assert lines(x, five)[1].startswith(
        "bilateral_grad_tile: it is compiled for at most 3 channels"
    )
    text = ops.explain(
        NATIVE.gaussian_blur2d_backward, x, x, [5, 20001], torch.ones(1, 2), "reflect",
        [True, True], device="sm_90",
    )  # fmt: skip
    grad_input, grad_sigma = text.removeprefix("grad_input:\n").split("\ngrad_sigma:\n")
    first, second = grad_input.splitlines()
    assert first.startswith("gaussian_direct: chosen")
    assert second.startswith("gaussian_ring: the rows of so large")
    first, second = grad_sigma.splitlines()
    assert first.startswith("gaussian_sigma_grad_direct: chosen")
    assert second.startswith("gaussian_sigma_grad_ring: ")


def test_dense_rows_of_the_gaussian_on_cpu():
    x = torch.empty(1, 3, 16, 64)  # rows of at least 64 elements are filtered another way
    assert ops.explain(ops.gaussian_blur2d, x, 5, 1.0).startswith("gaussian_dense: chosen (CPU")
    assert ops.explain(ops.gaussian_blur2d, x.double(), 5, 1.0).startswith("gaussian_ring: chosen")


PLACES = ["cpu", pytest.param("sm_90", marks=pytest.mark.skipif(not WITH_CUDA, reason="no CUDA"))]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_allocated_or_computed(place):
    x = torch.empty(1, 32, 10**5, 10**5, device="meta")  # 1.3 TB
    w = torch.empty(32, 32, 3, 3, device="meta")
    bias = torch.empty(32, device="meta")
    sigma = torch.ones(1, 2, requires_grad=True)
    for backward in (False, True):
        options = {"device": place, "backward": backward}
        for op, call, more in (
            (ops.conv2d, (x, w, bias), {"padding": 1, "activation": "relu"}),
            (ops.conv_transpose2d, (x, w, bias), {"stride": 2, "activation": "tanh"}),
            (ops.gaussian_blur2d, (x, 5, sigma), {}),
            (ops.bilateral_blur, (x[:, :3], 5, 0.1, sigma), {}),
            (ops.joint_bilateral_blur, (x[:, :3], x[:, 3:4], 5, 0.1, sigma), {}),
        ):
            text = ops.explain(op, *call, **more, **options)
            assert ": chosen" in text and "no kernel" not in text


def test_an_explanation_leaves_nothing_behind():
    x, w = torch.rand(1, 8, 16, 16), torch.rand(4, 8, 3, 3)
    expected = ops.conv2d(x, w)
    ops.explain(ops.conv2d, x, w)
    with pytest.raises(ZeroDivisionError):
        native().explain(lambda: 1 // 0, 0)
    assert torch.equal(ops.conv2d(x, w), expected)
    # While there is one, the kernel is not run.
    assert native().explain(lambda: ops.conv2d(x, w), 0).startswith("conv_direct: chosen (CPU")


def test_sums_of_a_bias_without_activation_have_a_kernel_on_cpu():
    x, w, bias = torch.empty(1, 8, 16, 16), torch.empty(4, 8, 3, 3), torch.empty(4)
    text = steps(ops.explain(ops.conv2d, x, w, bias, backward=True))["activation gradient"]
    assert text.splitlines() == [
        "none: there is no activation", "activation_grad: chosen, for the sums alone",
    ]  # fmt: skip


def test_bad_arguments():
    x, w = torch.empty(1, 8, 16, 16), torch.empty(4, 8, 3, 3)
    with pytest.raises(ValueError, match="device must be"):
        ops.explain(ops.conv2d, x, w, device="tpu")
    with pytest.raises(ValueError, match="must be an operator"):
        ops.explain(torch.nn.functional.relu, x)
    out = torch.empty(1, 4, 14, 14)
    with pytest.raises(ValueError, match="conv2d_out"):  # its packed weight would be looked at
        ops.explain(
            NATIVE.conv2d_out, x, w, None, None, [1, 1], [0, 0], [1, 1], 1, "constant", "none", 0.0,
            None, None, "before", "auto", out,
        )  # fmt: skip
    with pytest.raises(ValueError, match="input"):
        ops.explain(ops.conv2d, x, torch.empty(4, 7, 3, 3))


@pytest.mark.parametrize("place", ["cpu", "sm_90"] if WITH_CUDA else ["cpu"])
@pytest.mark.parametrize("op", [ops.gaussian_blur2d, ops.bilateral_blur, ops.conv2d])
def test_empty_input(op, place):
    x = torch.zeros(0, 3, 9, 10)
    arguments = {
        ops.gaussian_blur2d: (5, 1.5),
        ops.bilateral_blur: (5, 0.1, 1.5),
        ops.conv2d: (torch.zeros(4, 3, 3, 3),),
    }[op]
    for backward in (False, True):
        text = ops.explain(op, x, *arguments, device=place, backward=backward)
        assert text.startswith("no kernel") and "empty" in text


@pytest.mark.skipif(not WITH_CUDA, reason="the build has no CUDA kernels")
@pytest.mark.parametrize(
    "channels, filters, groups, kernel",
    [(3, 64, 1, "gemm"), (64, 3, 1, "gemm"), (64, 64, 64, "taps"), (64, 64, 1, "mma")],
)
def test_weight_gradient_of_pixels_far_apart(channels, filters, groups, kernel):
    """One channel of 64 at a time costs a sector of memory per pixel; a tile takes them all."""
    x = torch.empty(1, channels, 270, 480, dtype=torch.float16)
    w = torch.empty(filters, channels // groups, 3, 3, dtype=torch.float16, requires_grad=True)
    x = x.to(memory_format=torch.channels_last)
    options = {"padding": 1, "groups": groups, "backward": True, "device": "sm_90"}
    text = steps(ops.explain(ops.conv2d, x, w, **options))
    assert text["weight gradient"].startswith(f"conv_weight_grad_{kernel}: chosen")


@pytest.mark.parametrize("op", [ops.layer_norm2d, lambda x: ops.group_norm(x, 2)])
def test_normalisations(op, monkeypatch):
    x = torch.rand(1, 4, 5, 6)
    assert "chosen (CPU" in ops.explain(op, x)
    if WITH_CUDA:
        assert ": chosen, estimated" in ops.explain(op, x, device="sm_90")
        without = {**native().build_info(), "cuda": False}
        monkeypatch.setattr(_explain, "native", lambda: SimpleNamespace(build_info=lambda: without))
    assert "PyTorch's own" in ops.explain(op, x, device="sm_90")


@pytest.mark.skipif(not WITH_CUDA, reason="the build has no CUDA kernels")
def test_normalisations_on_a_gpu():
    """Layouts, and whether the groups are enough to fill the device."""
    x = torch.empty(1, 64, 256, 256, dtype=torch.float16)
    last = x.to(memory_format=torch.channels_last)

    def chosen(op, *arguments) -> str:
        return ops.explain(op, *arguments, device="sm_90").split(": chosen")[0]

    assert chosen(ops.layer_norm2d, x) == "layer_norm2d_columns"
    assert chosen(ops.layer_norm2d, last) == "layer_norm2d_channels"
    assert "side by side" in ops.explain(ops.layer_norm2d, x, device="sm_90")
    assert chosen(ops.group_norm, x, 1) == "group_norm_parts"
    assert chosen(ops.group_norm, last, 64) == "group_norm_parts"
    assert chosen(ops.group_norm, x.expand(16, -1, -1, -1)[..., :64, :64], 64) == "group_norm_block"
