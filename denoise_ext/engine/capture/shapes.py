"""Shapes and strides of results, where PyTorch's own rules for tensors without data fall short.

For most operators PyTorch answers on the ``meta`` device.  The ones here are answered by the rules
of its CPU and CUDA kernels instead: some of the meta rules lose channels_last, others load the
compiler (seconds) for the shape of a sum, or a computer algebra system for that of a shuffle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from denoise_ext._arguments import conv_output_size, conv_transpose_output_size
from denoise_ext.engine.capture.graph import channels_last_stride
from denoise_ext.ops import is_channels_last

aten: Any = torch.ops.aten

# All tensors have one shape and dtype: the result's strides are `_pointwise_strides`.
POINTWISE = {
    aten.relu.default, aten.leaky_relu.default, aten.sigmoid.default, aten.tanh.default,
    aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.mul.Tensor,
    aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default, aten.abs.default,
    aten.clamp.default, aten.clamp_min.default, aten.gelu.default, aten.silu.default,
    aten.hardtanh.default, aten.hardswish.default, aten.hardsigmoid.default,
    aten.elu.default, aten.exp.default, aten.sqrt.default,
}  # fmt: skip
_PADS = {aten.reflection_pad2d.default, aten.replication_pad2d.default}


Known = dict[Any, tuple[Any, ...]]  # an operator's name and arguments -> its result


def result_of(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: Known | None = None
) -> Any:
    """Run ``func`` on tensors without data; shape, dtype and strides of the result are right.

    ``known`` keeps what PyTorch has answered: it takes up to 2 ms for each.
    """
    if func in POINTWISE and _all_alike(args, kwargs):
        stride = _pointwise_strides([x for x in args if isinstance(x, Tensor)])
        if stride is not None:
            return _empty(tuple(args[0].shape), stride, args[0])
    if func is aten.convolution.default and args[0].dim() == 4:
        return _convolution(*args)
    if func is aten._prelu_kernel.default and args[0].dtype == args[1].dtype:
        return _like(args[0])
    if func is aten.native_batch_norm.default and args[5] is False:
        none = (_empty((0,), (1,), args[0]) for _ in range(2))  # statistics, of training alone
        return _like(args[0]), *none
    if func is aten.cat.default and _can_join(*args):
        return _cat(*args)
    if func is aten.avg_pool2d.default and args[0].dim() == 4:
        shape = _pooled(*args, **kwargs)
        if shape is not None:
            return _as_laid_out(args[0], shape)
    if func is aten.native_layer_norm.default and args[2] is not None:
        x, last = args[0], len(args[1])
        if x.dtype == args[2].dtype and tuple(x.shape[-last:]) == tuple(args[1]):
            statistics = (*x.shape[:-last], *[1] * last)
            shapes = (tuple(x.shape), statistics, statistics)
            return tuple(_empty(shape, _contiguous_stride(shape), x) for shape in shapes)
    if func is aten.native_group_norm.default and args[0].dim() == 4 and is_channels_last(args[0]):
        statistics = (args[0].shape[0], args[6])
        none = (_empty(statistics, _contiguous_stride(statistics), args[0]) for _ in range(2))
        return _like(args[0]), *none
    if func is aten._scaled_dot_product_flash_attention_for_cpu.default:
        return _attended(*args[:3])
    if func in _SHUFFLES and args[0].dim() == 4 and args[1] > 0:
        n, c, h, w = args[0].shape
        shape = _SHUFFLES[func](n, c, h, w, args[1])
        if shape is not None:
            return _as_laid_out(args[0], shape)
    if func in _PADS and args[0].dim() == 4:
        shape = _padded(args[0], args[1], reflects=func is aten.reflection_pad2d.default)
        if shape is not None:
            return _as_laid_out(args[0], shape)
    return func(*args, **kwargs) if known is None else _asked_once(func, args, kwargs, known)


def _asked_once(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: Known) -> Any:
    """PyTorch's answer, or a tensor like the one that it was the last time."""
    try:
        key = (func, _described(args), _described(kwargs))
        found = known.get(key)
    except TypeError:  # an argument that has no hash
        return func(*args, **kwargs)
    if found is not None:
        shape, stride, dtype, device = found
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)
    result = func(*args, **kwargs)
    # A view shares its argument's memory.
    fresh = all(returned.alias_info is None for returned in func._schema.returns)
    if fresh and type(result) is Tensor and not any(result is x for x in args):
        known[key] = (tuple(result.shape), result.stride(), result.dtype, result.device)
    return result


def _described(argument: Any) -> Any:
    """All of an argument that a result's shape, dtype and strides depend on."""
    if isinstance(argument, Tensor):
        shape, stride = tuple(argument.shape), argument.stride()
        return shape, stride, argument.dtype, argument.device, argument.storage_offset()
    if isinstance(argument, dict):
        return tuple((name, _described(item)) for name, item in argument.items())
    if isinstance(argument, (tuple, list)):
        return tuple(map(_described, argument))
    return type(argument), argument  # True equals 1


