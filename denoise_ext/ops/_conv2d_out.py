"""Fake kernels of the raw operators for callers that own their memory.

They are ``conv2d`` and ``conv_transpose2d`` for an inference engine:
``torch.ops.denoise_ext.conv2d_out`` writes into ``out``, which may be any strided view (also a
slice of the channels of a channels_last buffer), takes weights packed once by ``conv2d_pack``,
pads with zeros, mirrored or repeated pixels (``border`` "constant", "reflect", "replicate",
"circular"), and lets the algorithm be named ("auto", "direct", "winograd4", "winograd6").
``precision`` matters for "auto", and on CUDA, where it decides whether tf32 may be used.
``torch.ops.denoise_ext.conv_transpose2d_out`` writes into ``out`` likewise and takes a residual (on
the CPU).
``torch.ops.denoise_ext.conv2d_resampled_out`` (CPU) is a 3x3 convolution with padding 1 between
two levels of a U-Net: it reads ``coarse`` (N, C0, H / 2, W / 2), every pixel repeated 2x2, and
behind it the channels of ``fine`` (N, C1, H, W), as if upsampled and concatenated; it writes
``out``, or its 2x2 blocks' maxima or means to ``pooled`` (N, K, H // 2, W // 2), or both.  Where
there is a ``coarse``, H and W are twice its sizes.  ``packed_weight`` is required, packed for
"winograd4" or "winograd6", its input channels in the order coarse, fine; of ``weight`` only sizes
and dtype count.
``torch.ops.denoise_ext.pixel_unshuffle_out`` (CPU) is PyTorch's ``pixel_unshuffle`` of any strides.
``torch.ops.denoise_ext.block_warp_out`` and ``recurrent_fuse_out`` (CPU) are ``block_warp`` and
``recurrent_fuse``.

None has a gradient: where gradients are recorded, no argument may require one.  A result must not
overlap itself or any other argument, except that ``out`` may be ``residual`` itself.  These are
errors, as for ``out=`` of PyTorch's functions.  A result's version is counted up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext._arguments import (
    check_fake_conv,
    conv_output_size,
    conv_transpose_output_size,
)
from denoise_ext.ops._library import native_op

_, _available = native_op("conv2d_out")

_HEADER_BYTES = 64  # PackedWeightHeader of csrc/cpu/conv_pack.h
_CHANNEL_MULTIPLE = 16
_WINOGRAD_POINTS = {"winograd4": 6 * 6, "winograd6": 8 * 8}


def _pack_fake(weight: Tensor, algorithm: str) -> Tensor:
    check_fake_conv(weight)
    filters, channels, kh, kw = weight.shape
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    padded = -(-filters // _CHANNEL_MULTIPLE) * _CHANNEL_MULTIPLE
    points = _WINOGRAD_POINTS.get(algorithm, kh * kw)
    header = _HEADER_BYTES // dtype.itemsize
    return weight.new_empty(header + points * channels * padded, dtype=dtype)


def _out_fake(
    input, weight, packed_weight, bias, stride, padding, dilation, groups, border, activation,
    negative_slope, prelu_weight, residual, residual_position, algorithm, out,
    precision="default",
) -> None:  # fmt: skip
    check_fake_conv(weight, stride=stride, padding=padding, dilation=dilation)
    conv_output_size(input, weight, stride, padding, dilation)


def _transpose_out_fake(
    input, weight, bias, stride, padding, output_padding, groups, dilation, activation,
    negative_slope, prelu_weight, residual, residual_position, precision, out,
) -> None:  # fmt: skip
    check_fake_conv(
        weight, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation
    )
    conv_transpose_output_size(input, weight, stride, padding, output_padding, dilation)


def _resampled_out_fake(
    coarse, fine, weight, packed_weight, bias, border, activation, negative_slope, prelu_weight,
    residual, residual_position, pooling, out, pooled,
) -> None:  # fmt: skip
    return None


def _unshuffle_out_fake(input: Tensor, factor: int, out: Tensor) -> None:
    return None


def _warp_out_fake(input: Tensor, motion: Tensor, out: Tensor) -> None:
    return None


def _fuse_out_fake(
    input: Tensor, previous: Tensor, gate: Tensor, level: Tensor, out: Tensor
) -> None:
    return None


if _available:
    torch.library.register_fake("denoise_ext::conv2d_pack", _pack_fake)
    torch.library.register_fake("denoise_ext::conv2d_out", _out_fake)
    torch.library.register_fake("denoise_ext::conv2d_resampled_out", _resampled_out_fake)
    torch.library.register_fake("denoise_ext::conv_transpose2d_out", _transpose_out_fake)
    torch.library.register_fake("denoise_ext::pixel_unshuffle_out", _unshuffle_out_fake)
    torch.library.register_fake("denoise_ext::block_warp_out", _warp_out_fake)
    torch.library.register_fake("denoise_ext::recurrent_fuse_out", _fuse_out_fake)
