"""What the fused convolutions and their gradients compute, by PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext._activations import PLAIN

_aten = torch.ops.aten
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, **PLAIN}
# Gradients of activations whose output does not give them: (gradient of the output, input).
_BY_INPUT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": _aten.gelu_backward,
    "gelu_tanh": partial(_aten.gelu_backward, approximate="tanh"),
    "silu": _aten.silu_backward,
    "hardswish": _aten.hardswish_backward,
    "hardsigmoid": _aten.hardsigmoid_backward,
    "relu6": lambda grad, x: _aten.hardtanh_backward(grad, x, 0.0, 6.0),
}
BY_INPUT = frozenset(_BY_INPUT)


def gradient_by_input(
    activation: str, negative_slope: float, grad_output: Tensor, input: Tensor
) -> Tensor:
    """The gradient of any activation but PReLU, from its input."""
    if activation == "relu":
        return _aten.threshold_backward(grad_output, input, 0)
    if activation == "leaky_relu":
        return _aten.leaky_relu_backward(grad_output, input, negative_slope, False)
    if activation == "sigmoid":
        return _aten.sigmoid_backward(grad_output, torch.sigmoid(input))
    if activation == "tanh":
        return _aten.tanh_backward(grad_output, torch.tanh(input))
    return grad_output if activation == "none" else _BY_INPUT[activation](grad_output, input)


def keeps_preactivation(activation: str, tensors: Iterable[Tensor | None]) -> bool:
    """Whether the call is better made in two steps, the convolution and the activation.

    The fused operator keeps nothing that the gradient of such an activation could be computed of:
    its backward would compute the convolution again.
    """
    if activation not in BY_INPUT or not torch.is_grad_enabled():
        return False
    return any(x is not None and x.requires_grad for x in tensors)


def fused(
    output: Tensor,
    activation: str,
    negative_slope: float,
    prelu_weight: Tensor | None,
    residual: Tensor | None = None,
    residual_position: str = "before",
) -> Tensor:
    """A convolution's output through residual and activation."""
    if residual is not None and residual_position == "before":
        output = output + residual
    if activation == "leaky_relu":
        output = F.leaky_relu(output, negative_slope)
    elif activation == "prelu":
        output = F.prelu(output, _given(prelu_weight))
    elif activation != "none":
        output = _ACTIVATIONS[activation](output)
    return output + residual if residual is not None and residual_position == "after" else output


def _given(x: Tensor | None) -> Tensor:
    assert x is not None  # the checks before guarantee what an activation needs
    return x


def conv_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    prelu_weight: Tensor | None,
    geometry: tuple[object, ...],
    activation: str,
    negative_slope: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of input, weight, bias, prelu_weight and preactivation; None where not wanted.

    ``geometry``: stride, padding, dilation, transposed, output_padding, groups.
    """
    grad, grad_prelu = grad_output, None
    if activation == "relu":
        grad = _aten.threshold_backward(grad, saved, 0)
    elif activation == "leaky_relu":
        # By the output, which has the input's sign: the slope is not negative.
        grad = torch.where(_given(saved) > 0, grad, grad * negative_slope)
    elif activation == "sigmoid":
        grad = _aten.sigmoid_backward(grad, saved)
    elif activation == "tanh":
        grad = _aten.tanh_backward(grad, saved)
    elif activation == "prelu":
        slopes = _given(prelu_weight).view(1, -1, 1, 1)
        grad, products = _aten._prelu_kernel_backward(grad, saved, slopes)
        if output_mask[3]:
            grad_prelu = products.sum((0, 2, 3)) if slopes.numel() > 1 else products.sum().view(1)
    channels = grad_output.shape[1]
    grads = (None, None, None)
    if any(output_mask[:3]):
        grads = _aten.convolution_backward(
            grad, input, weight, [channels], *geometry, list(output_mask[:3])
        )
    return (*grads, grad_prelu, grad if output_mask[4] else None)
