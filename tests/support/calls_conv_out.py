"""The raw operator conv2d_out with defaults, its float64 reference and what errors it may have."""

from __future__ import annotations

import bounds
import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext import reference


def conv2d_out(
    input: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    packed=None,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    border="constant",
    activation="none",
    negative_slope=0.01,
    prelu_weight=None,
    residual=None,
    residual_position="before",
    algorithm="auto",
) -> Tensor:
    """The operator with defaults; every pair is one number."""
    torch.ops.denoise_ext.conv2d_out(
        input, weight, packed, bias, [stride] * 2, [padding] * 2, [dilation] * 2, groups, border,
        activation, negative_slope, prelu_weight, residual, residual_position, algorithm, out,
    )  # fmt: skip
    return out


def random(*shape: int, dtype=torch.float32, seed=0) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * x - 1).to(dtype)


def expected(input, weight, bias=None, padding=0, border="constant", **options) -> Tensor:
    """The float64 reference; borders other than zeros by torch's own padding, one pixel at a time.

    torch pads by less than the image; in steps of one pixel there is no limit for "replicate".
    """
    x = input.double()
    if border != "constant" and padding:
        x = F.pad(x, [padding] * 4, mode=border)
        padding = 0
    bias = None if bias is None else bias.double()
    for name in ("residual", "prelu_weight"):
        if options.get(name) is not None:
            options[name] = options[name].double()
    return reference.conv2d(x, weight.double(), bias, padding=padding, **options)


def assert_close(actual: Tensor, exact: Tensor, weight: Tensor) -> None:
    """Inputs are within [-1, 1]: every term of a sum is at most max|w|, and there are L of them."""
    dtype = actual.dtype
    terms = weight.shape[1:].numel() + 16
    sum_of_terms = float(weight.double().abs().flatten(1).sum(1).max()) + 2
    allowed = terms * bounds.accumulator_eps(dtype) * sum_of_terms
    error = (actual.double() - exact).abs() - bounds.output_rounding(exact, dtype)
    assert float(error.max()) <= allowed