def _attended(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The result, in the query's layout, and the logarithms of the sums, of 32 bits or more."""
    batch, heads, length, _ = query.shape
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    sums = torch.empty((batch, length, heads), dtype=wide, device=query.device)
    return torch.empty_like(query), sums.transpose(1, 2)


def _padded(input: Tensor, padding: list[int], reflects: bool) -> tuple[int, ...] | None:
    """The shape with a border; None if PyTorch must compute it."""
    n, c, h, w = input.shape
    left, right, above, below = padding
    rows, columns = h + above + below, w + left + right  # less than there were, where negative
    fits = not reflects or (max(left, right) < w and max(above, below) < h)
    if min(rows, columns) < 1 or not fits or not input.numel():
        return None
    return (n, c, rows, columns)


def _pooled(
    input: Tensor, kernel_size: Sequence[int], stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False, *_: Any,
) -> tuple[int, ...] | None:  # fmt: skip
    """The shape after average pooling; None if PyTorch must compute it."""
    n, c, *size = input.shape
    kernel, stride, padding = (
        [*v] * 2 if len(v) == 1 else [*v] for v in (kernel_size, stride or kernel_size, padding)
    )
    if ceil_mode or min(*kernel, *stride) < 1 or not input.numel():
        return None
    if any(not 0 <= p <= k // 2 for p, k in zip(padding, kernel, strict=True)):
        return None
    sizes = [(size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1)]
    return None if min(sizes) < 1 else (n, c, *sizes)


def _shuffled(n: int, c: int, h: int, w: int, factor: int) -> tuple[int, ...] | None:
    blocks, rest = divmod(c, factor**2)
    return None if rest else (n, blocks, h * factor, w * factor)


def _unshuffled(n: int, c: int, h: int, w: int, factor: int) -> tuple[int, ...] | None:
    return None if h % factor or w % factor else (n, c * factor**2, h // factor, w // factor)


_SHUFFLES: dict[Any, Callable[..., tuple[int, ...] | None]] = {
    aten.pixel_shuffle.default: _shuffled,
    aten.pixel_unshuffle.default: _unshuffled,
}


def _all_alike(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    first = args[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return False
    for x in args[1:]:
        if isinstance(x, Tensor):
            if x.shape != first.shape or x.dtype != first.dtype:
                return False
        elif isinstance(x, complex):
            return False
    return not any(isinstance(x, Tensor) for x in kwargs.values())


def _pointwise_strides(tensors: list[Tensor]) -> tuple[int, ...] | None:
    """The result's strides by c10's TensorIterator; None in cases without a rule here."""
    first = tensors[0]
    if all(x.is_contiguous() for x in tensors):
        return _contiguous_stride(tuple(first.shape))
    if not all(_is_dense(x) for x in tensors):
        return None
    # Dimensions go in the order of the first tensor's strides, where no two of them are equal.
    distinct = len(set(first.stride())) == first.dim()
    alike = all(x.stride() == first.stride() for x in tensors)
    return first.stride() if distinct or alike else None


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def _convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Tensor:  # fmt: skip
    pairs = (stride, padding, dilation, output_padding)
    stride, padding, dilation, output_padding = (v * 2 if len(v) == 1 else v for v in pairs)
    if transposed:
        expected, channels = weight.shape[0], weight.shape[1] * groups
    else:
        expected, channels = weight.shape[1] * groups, weight.shape[0]
    try:
        if transposed:
            geometry = (stride, padding, output_padding, dilation)
            sizes = conv_transpose_output_size(input, weight, *geometry)
        else:
            sizes = conv_output_size(input, weight, stride, padding, dilation)
    except ValueError:  # larger than this package's operators take
        sizes = (0, 0)
    if input.shape[1] != expected or min(sizes) < 1 or input.dtype != weight.dtype:
        # PyTorch computes the shape, or words the error.
        return torch.ops.aten.convolution(
            input, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
    shape = (input.shape[0], channels, *sizes)
    last = is_channels_last(input) or is_channels_last(weight)
    return _empty(shape, channels_last_stride(shape) if last else _contiguous_stride(shape), input)


def _as_laid_out(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    last = is_channels_last(input)
    return _empty(shape, channels_last_stride(shape) if last else _contiguous_stride(shape), input)


def _can_join(tensors: list[Tensor], dim: int = 0) -> bool:
    first = tensors[0]
    return dim == 1 and all(
        x.dim() == 4
        and x.dtype == first.dtype
        and x.shape[::2] == first.shape[::2]
        and x.shape[3] == first.shape[3]
        and x.numel()
        for x in tensors
    )


def _cat(tensors: list[Tensor], dim: int) -> Tensor:
    n, _, h, w = tensors[0].shape
    shape = (n, sum(x.shape[1] for x in tensors), h, w)
    last = all(is_channels_last(x) for x in tensors)
    stride = channels_last_stride(shape) if last else _contiguous_stride(shape)
    return _empty(shape, stride, tensors[0])


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        stride[d - 1] = stride[d] * max(shape[d], 1)
    return tuple(stride)


def _like(x: Tensor) -> Tensor:
    return _empty(tuple(x.shape), x.stride(), x)


def _empty(shape: tuple[int, ...], stride: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=like.dtype, device=like.device)
