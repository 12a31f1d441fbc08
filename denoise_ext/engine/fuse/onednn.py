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
        return None, None, None, None, None
    own = torch.ops.mkldnn
    try:
        linear, convolution = own._linear_pointwise, own._convolution_pointwise.default
        packing = own._reorder_linear_weight.default, own._reorder_convolution_weight.default
    except AttributeError:
        return None, None, None, None, None
    return packing[0], linear.default, linear.binary, packing[1], convolution


# Linear layers: packing, with an activation, with a sum; convolutions: packing, with an activation.
PACK_LINEAR, LINEAR, LINEAR_PLUS, PACK_CONVOLUTION, CONVOLUTION = _operators()
