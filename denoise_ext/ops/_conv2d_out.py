"""Fake kernels of the raw operators for callers that own their memory.

They are ``conv2d`` and ``conv_transpose2d`` for an inference engine:
``torch.ops.denoise_ext.conv2d_out`` writes into ``out``, which may be any strided view (also a
slice of the channels of a channels_last buffer), takes weights packed once by ``conv2d_pack`` (on
the CPU for an algorithm; on CUDA for a kernel, "conv_rowring", "conv_gemm_mma" or "conv_tiled",
which then runs), pads with zeros, mirrored or repeated pixels (``border`` "constant", "reflect",
"replicate", "circular"), and lets the algorithm be named ("auto", "direct", "winograd2",
"winograd4", "winograd6").
``precision`` matters for "auto", and on CUDA, where it decides whether tf32 may be used.
``torch.ops.denoise_ext.conv_transpose2d_out`` writes into ``out`` likewise and takes a residual and
a packed weight (on the CPU).  ``conv2d_pack`` takes stride, padding and ``transposed`` for these,
and for Winograd's algorithms with stride 2.
``torch.ops.denoise_ext.conv2d_resampled_out`` (CPU) is a 3x3 convolution with padding 1 between
two levels of a U-Net: it reads ``coarse`` (N, C0, H / 2, W / 2), every pixel repeated 2x2, and
behind it the channels of ``fine`` (N, C1, H, W), as if upsampled and concatenated; it writes
``out``, or its 2x2 blocks' maxima or means to ``pooled`` (N, K, H // 2, W // 2), or both.  Where
there is a ``coarse``, H and W are twice its sizes.  ``packed_weight`` is required, packed for
"winograd2", "winograd4" or "winograd6", its input channels in the order coarse, fine; of
``weight`` only sizes and dtype count.
``torch.ops.denoise_ext.pixel_unshuffle_out`` and ``pixel_shuffle_out`` (CPU) are PyTorch's
``pixel_unshuffle`` and ``pixel_shuffle`` of any strides.
``torch.ops.denoise_ext.gdn_out`` (CPU) is ``input / sqrt(conv2d(input^2, weight, bias))``, or with
``inverse`` the product, for a 1x1 weight of at least 5 channels, packed for "direct"; not float64.
``torch.ops.denoise_ext.conv2d_gated_out`` (CPU, direct sums) is ``conv2d(input, weight, bias) *
gate(conv2d(gate_input, gate_weight, gate_bias))``.  ``gate`` is "none" or an activation other than
ReLU, leaky ReLU and PReLU.  Both convolutions are of one geometry.  Dense ones (``groups`` 1, at
least 5 filters) read the same image: ``gate_input`` is None.  Both of their weights may be packed
for "direct".  Depthwise ones read images of equal strides with channels side by side, at least a
vector of them.
``torch.ops.denoise_ext.block_warp_out`` and ``recurrent_fuse_out`` (CPU) are ``block_warp`` and
``recurrent_fuse``.

None has a gradient: where gradients are recorded, no argument may require one.  A result must not
overlap itself or any other argument, except that ``out`` may be ``residual`` itself.  These are
errors, as for ``out=`` of PyTorch's functions.  A result's version is counted up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from denoise_ext._arguments import (
    check_fake_conv,
    conv_output_size,
    conv_transpose_output_size,
)
from denoise_ext._tf32 import tf32_allowed
from denoise_ext.ops._library import native_op

_, _available = native_op("conv2d_out")

# Of a weight as the CUDA kernels read it: output channels of a block, and bytes of a row.
_BLOCK_OUTPUTS, _ROW_BYTES = 64, 64
_NARROW_OUTPUTS, _NARROW_MOST = 8, 32

_HEADER_BYTES = 64  # PackedWeightHeader of csrc/cpu/conv_pack.h
_CHANNEL_MULTIPLE = 16
_WINOGRAD_POINTS = {"winograd2": 4 * 4, "winograd4": 6 * 6, "winograd6": 8 * 8}


def _pack_fake(
    weight: Tensor, algorithm: str, groups: int = 1, precision: str = "default",
    stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0), transposed: bool = False,
) -> Tensor:  # fmt: skip
    check_fake_conv(weight, stride=stride, padding=padding)
    if algorithm.startswith("conv_"):
        return _pack_on_gpu_fake(weight, algorithm, groups, precision)
    filters, channels, kh, kw = weight.shape
    if transposed:
        filters, channels = channels, filters
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    padded = -(-filters // _CHANNEL_MULTIPLE) * _CHANNEL_MULTIPLE
    points = kh * kw
    if algorithm in _WINOGRAD_POINTS:
        points = _WINOGRAD_POINTS[algorithm] * stride[0] * stride[1]  # a weight for each phase
    header = _HEADER_BYTES // dtype.itemsize
    return weight.new_empty(header + points * channels * padded, dtype=dtype)


def _pack_on_gpu_fake(weight: Tensor, kernel: str, groups: int, precision: str) -> Tensor:
    outputs, channels, taps, _ = weight.shape
    exact = weight.dtype == torch.float32
    fast = precision == "fast" or (precision == "default" and tf32_allowed())
    rounded = torch.int32 if exact and (fast or kernel == "conv_gemm_mma") else weight.dtype
    if kernel == "conv_rowring":
        chunk = (_ROW_BYTES if taps == 5 else 2 * _ROW_BYTES) // weight.dtype.itemsize
        blocks, chunks = -(-outputs // _BLOCK_OUTPUTS), -(-channels // chunk)
        return weight.new_empty((blocks, chunks, taps, taps, _BLOCK_OUTPUTS, chunk), dtype=rounded)
    dtype = torch.float32 if kernel == "conv_tiled" else rounded
    chunk = _ROW_BYTES // dtype.itemsize
    narrow = kernel == "conv_tiled" and outputs // groups <= _NARROW_MOST
    block = _NARROW_OUTPUTS if narrow else _BLOCK_OUTPUTS
    blocks, chunks = -(-outputs // groups // block), -(-weight[0].numel() // chunk)
    return weight.new_empty((groups, blocks, chunks, block, chunk), dtype=dtype)


def _out_fake(
    input: Tensor, weight: Tensor, packed_weight: Tensor | None, bias: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
    border: str, activation: str, negative_slope: float, prelu_weight: Tensor | None,
    residual: Tensor | None, residual_position: str, algorithm: str, out: Tensor,
    precision: str = "default",
) -> None:  # fmt: skip
    check_fake_conv(weight, stride=stride, padding=padding, dilation=dilation)
    conv_output_size(input, weight, stride, padding, dilation)


def _transpose_out_fake(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    padding: Sequence[int], output_padding: Sequence[int], groups: int, dilation: Sequence[int],
    activation: str, negative_slope: float, prelu_weight: Tensor | None, residual: Tensor | None,
    residual_position: str, precision: str, out: Tensor, packed_weight: Tensor | None = None,
) -> None:  # fmt: skip
    check_fake_conv(
        weight, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation
    )
    conv_transpose_output_size(input, weight, stride, padding, output_padding, dilation)


def _resampled_out_fake(
    coarse: Tensor | None, fine: Tensor, weight: Tensor, packed_weight: Tensor, bias: Tensor | None,
    border: str, activation: str, negative_slope: float, prelu_weight: Tensor | None,
    residual: Tensor | None, residual_position: str, pooling: str, out: Tensor | None,
    pooled: Tensor | None,
) -> None:  # fmt: skip
    return None


def _shuffle_out_fake(input: Tensor, factor: int, out: Tensor) -> None:
    return None


def _warp_out_fake(input: Tensor, motion: Tensor, out: Tensor) -> None:
    return None


def _gdn_out_fake(
    input: Tensor, weight: Tensor, packed_weight: Tensor, bias: Tensor | None, inverse: bool,
    out: Tensor,
) -> None:  # fmt: skip
    check_fake_conv(weight)


def _gated_out_fake(
    input: Tensor, weight: Tensor, packed_weight: Tensor | None, bias: Tensor | None,
    gate_input: Tensor | None, gate_weight: Tensor, packed_gate_weight: Tensor | None,
    gate_bias: Tensor | None, gate: str, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, out: Tensor,
) -> None:  # fmt: skip
    check_fake_conv(weight, stride=stride, padding=padding, dilation=dilation)
    conv_output_size(input, weight, stride, padding, dilation)


def _fuse_out_fake(
    input: Tensor, previous: Tensor, gate: Tensor, level: Tensor, out: Tensor
) -> None:
    return None


if _available:
    torch.library.register_fake("denoise_ext::conv2d_pack", _pack_fake)
    torch.library.register_fake("denoise_ext::conv2d_out", _out_fake)
    torch.library.register_fake("denoise_ext::conv2d_resampled_out", _resampled_out_fake)
    torch.library.register_fake("denoise_ext::conv_transpose2d_out", _transpose_out_fake)
    torch.library.register_fake("denoise_ext::pixel_unshuffle_out", _shuffle_out_fake)
    torch.library.register_fake("denoise_ext::pixel_shuffle_out", _shuffle_out_fake)
    torch.library.register_fake("denoise_ext::gdn_out", _gdn_out_fake)
    torch.library.register_fake("denoise_ext::conv2d_gated_out", _gated_out_fake)
    torch.library.register_fake("denoise_ext::block_warp_out", _warp_out_fake)
    torch.library.register_fake("denoise_ext::recurrent_fuse_out", _fuse_out_fake)
