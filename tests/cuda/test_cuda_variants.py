"""Every CUDA kernel that can take a call gives the right result, not only the one that is chosen.

The calls of the tables are small, and for small work the estimated costs always choose the same
kernels; here the emulator takes each of the others in turn.
"""

from __future__ import annotations

import cuda_emulator
import pytest
import torch
from cases import make_tensors
from emulated_calls import CALLS as SMALL_CALLS
from emulated_calls import LAYOUTS
from op_checks import check_forward, check_gradients

from denoise_ext import ops
from denoise_ext._loader import native

pytestmark = pytest.mark.skipif(
    cuda_emulator.missing() is not None, reason=str(cuda_emulator.missing())
)


CALLS = [
    pytest.param(*parameters.values, id=parameters.id)
    for parameters in SMALL_CALLS
    # The direct kernel adds up 121 x 121 products a pixel.
    if parameters.id != "gaussian_blur2d-sigma_20"
]
# conv_weight_grad_taps starts a block for each pair of channels.
GRADIENT_CALLS = [
    parameters
    for parameters in CALLS
    if parameters.values[0].backward
    and torch.Size(parameters.values[1].shapes.get("weight", ())).numel() <= 10_000
]


def check_every_variant(check, case, call, dtype, kind: str = "") -> None:
    """Runs the check with the chosen kernels, then with each other whose name has ``kind``."""
    if case.name not in cuda_emulator.emulator().operator_names():
        pytest.skip(f"{case.name} has no CUDA kernel")
    tensors = make_tensors(call, dtype, layout=LAYOUTS[dtype])
    with cuda_emulator.emulated_cuda() as machine:
        check(case, call, tensors)
        variants = machine.variants()
    assert variants or tensors["input"].numel() == 0, "no table of kernels was asked"
    for variant in variants:
        if kind in variant:
            with cuda_emulator.emulated_cuda(variant=variant):
                check(case, call, tensors, variant)


@pytest.mark.rotates(each=["case", "dtype"], turns=8)
@pytest.mark.parametrize("dtype", LAYOUTS, ids=str)
@pytest.mark.parametrize("case, call", CALLS)
def test_results(case, call, dtype):
    check_every_variant(check_forward, case, call, dtype)


@pytest.mark.rotates(each=["case", "dtype"], turns=8)
@pytest.mark.parametrize("dtype", LAYOUTS, ids=str)
@pytest.mark.parametrize("case, call", GRADIENT_CALLS)
def test_gradients(case, call, dtype):
    """The kernels of backward passes; those they share with forward ones are tested above."""
    check_every_variant(check_gradients, case, call, dtype, "grad")


@pytest.mark.skipif(not native().build_info()["cuda"], reason="the build has no CUDA kernels")
def test_the_calls_reach_every_kernel():
    known, reached = set(), set()
    with_kernels = cuda_emulator.emulator().operator_names()
    for case, call in (parameters.values for parameters in CALLS):
        for dtype, layout in LAYOUTS.items():
            if case.name not in with_kernels:
                continue
            tensors = make_tensors(call, dtype, layout=layout)
            if tensors["input"].numel() == 0:
                continue
            text = ops.explain(case.op, device="sm_90", **tensors, **call.options)
            if case.name == "block_warp":  # in the same table, for the gradient alone
                grad = torch.ones_like(tensors["input"])
                backward = torch.ops.denoise_ext.block_warp_backward.default
                text += "\n" + ops.explain(backward, grad, tensors["motion"], device="sm_90")
            lines = [line.split(": ", 1) for line in text.splitlines()]
            known.update(name for name, _ in lines)
            reached.update(name for name, said in lines if said.startswith(("chosen", "could run")))
    assert known - reached == set()
