"""Weights packed once for a CUDA kernel: ``conv2d_pack``, and ``conv2d_out`` with what it makes."""

from __future__ import annotations

import cuda_emulator
import pytest
import torch
from torch import Tensor

from denoise_ext import reference

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
OPS = torch.ops.denoise_ext
# Kernel, dtype, precision, compute capability.
KERNELS = [
    ("conv_rowring", torch.float16, "default", 75),
    ("conv_rowring", torch.bfloat16, "default", 90),
    ("conv_rowring", torch.float32, "default", 90),
    ("conv_rowring", torch.float32, "fast", 80),
    ("conv_gemm_mma", torch.float16, "default", 90),
    ("conv_gemm_mma", torch.bfloat16, "default", 120),
    ("conv_gemm_mma", torch.float32, "fast", 86),
    ("conv_tiled", torch.float32, "strict", 90),
    ("conv_tiled", torch.float16, "default", 75),
]
# Weight, stride, padding, dilation, groups.  More than one block of channels, chunks that are not
# full; conv_tiled has a narrow tile for few outputs.
SHAPES = {
    "3x3": ((72, 40, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "5x5": ((24, 20, 5, 5), (1, 1), (2, 1), (1, 1), 1),
    "1x1": ((80, 72, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "stride": ((70, 20, 3, 2), (2, 1), (1, 0), (1, 1), 1),
    "groups": ((36, 9, 3, 3), (2, 2), (2, 2), (2, 2), 2),
}
each_kernel = pytest.mark.parametrize(
    "kernel, dtype, precision, capability",
    KERNELS,
    ids=lambda value: str(value).removeprefix("torch."),
)


def image(*shape: int, dtype: torch.dtype, channels_last: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(shape, generator=generator, dtype=torch.float64).sub(0.5).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def convolve(
    x: Tensor, weight: Tensor, packed: Tensor | None, geometry: tuple, precision: str
) -> Tensor:
    stride, padding, dilation, groups = geometry
    like = reference.conv2d(
        x.double(), weight.double(), None, stride, padding, dilation=dilation, groups=groups
    )
    out = torch.full_like(like, torch.nan, dtype=x.dtype)
    OPS.conv2d_out(
        x, weight, packed, None, stride, padding, dilation, groups, "constant", "relu", 0.0, None,
        None, "before", "auto", out, precision,
    )  # fmt: skip
    return out


def takes(kernel: str, name: str) -> bool:
    return kernel != "conv_rowring" or name in ("1x1", "3x3", "5x5")


@pytest.mark.rotates(each=["kernel", "dtype", "precision", "capability"])
@each_kernel
@pytest.mark.parametrize("name", SHAPES)
def test_the_same_bits_as_of_a_weight_packed_in_the_call(
    name, kernel, dtype, precision, capability
):
    if not takes(kernel, name):
        pytest.skip(f"{kernel} does not take it")
    shape, *geometry = SHAPES[name]
    weight = image(*shape, dtype=dtype)
    # Only what is packed may be read: this one has the sizes alone.
    sizes_alone = torch.full_like(weight, torch.nan)
    options = {"compute_capability": capability, "multiprocessors": 3, "variant": kernel}
    for seed, (height, width, channels_last) in enumerate(((9, 21, True), (6, 35, False))):
        x = image(
            2, shape[1] * geometry[3], height, width, dtype=dtype, channels_last=channels_last
        )
        with cuda_emulator.emulated_cuda(seed, **options) as machine:
            packed = OPS.conv2d_pack(weight, kernel, geometry[3], precision)
            expected = convolve(x, weight, None, geometry, precision)
            assert kernel in machine.variants()
            # The packed weight names its kernel, whatever the estimates say.
            machine.configure(seed, compute_capability=capability, multiprocessors=3)
            got = convolve(x, sizes_alone, packed, geometry, precision)
        assert torch.equal(got, expected) and expected.count_nonzero() > expected.numel() // 4


@each_kernel
@pytest.mark.parametrize("name", SHAPES)
def test_sizes_and_types_are_known_without_data(name, kernel, dtype, precision, capability):
    if not takes(kernel, name):
        pytest.skip(f"{kernel} does not take it")
    shape, *_, groups = SHAPES[name]
    weight = image(*shape, dtype=dtype)
    with cuda_emulator.emulated_cuda(compute_capability=capability):
        packed = OPS.conv2d_pack(weight, kernel, groups, precision)
    fake = OPS.conv2d_pack(weight.to("meta"), kernel, groups, precision)
    assert (packed.shape, packed.dtype) == (fake.shape, fake.dtype)
    if precision == "fast":
        assert packed.dtype == torch.int32, "rounded to tf32"


def test_no_two_kernels_share_a_layout():
    weight = image(64, 64, 3, 3, dtype=torch.float32)
    with cuda_emulator.emulated_cuda():
        packed = [
            OPS.conv2d_pack(weight, kernel, 1, precision)
            for kernel, precision in (
                ("conv_rowring", "default"), ("conv_rowring", "fast"),
                ("conv_gemm_mma", "fast"), ("conv_tiled", "default"),
            )
        ]  # fmt: skip
    assert len({(x.shape, x.dtype) for x in packed}) == len(packed)
    assert all(x.numel() * x.element_size() == packed[0].numel() * 4 for x in packed)


def test_what_does_not_fit_is_refused():
    weight = image(64, 64, 3, 3, dtype=torch.float32)
    x, geometry = image(1, 64, 6, 7, dtype=torch.float32), ((1, 1), (1, 1), (1, 1), 1)

    def refused(packed: Tensor, geometry: tuple = geometry, precision: str = "default") -> None:
        with pytest.raises(RuntimeError, match="packed_weight"):
            convolve(x, weight, packed, geometry, precision)

    with cuda_emulator.emulated_cuda():
        exact = OPS.conv2d_pack(weight, "conv_rowring")
        rounded = OPS.conv2d_pack(weight, "conv_rowring", 1, "fast")
        convolve(x, weight, exact, geometry, "default")
        convolve(x, weight, rounded, geometry, "fast")
        refused(rounded)
        refused(exact, precision="fast")
        refused(exact, precision="strict")
        refused(exact, ((2, 2), (1, 1), (1, 1), 1))  # conv_rowring has no strides
        refused(exact.flatten())
        refused(exact[:, :1])
        refused(exact.transpose(4, 5))
        refused(exact.double())
        refused(torch.empty(0))
        refused(OPS.conv2d_pack(weight[:, :32], "conv_rowring"))
        refused(OPS.conv2d_pack(weight[:, :, :1, :1], "conv_rowring"))
        behind = torch.empty(exact.numel() + 1)[1:].view(exact.shape)
        with pytest.raises(RuntimeError, match=r"packed_weight.*16"):
            convolve(x, weight, behind, geometry, "default")


def test_what_cannot_be_packed_is_refused():
    weight = image(8, 8, 3, 3, dtype=torch.float32)

    def refused(text: str, *arguments: object) -> None:
        with pytest.raises(RuntimeError, match=text):
            OPS.conv2d_pack(*arguments)

    with cuda_emulator.emulated_cuda():
        refused("'conv_first'", weight, "conv_first")
        refused("'direct'", weight, "direct")
        refused("5x5 kernels only", weight[:, :, :2], "conv_rowring")
        refused("float64", weight.double(), "conv_tiled")
        refused("precision", weight, "conv_gemm_mma", 1, "strict")
        refused("precision", weight, "conv_tiled", 1, "exact")
        refused("groups", weight, "conv_tiled", 3)
        refused("groups", weight, "conv_tiled", 0)
    refused("groups", weight, "direct", 2)  # on the CPU
