"""Calls of the normalisations."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_emulator.faults.images import compare, image
from denoise_ext import ops, reference

F16, F32 = torch.float16, torch.float32


def _terms(x: Tensor) -> tuple[Tensor, Tensor]:
    """A weight and a bias for each channel."""
    values = image((2, x.shape[1], 1, 1), x.dtype)
    return values[0].flatten() + 1, values[1].flatten()


def _layer_norm(x: Tensor) -> float:
    return compare(ops.layer_norm2d, reference.layer_norm2d, x, *_terms(x))


def _group_norm(x: Tensor, groups: int) -> float:
    def oracle(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return reference.group_norm(x, groups, weight, bias)

    def op(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.group_norm(x, groups, weight, bias)

    return compare(op, oracle, x, *_terms(x))


def layer_norm_f16() -> float:
    """Two threads share a pixel; the last block has fewer pixels."""
    return _layer_norm(image((1, 40, 5, 7), F16))


def layer_norm_many_channels_f32() -> float:
    """More than a thread holds; the last ones are brighter."""
    x = image((1, 301, 1, 5), F32)
    x[:, 256:] += 3
    return _layer_norm(x)


def layer_norm_planes_f16() -> float:
    """Eight threads share a vector of columns; rows of two images."""
    return _layer_norm(image((2, 40, 3, 32), F16, False))


def group_norm_f16() -> float:
    """Vectors of channels."""
    return _group_norm(image((2, 32, 9, 7), F16), 2)


def group_norm_long_f32() -> float:
    """More than a block holds; the last rows are brighter."""
    x = image((1, 1, 67, 67), F32, False)
    x[..., -5:, :] += 9
    return _group_norm(x, 1)


def group_norm_far_f32() -> float:
    """A mean that costs squares of float32 their digits."""
    return _group_norm(image((1, 4, 9, 32), F32, False) + 4000, 2)


def group_norm_f64() -> float:
    """A mean far from zero, in several parts: a million times the error."""
    x = image((1, 2, 57, 43), torch.float64, False) / 64 + 1000
    return 1e6 * _group_norm(x, 1)


CALLS = {
    function.__name__: function
    for function in (
        layer_norm_f16, layer_norm_many_channels_f32, layer_norm_planes_f16, group_norm_f16,
        group_norm_long_f32, group_norm_far_f32, group_norm_f64,
    )
}  # fmt: skip
