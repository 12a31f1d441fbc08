"""What the calls share: their images, and how far a result is from the reference's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from denoise_ext import ops, reference


def image(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(shape, generator=generator, dtype=torch.float64).sub(0.5).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def compare(op: Callable, oracle: Callable, *tensors: Tensor, **options: object) -> float:
    """The largest difference, relative to the reference's largest value."""
    got = op(*tensors, **options)
    exact = oracle(*(x.double() for x in tensors), **options)
    return float((got.double() - exact).abs().max() / exact.abs().max())


def gradient(
    x: Tensor, weight: Tensor, bias: Tensor | None, which: str, **geometry: object
) -> float:
    def of(conv2d: Callable, *tensors: Tensor | None) -> Tensor:
        leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
        activation = "relu" if which == "bias" else "none"
        output = conv2d(*leaves, activation=activation, **({"padding": 1} | geometry))
        wanted = leaves[2] if which == "bias" else leaves[1]
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
        # In the layout of the output, as in training: empty_like keeps it.
        weights = torch.empty_like(output).copy_(weights)
        return torch.autograd.grad(output, wanted, weights)[0]

    exact = of(reference.conv2d, *(t if t is None else t.double() for t in (x, weight, bias)))
    got = of(ops.conv2d, x, weight, bias)
    return float((got.double() - exact).abs().max() / exact.abs().max())
