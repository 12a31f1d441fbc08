"""oneDNN's operators on packed weights: those that PyTorch's compiler calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.fuse.activations import IN_PLACE

# By oneDNN's names: PyTorch's name of the function, and of its form.
_FUSED = {
    "none": ("none", None),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", None),
    "sigmoid": ("sigmoid", None),
    "tanh": ("tanh", None),
    "hardswish": ("hardswish", None),
}
# The others follow in place: oneDNN's own ReLU and hard sigmoid make NaN a number.
ACTIVATIONS = frozenset({*_FUSED, *IN_PLACE})


def _operators() -> tuple[Any, ...]:
    """None: this PyTorch has no oneDNN, or other operators of it."""
    if not torch.backends.mkldnn.is_available():
        return (None,) * 7
    own = torch.ops.mkldnn
    try:
        linear, convolution = own._linear_pointwise, own._convolution_pointwise
        packing = own._reorder_linear_weight.default, own._reorder_convolution_weight.default
        description = own._get_mkldnn_serialized_md.default
    except AttributeError:
        return (None,) * 7
    pack_linear, pack_convolution = packing
    return (
        pack_linear, linear.default, linear.binary,
        pack_convolution, convolution.default, convolution.binary, description,
    )  # fmt: skip


# Of each kind: packing, with an activation, with a sum.
(
    PACK_LINEAR, LINEAR, LINEAR_PLUS, PACK_CONVOLUTION, CONVOLUTION, CONVOLUTION_PLUS, _DESCRIBE,
) = _operators()  # fmt: skip


def layout_of(packed: Tensor) -> bytes:
    """What tells two layouts of a packed weight apart.

    On a weight in another layout than the image's size asks for, oneDNN moves the weight anew in
    every call: 15 ms beside 0.2 for 256 to 1024 channels.
    """
    found = bytes(_DESCRIBE(packed).tolist())  # a `dnnl_memory_desc`
    # Without the padding after `ndims` and `data_type`, which nothing sets.
    return found[:4] + found[8:108] + found[112:]


def convolve(
    input: Tensor, residual: Tensor | None, packed: Tensor, bias: Tensor | None,
    geometry: tuple[Any, ...], activation: str,
) -> Tensor:  # fmt: skip
    """A convolution on a packed weight; ``residual``: added before the activation.

    ``geometry``: padding, stride, dilation, groups.
    """
    name, form = _FUSED.get(activation, _FUSED["none"])
    if residual is None:
        result = CONVOLUTION(input, packed, bias, *geometry, name, [], form)
    else:
        args = (input, residual, packed, bias, *geometry, "add", None, None, [], None)
        result = CONVOLUTION_PLUS(*args)
    return result if activation in _FUSED else IN_PLACE[activation](result)


def multiply(rows: Tensor, packed: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """A linear layer on a packed weight."""
    name, form = _FUSED.get(activation, _FUSED["none"])
    result = LINEAR(rows, packed, bias, name, [], form)
    return result if activation in _FUSED else IN_PLACE[activation](result)
