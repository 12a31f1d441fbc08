"""PyTorch's own samples of its convolutions: the same results, and the same refusals."""

from __future__ import annotations

import importlib.util
import sys
import types
import unittest

import pytest
import torch

from denoise_ext import ops

OURS = {"nn.functional.conv2d": ops.conv2d, "nn.functional.conv_transpose2d": ops.conv_transpose2d}


@pytest.fixture(scope="module")
def samples():
    """Samples by operator and dtype; the library takes seconds to import."""
    if importlib.util.find_spec("expecttest") is None:
        # PyTorch's test cases are derived from this package's. Samples need none of it.
        stand_in = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_methods_invocations import op_db

    # The import freezes torch.backends, whose settings other tests change.
    torch.backends.__allow_nonbracketed_mutation_flag = True
    infos = {info.name: info for info in op_db}
    return lambda name, dtype: (infos[name], list(infos[name].sample_inputs("cpu", dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OURS)
def test_samples(samples, name, dtype):
    info, cases = samples(name, dtype)
    assert len(cases) > 5
    for case in cases:
        exact = [x.double() if isinstance(x, torch.Tensor) else x for x in case.args]
        reference = info.op(case.input.double(), *exact, **case.kwargs)
        actual = OURS[name](case.input, *case.args, **case.kwargs)
        assert actual.shape == reference.shape and actual.dtype == dtype
        weight = case.args[0]
        terms = weight.numel() / min(weight.shape[:2])
        # One rounding to the dtype; a walk of float32 roundings, by Winograd times 19.4.
        eps = torch.finfo(dtype).eps
        sums = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        largest = float(case.input.abs().max() * weight.abs().max()) if weight.numel() else 0.0
        allowed = eps * float(reference.abs().max()) + 4 * 19.4 * sums * terms * largest
        assert float((actual.double() - reference).abs().max()) <= allowed
