"""What the fused convolutions and their gradients compute, by PyTorch's own operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_aten = torch.ops.aten
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


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
