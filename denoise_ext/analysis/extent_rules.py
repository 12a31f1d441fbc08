"""For every operator that is understood: what its result depends on, given what its inputs do.

A rule takes the operator's arguments by name, the first tensor's :class:`Extent` and the result's
shape, and returns the result's extent, or WHOLE.  An operator without a rule is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch import Tensor

from denoise_ext.analysis.extent import Extent, Reads

WHOLE = "whole"  # depends on every pixel of the image

Ints = Sequence[int] | int
Rule = Callable[[dict[str, Any], Extent, tuple[int, ...]], Extent | str]


def _pair(value: Ints) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _strided(kernel: int, stride: int, padding: int, dilation: int) -> Reads:
    def reads(index: int) -> range:
        first = index * stride - padding
        return range(first, first + (kernel - 1) * dilation + 1, dilation)

    return reads


def _transposed(kernel: int, stride: int, padding: int, dilation: int) -> Reads:
    def reads(index: int) -> list[int]:
        # input i adds tap j to output i * stride - padding + j * dilation
        offsets = [index + padding - tap * dilation for tap in range(kernel)]
        return [offset // stride for offset in offsets if offset % stride == 0]

    return reads


def _windows(
    extent: Extent, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints,
    transposed: bool = False,
) -> Extent:  # fmt: skip
    make = _transposed if transposed else _strided
    sizes = list(zip(*map(_pair, (kernel, stride, padding, dilation)), strict=True))
    steps = _pair(stride)
    rates = (steps, (1, 1)) if transposed else ((1, 1), steps)
    return extent.through(make(*sizes[0]), make(*sizes[1]), *rates)


def _convolution(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    return _windows(
        extent, tuple(a["weight"].shape[2:]), a["stride"], a["padding"], a["dilation"],
        bool(a.get("transposed", False)),
    )  # fmt: skip


def _convolution_transposed(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    kernel = tuple(a["weight"].shape[2:])
    return _windows(extent, kernel, a["stride"], a["padding"], a["dilation"], transposed=True)


def _pool(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    if a.get("ceil_mode"):
        raise ValueError("ceil_mode=True: what the last window covers depends on the image's size")
    stride = a["stride"] or a["kernel_size"]
    return _windows(extent, a["kernel_size"], stride, a["padding"], a.get("dilation", 1))


def _shuffle(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    factor = a["upscale_factor"]

    def reads(index: int) -> list[int]:
        return [index // factor]

    return extent.through(reads, reads, out=(factor, factor))


def _unshuffle(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    factor = a["downscale_factor"]
    return _windows(extent, factor, factor, 0, 1)


def _interpolation(below: int, above: int) -> Rule:
    """Interpolation from ``below`` values before the place to ``above`` values after it."""

    def rule(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
        if a.get("align_corners"):
            raise ValueError("align_corners=True: the places read depend on the image's size")
        source = next(x for x in a.values() if isinstance(x, Tensor)).shape[-2:]
        factors = [new // old for new, old in zip(shape[-2:], source, strict=True)]
        if [old * factor for old, factor in zip(source, factors, strict=True)] != list(shape[-2:]):
            raise ValueError(f"resizes {tuple(source)} to {tuple(shape[-2:])}: no whole factor")

        def reads(factor: int) -> Reads:
            def at(index: int) -> Sequence[int]:
                if below == above == 0:
                    return (index // factor,)
                # (index + 1/2) / factor - 1/2, rounded down; where that is a whole number the
                # neighbours are read too, with a weight of 0 but for rounding
                place = (2 * index + 1 - factor) // (2 * factor)
                return range(place - below, place + above + 1)

            return at

        return extent.through(reads(factors[0]), reads(factors[1]), out=(factors[0], factors[1]))

    return rule


def _pad(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    padding = a["pad"] if "pad" in a else a["padding"]
    if extent.dims != (len(shape) - 2, len(shape) - 1):
        raise ValueError("pads a tensor whose last two dimensions are not rows and columns")
    left, top = padding[0], padding[2] if len(padding) > 2 else 0
    return extent.through(lambda index: (index - top,), lambda index: (index - left,))


def _slice(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    dim = a["dim"] % len(shape)
    start, step = a["start"] or 0, a["step"]
    if dim not in extent.dims:
        return extent
    if start < 0:
        raise ValueError("slices from the end: where that is depends on the image's size")
    identity, reads = (lambda index: (index,)), (lambda index: (index * step + start,))
    if dim == extent.dims[0]:
        return extent.through(reads, identity, into=(step, 1))
    return extent.through(identity, reads, into=(1, step))


def _apart(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    """Takes apart or joins along one dimension, which must not be rows or columns."""
    if a["dim"] % len(shape) in extent.dims:
        raise ValueError("joins or splits along rows or columns")
    return extent


def _reduction(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent | str:
    rank = a["self"].dim()
    dims = a.get("dim")
    dims = range(rank) if dims is None or dims == [] else dims
    reduced = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}
    if reduced & set(extent.dims):
        return WHOLE
    if not a.get("keepdim", False):
        rows, columns = (d - sum(r < d for r in reduced) for d in extent.dims)
        return Extent(extent.rows, extent.columns, (rows, columns))
    return extent


def _layer_norm(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent | str:
    first = len(shape) - len(a["normalized_shape"])
    return WHOLE if max(extent.dims) >= first else extent


def _batch_norm(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent | str:
    return WHOLE if a.get("training", False) else extent


def _whole(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> str:
    return WHOLE


def _softmax(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent | str:
    return WHOLE if a["dim"] % len(shape) in extent.dims else extent


def _permute(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    order = [dim % len(shape) for dim in a["dims"]]
    rows, columns = (order.index(d) for d in extent.dims)
    return Extent(extent.rows, extent.columns, (rows, columns))


def _same_shape(a: dict[str, Any], extent: Extent, shape: tuple[int, ...]) -> Extent:
    before = tuple(a["self"].shape)
    for dim in extent.dims:
        if before[dim:] != shape[dim:] and (
            before[dim : dim + 1] != shape[dim : dim + 1]
            or prod(before[dim + 1 :]) != prod(shape[dim + 1 :])
        ):
            raise ValueError(f"changes the shape {before} to {shape}")
    return extent


# Every value of the result depends on the values in the same place: tensors are broadcast.
POINTWISE = frozenset(
    f"aten::{name}"
    for name in (
        "relu", "leaky_relu", "prelu", "_prelu_kernel", "elu", "silu", "gelu", "sigmoid", "tanh",
        "hardtanh", "hardswish", "hardsigmoid", "softplus", "threshold", "neg", "exp", "log",
        "sqrt", "rsqrt", "reciprocal", "abs", "square", "sign", "pow", "clamp", "clamp_min",
        "clamp_max", "add", "sub", "rsub", "mul", "div", "maximum", "minimum", "where", "addcmul",
        "lerp", "_to_copy", "clone", "detach", "alias",
    )
)  # fmt: skip

RULES: dict[str, Rule] = {
    "aten::convolution": _convolution,
    "denoise_ext::conv2d": _convolution,
    "denoise_ext::conv_transpose2d": _convolution_transposed,
    "aten::max_pool2d_with_indices": _pool,
    "aten::avg_pool2d": _pool,
    "aten::pixel_shuffle": _shuffle,
    "aten::pixel_unshuffle": _unshuffle,
    "aten::upsample_nearest2d": _interpolation(0, 0),
    "aten::_upsample_nearest_exact2d": _interpolation(0, 0),
    "aten::upsample_bilinear2d": _interpolation(0, 1),
    "aten::upsample_bicubic2d": _interpolation(1, 2),
    "aten::constant_pad_nd": _pad,
    "aten::reflection_pad2d": _pad,
    "aten::replication_pad2d": _pad,
    "aten::slice": _slice,
    "aten::cat": _apart,
    "aten::split": _apart,
    "aten::split_with_sizes": _apart,
    "aten::mean": _reduction,
    "aten::sum": _reduction,
    "aten::amax": _reduction,
    "aten::amin": _reduction,
    "aten::var": _reduction,
    "aten::var_mean": _reduction,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_batch_norm": _batch_norm,
    "aten::_native_batch_norm_legit_no_training": _batch_norm,
    "aten::native_group_norm": _whole,
    "aten::_adaptive_avg_pool2d": _whole,
    "aten::adaptive_max_pool2d": _whole,
    "aten::_softmax": _softmax,
    "aten::permute": _permute,
    "aten::expand": _same_shape,
    "aten::view": _same_shape,
    "aten::_unsafe_view": _same_shape,
}
