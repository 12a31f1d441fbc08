"""The CUDA kernels' results do not depend on the order in which threads and blocks run.

Every kernel is written to add in a fixed order, so results are the same bit for bit; the emulator
runs threads ascending, descending and at random (the seed is in the header of the test run).
"""

from __future__ import annotations

import zlib

import cuda_emulator
import pytest
import torch
from cases import Call, OpCase, make_tensors
from emulated_calls import CALLS, LAYOUTS
from torch import Tensor

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)


MULTIPROCESSORS = (2, 3, 5)


def results(case: OpCase, call: Call, dtype: torch.dtype) -> list[Tensor]:
    """The output and all gradients."""
    tensors = make_tensors(call, dtype, layout=LAYOUTS[dtype])
    leaves = [x.requires_grad_() for x in tensors.values() if x.is_floating_point()]
    output = case.op(**tensors, **call.options)
    if not case.backward:
        return [output]
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    gradients = torch.autograd.grad(output, leaves, weights.to(output.dtype))
    return [output, *gradients]


@pytest.mark.rotates(each=["case", "dtype"], turns=8)
@pytest.mark.parametrize("dtype", LAYOUTS, ids=str)
@pytest.mark.parametrize("case, call", CALLS)
def test_same_bits_in_every_order(case, call, dtype, request):
    if case.name not in cuda_emulator.emulator().operator_names():
        pytest.skip(f"{case.name} has no CUDA kernel")
    expected = None
    # At other numbers blocks begin and end elsewhere; the parts of a sum are others then.
    multiprocessors = MULTIPROCESSORS[zlib.crc32(request.node.nodeid.encode()) % 3]
    for order, seed in cuda_emulator.SEEDS.items():
        with cuda_emulator.emulated_cuda(seed, multiprocessors=multiprocessors):
            got = results(case, call, dtype)
        expected = expected or got
        for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
            assert torch.equal(ours, theirs), f"result {i}, {order} order, seed {seed}"
