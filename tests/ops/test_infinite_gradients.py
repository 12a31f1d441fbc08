"""Gradients that are not finite pass an activation as in PyTorch, in every dtype and layout.

ReLU selects: where the pixel is off, the gradient is 0, whatever arrives.  The other activations
multiply, and so does PyTorch: an infinity times 0 is NaN there.
"""

from __future__ import annotations

import pytest
import torch
from cases import FLOATS, LAYOUTS, with_layout
from op_checks import dtype_name
from torch import Tensor

SLOPE = 0.25
INF, NAN = torch.inf, torch.nan
GRADIENTS = (1.5, -0.75, 0.0, INF, -INF, NAN)
# What the forward pass saved: the output, for PReLU the input.
SAVED = {
    "relu": (0.0, 0.5, 2.0, INF, NAN),
    "leaky_relu": (-0.5, 0.0, 0.5, INF, -INF, NAN),
    "prelu": (-0.5, 0.0, 0.5, INF, -INF, NAN),
    "sigmoid": (0.0, 0.25, 1.0, NAN),
    "tanh": (-1.0, -0.5, 0.0, 1.0, NAN),
}
CALLS = [(name, SLOPE) for name in SAVED] + [("leaky_relu", 0.0), ("prelu", 0.0)]
CHANNELS = 9  # a vector of 16-bit elements, and one more


def pytorchs(activation: str, slope: float, grad: Tensor, saved: Tensor) -> Tensor:
    aten = torch.ops.aten
    if activation == "relu":
        return aten.threshold_backward(grad, saved, 0)
    if activation == "leaky_relu":
        return aten.leaky_relu_backward(grad, saved, slope, True)
    if activation == "prelu":
        return aten._prelu_kernel_backward(grad, saved, saved.new_full((1, 1, 1, 1), slope))[0]
    return getattr(aten, f"{activation}_backward")(grad, saved)


def every_pair(activation: str) -> tuple[Tensor, Tensor]:
    """(gradient, saved), each (2, 9, rows, 7): every value beside every other, in each channel."""
    pairs = torch.cartesian_prod(
        torch.tensor(GRADIENTS, dtype=torch.float64), torch.tensor(SAVED[activation]).double()
    )
    rows = -(-len(pairs) // 7)
    pairs = pairs.repeat(2, 1)[: rows * 7]
    images = [part.reshape(rows, 7).expand(2, CHANNELS, -1, -1) for part in pairs.T]
    return images[0], images[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=dtype_name)
@pytest.mark.parametrize("activation, slope", CALLS)
def test_as_in_pytorch(activation, slope, dtype, layout, device, isa):
    grad, saved = (with_layout(x.to(dtype), layout).to(device) for x in every_pair(activation))
    weight = torch.zeros(CHANNELS, CHANNELS, 1, 1).to(grad)
    prelu = torch.full((1,), slope).to(grad) if activation == "prelu" else None
    got = torch.ops.denoise_ext.conv2d_backward(
        grad, torch.zeros_like(grad), weight, saved, prelu, [1, 1], [0, 0], [1, 1], 1, activation,
        slope, [False, False, False, False, True],
    )[4].cpu().double()  # fmt: skip
    expected = pytorchs(activation, slope, grad.cpu().double(), saved.cpu().double())
    assert torch.equal(got.isnan(), expected.isnan())
    rounding = 8 * torch.finfo(dtype).eps * expected.abs().nan_to_num(0, 0, 0)
    near = (got == expected) | ((got - expected).abs() <= rounding)
    assert (near | expected.isnan()).all()


@pytest.mark.rotates(each=["transposed", "dtype", "device"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=dtype_name)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv2d", "conv_transpose2d"])
def test_relu_stops_an_infinity_before_all_gradients(transposed, dtype, layout, device, isa):
    """The gradients of input, weight and bias are those of a 0 in its place, to the last bit."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        x = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        return with_layout(x.to(dtype), layout).to(device)

    x, weight = uniform(2, 16, 7, 9), uniform(16, 16, 3, 3)
    saved, grad = uniform(2, 16, 7, 9).relu(), uniform(2, 16, 7, 9)

    def gradients(beside: float) -> tuple[Tensor, ...]:
        """Of the input, the weight and the bias, with that gradient wherever ReLU is off."""
        filled = with_layout(torch.where(saved > 0, grad, beside), layout)
        images = filled, x, weight, with_layout(saved, layout), None
        if transposed:
            return torch.ops.denoise_ext.conv_transpose2d_backward(
                *images, [1, 1], [1, 1], [0, 0], 1, [1, 1], "relu", 0.0, [True, True, True, False]
            )[:3]
        return torch.ops.denoise_ext.conv2d_backward(
            *images, [1, 1], [1, 1], [1, 1], 1, "relu", 0.0, [True, True, True, False, False]
        )[:3]

    expected = gradients(0.0)
    for value in (INF, -INF, NAN):
        for ours, theirs in zip(gradients(value), expected, strict=True):
            assert torch.equal(ours, theirs), value
