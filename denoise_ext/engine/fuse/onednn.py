"""oneDNN's operators on packed weights: those that PyTorch's compiler calls."""

from __future__ import annotations

from typing import Any

import torch

# By oneDNN's names: PyTorch's name of the function, and of its form.
ACTIVATIONS = {
    "none": ("none", None),
    "relu": ("relu", None),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", None),
    "sigmoid": ("sigmoid", None),
    "tanh": ("tanh", None),
    "hardswish": ("hardswish", None),
    "hardsigmoid": ("hardsigmoid", None),
}


def _operators() -> tuple[Any, ...]:
    """None: this PyTorch has no oneDNN, or other operators of it."""
    if not torch.backends.mkldnn.is_available():
        return (None,) * 6
    own = torch.ops.mkldnn
    try:
        linear, convolution = own._linear_pointwise, own._convolution_pointwise
        packing = own._reorder_linear_weight.default, own._reorder_convolution_weight.default
    except AttributeError:
        return (None,) * 6
    pack_linear, pack_convolution = packing
    return (
        pack_linear, linear.default, linear.binary,
        pack_convolution, convolution.default, convolution.binary,
    )  # fmt: skip


# Of each kind: packing, with an activation, with a sum.
(
    PACK_LINEAR, LINEAR, LINEAR_PLUS, PACK_CONVOLUTION, CONVOLUTION, CONVOLUTION_PLUS,
) = _operators()  # fmt: skip
