"""Fake kernels of the raw operators ``conv2d_pack``, ``conv2d_out`` and ``conv_transpose2d_out``.

They are ``conv2d`` and ``conv_transpose2d`` for callers that own their memory, such as an inference
engine:
``torch.ops.denoise_ext.conv2d_out`` writes into ``out``, which may be any strided view (also a
slice of the channels of a channels_last buffer), takes weights packed once by ``conv2d_pack``,
pads with zeros, mirrored or repeated pixels (``border`` "constant", "reflect", "replicate",
"circular"), and lets the algorithm be named ("auto", "direct", "winograd4", "winograd6").  ``out``
must not overlap any other argument, except that it may be ``residual`` itself.
``torch.ops.denoise_ext.conv_transpose2d_out`` writes into ``out`` likewise and takes a residual (on
the CPU).  None has a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.ops._library import native_op

_, _available = native_op("conv2d_out")

_HEADER_BYTES = 64  # PackedWeightHeader of csrc/cpu/conv_pack.h
_CHANNEL_MULTIPLE = 16
_WINOGRAD_POINTS = {"winograd4": 6 * 6, "winograd6": 8 * 8}


def _pack_fake(weight: Tensor, algorithm: str) -> Tensor:
    filters, channels, kh, kw = weight.shape
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    padded = -(-filters // _CHANNEL_MULTIPLE) * _CHANNEL_MULTIPLE
    points = _WINOGRAD_POINTS.get(algorithm, kh * kw)
    header = _HEADER_BYTES // dtype.itemsize
    return weight.new_empty(header + points * channels * padded, dtype=dtype)


def _out_fake(
    input, weight, packed_weight, bias, stride, padding, dilation, groups, border, activation,
    negative_slope, prelu_weight, residual, residual_position, algorithm, out,
) -> None:  # fmt: skip
    return None


def _transpose_out_fake(
    input, weight, bias, stride, padding, output_padding, groups, dilation, activation,
    negative_slope, prelu_weight, residual, residual_position, precision, out,
) -> None:  # fmt: skip
    return None


if _available:
    torch.library.register_fake("denoise_ext::conv2d_pack", _pack_fake)
    torch.library.register_fake("denoise_ext::conv2d_out", _out_fake)
    torch.library.register_fake("denoise_ext::conv_transpose2d_out", _transpose_out_fake)
