"""Behind ReLU the CUDA kernels of a convolution's gradients read grad_output through its mask.

Asking for the gradient of the preactivation as well makes them write it out first: the two ways
must agree bit for bit, and the first must do without that tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import cuda_emulator
import pytest
import torch
from cases import with_layout
from torch import Tensor

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)
FUSED, COPIED = [True, True, True, False, False], [True, True, True, False, True]


@dataclass(frozen=True)
class Gradient:
    """A call of conv2d_backward."""

    input: tuple[int, int, int, int]
    filters: int
    kernel: int = 3
    dtype: torch.dtype = torch.float16
    layout: str = "channels_last"
    activation: str = "relu"
    precision: str = "default"

    def tensors(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)

        def uniform(*shape: int) -> Tensor:
            x = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
            return with_layout(x.to(self.dtype), self.layout)

        n, channels, rows, cols = self.input
        saved = uniform(n, self.filters, rows, cols)
        negative = saved * (0 if self.activation == "relu" else self.slope)
        return {
            "grad": uniform(n, self.filters, rows, cols),
            "input": uniform(*self.input),
            "weight": uniform(self.filters, channels, self.kernel, self.kernel),
            "saved": with_layout(torch.where(saved > 0, saved, negative), self.layout),
        }

    @property
    def slope(self) -> float:
        return 0.3 if self.activation == "leaky_relu" else 0.0

    def run(self, mask: list[bool]) -> tuple[Tensor, ...]:
        t, padding = self.tensors(), [self.kernel // 2] * 2
        return torch.ops.denoise_ext.conv2d_backward(
            t["grad"], t["input"], t["weight"], t["saved"], None, [1, 1], padding, [1, 1], 1,
            self.activation, self.slope, mask, self.precision,
        )  # fmt: skip


BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
# Several strips and groups of rows, channels that fill no chunk and no block, both tiles.
CALLS = {
    "relu": Gradient((1, 64, 13, 70), 72),
    "leaky_relu": Gradient((2, 24, 9, 35), 40, activation="leaky_relu"),
    "bfloat16": Gradient((1, 16, 9, 67), 24, dtype=BF16, activation="leaky_relu"),
    "any_channels": Gradient((2, 5, 9, 34), 13),
    "contiguous": Gradient((1, 16, 9, 35), 24, layout="contiguous"),
    "strided": Gradient((1, 16, 9, 35), 24, layout="strided", activation="leaky_relu"),
    "1x1": Gradient((2, 40, 9, 35), 64, kernel=1, activation="leaky_relu"),
    "5x5": Gradient((1, 40, 9, 35), 40, kernel=5),
    "1x1_image": Gradient((3, 8, 1, 1), 16),
    "tf32": Gradient((1, 40, 9, 35), 40, dtype=F32, precision="fast", activation="leaky_relu"),
    "tf32_contiguous": Gradient((1, 9, 9, 35), 7, dtype=F32, layout="contiguous", precision="fast"),
    "float32": Gradient((1, 5, 6, 7), 9, dtype=F32, activation="leaky_relu"),
    "float64": Gradient((1, 5, 6, 7), 9, dtype=F64, activation="leaky_relu"),
}


# The direct kernel is the same on every architecture.
@pytest.mark.rotates(each=["variant", "capability"], turns=16)
@pytest.mark.parametrize(
    "variant, capability",
    [("conv_rowring", 75), ("conv_rowring", 80), ("conv_rowring", 90), ("conv_direct", 80)],
)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_same_bits_as_through_a_masked_copy(variant, call, capability):
    with cuda_emulator.emulated_cuda(compute_capability=capability, variant=variant):
        fused, copied = call.run(FUSED), call.run(COPIED)
    masked = copied[4].double()
    assert torch.equal(fused[0], copied[0]), "gradient of the input"
    assert torch.equal(fused[1], copied[1]), "gradient of the weight"
    # The copy's sum is in float64. The other adds masked values, which are rounded like the copy.
    exact = masked.sum((0, 2, 3))
    info, count = torch.finfo(call.dtype), masked.numel() // call.filters
    eps = torch.finfo(F64 if call.dtype == F64 else F32).eps
    bound = count * eps * masked.abs().sum((0, 2, 3)) + info.eps * exact.abs()
    assert ((fused[2].double() - exact).abs() <= bound).all(), "gradient of the bias"


@pytest.mark.parametrize(
    "kernel, dtype",
    [
        ("conv_weight_grad_mma", torch.float16), ("conv_weight_grad_gemm", torch.float16),
        ("conv_weight_grad_taps", torch.float16), ("conv_weight_grad_tiled", F64),
    ],
)  # fmt: skip
def test_every_weight_gradient_takes_the_mask(kernel, dtype):
    call = Gradient((2, 16, 7, 69), 24, dtype=dtype, activation="leaky_relu")
    with cuda_emulator.emulated_cuda(compute_capability=80, variant=kernel):
        fused = call.run([False, True, True, False, False])
        copied = call.run([False, True, True, False, True])
    assert torch.equal(fused[1], copied[1])
    torch.testing.assert_close(fused[2], copied[2], rtol=2e-3, atol=1e-2)


@pytest.mark.rotates()
@pytest.mark.parametrize("call", [CALLS["relu"], CALLS["leaky_relu"], CALLS["tf32"]])
def test_same_bits_in_every_order(call):
    results = []
    for seed in cuda_emulator.SEEDS.values():
        with cuda_emulator.emulated_cuda(seed, compute_capability=80, variant="conv_rowring"):
            results.append(call.run(FUSED))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def allocated(call: Gradient, mask: list[bool]) -> int:
    """Bytes that a call asks for, the emulated device's workspaces included."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call.run(mask)
    return sum(max(0, event.self_cpu_memory_usage) for event in profile.events())


def test_no_masked_copy_is_made():
    call = CALLS["relu"]
    copy = call.tensors()["grad"].untyped_storage().nbytes()
    with cuda_emulator.emulated_cuda(compute_capability=80, variant="conv_rowring"):
        fused, copied = allocated(call, FUSED), allocated(call, COPIED)
    assert copied - fused >= copy
