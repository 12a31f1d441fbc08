"""The normalisations' CUDA kernels, emulated, beyond the calls that every operator has."""

from __future__ import annotations

import cuda_emulator
import pytest
import torch
from calls import Call
from cases import CASES, make_tensors
from engine_tools import plan_of
from measured_gpu import machine as machine
from measured_gpu import planned_as_on_a_gpu as planned_as_on_a_gpu
from op_checks import check_forward
from torch import nn

from denoise_ext import ops
from denoise_ext._loader import native
from denoise_ext.engine.fuse import norm

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
OPS = torch.ops.denoise_ext
KERNELS = {
    "layer_norm2d": ("layer_norm2d_channels", "layer_norm2d_columns"),
    "group_norm": ("group_norm_block", "group_norm_parts"),
}
VARIANTS = [(name, kernel) for name, kernels in KERNELS.items() for kernel in kernels]


def _call(name: str, shape: tuple[int, ...], groups: int) -> Call:
    options = {"num_groups": groups} if name == "group_norm" else {}
    channels = (shape[1],)
    return Call({"input": shape, "weight": channels, "bias": channels}, options)


# More work than the blocks that a device of one multiprocessor gets: 32.
MANY = {
    "pixels": ((1, 8, 41, 211), 1),
    "odd_channels": ((1, 3, 41, 211), 3),
    "images": ((35, 8, 5, 8), 2),
    "groups": ((1, 40, 7, 8), 40),
    "held_vectors": ((1, 8, 3, 2000), 1),  # and fewer than the group has
    "held_values": ((1, 1, 71, 71), 1),
    "parts": ((2, 16, 1, 9001), 4),
    "held_channels": ((1, 2056, 1, 9), 2),
}


@pytest.mark.rotates(each=["name", "size"], turns=4)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", MANY)
@pytest.mark.parametrize("name, kernel", VARIANTS)
def test_more_than_fits_the_device(name, kernel, size, layout):
    shape, groups = MANY[size]
    call = _call(name, shape, groups)
    tensors = make_tensors(call, torch.float16, layout=layout)
    results = []
    for multiprocessors in (1, 3):
        with cuda_emulator.emulated_cuda(variant=kernel, multiprocessors=multiprocessors):
            results.append(check_forward(CASES[name], call, tensors))
    assert torch.equal(*results), "sums depend on the device's size"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name, kernel", VARIANTS)
def test_means_far_from_zero(name, kernel, layout, dtype):
    call = _call(name, (2, 16, 9, 24), 2)
    tensors = make_tensors(call, dtype, layout=layout)
    tensors["input"] = tensors["input"] * 64 + 1000
    with cuda_emulator.emulated_cuda(variant=kernel):
        check_forward(CASES[name], call, tensors)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", KERNELS["group_norm"])
def test_a_mean_costs_no_digits_of_float64(kernel, layout):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 6, 9, 70, dtype=torch.float64, generator=generator)
    # Multiples of 2^-20 below 2^20 are sums of float64 without rounding.
    exact = (noise * 2**20).round() / 2**20
    x = (exact + 1e6).contiguous(memory_format=layout)
    for groups in (1, 2, 6):
        values = exact.view(2, groups, -1)
        difference = values - values.mean(2, keepdim=True)
        expected = difference / (values.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        # x * scale and shift are each rounded, at 6 standard deviations from the mean or less.
        # Roundings of sums of n terms are a random walk, with 4 times its length for both sides.
        terms = 8 * (1e6 + 6) + 4 * 6 * values.shape[2] ** 0.5
        with cuda_emulator.emulated_cuda(variant=kernel):
            actual = ops.group_norm(x, groups)
        error = (actual - expected.view_as(x)).abs().max()
        assert float(error) <= torch.finfo(torch.float64).eps * terms


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("name, kernel", VARIANTS)
def test_into_given_memory(name, kernel, layout):
    """Another layout, and in place."""
    groups = [4] if name == "group_norm" else []
    rest = (None, None, 1e-5, "gelu", 0.0)
    write = getattr(OPS, f"{name}_out")
    x = make_tensors(_call(name, (2, 16, 9, 24), 4), torch.float16, layout=layout)["input"]
    with cuda_emulator.emulated_cuda(variant=kernel):
        expected = getattr(OPS, name)(x, *groups, *rest)
        for other in (torch.contiguous_format, torch.channels_last):
            out = torch.empty_like(x, memory_format=other)
            write(x, *groups, *rest, out)
            assert torch.equal(out, expected)
        write(x, *groups, *rest, x)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("name, kernel", VARIANTS)
def test_a_nan_stays_in_its_group(name, kernel):
    groups = [2] if name == "group_norm" else []
    x = make_tensors(_call(name, (2, 16, 5, 8), 2), torch.float32, layout="channels_last")["input"]
    x[1, 9, 2, 3] = torch.nan
    with cuda_emulator.emulated_cuda(variant=kernel):
        found = getattr(ops, name)(x, *groups).isnan()
    expected = torch.zeros_like(found)
    if groups:
        expected[1, 8:] = True
    else:
        expected[1, :, 2, 3] = True
    assert torch.equal(found, expected)


class Norms(nn.Module):
    """All that accelerate replaces, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.group, self.instance = nn.GroupNorm(4, 16), nn.InstanceNorm2d(16, affine=True)

    def forward(self, x):
        x = nn.functional.silu(self.group(self.first(x)))
        x = nn.functional.relu(self.instance(x))
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return self.last((x - mean) / (variance + 1e-6).sqrt())


@torch.no_grad()
def test_steps_of_a_plan(planned_as_on_a_gpu):
    torch.manual_seed(0)
    net, x = Norms().eval(), torch.rand(1, 3, 6, 10)
    made = plan_of(net, x, poison=False)
    y = made.run([x])
    functions = [step.function for step in made.schedule.steps]
    assert functions.count(OPS.group_norm_out.default) == 2
    assert functions.count(OPS.layer_norm2d_out.default) == 1
    assert torch.allclose(y.double(), Norms.forward(net.double(), x.double()), atol=1e-4)


@pytest.mark.skipif(not native().build_info()["cuda"], reason="the build has no CUDA kernels")
def test_accelerate_replaces_them_on_a_gpu():
    assert {"cpu", "cuda"} <= norm._DEVICES
