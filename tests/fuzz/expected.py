"""What an operator must give for any arguments that it may accept, however extreme."""

from __future__ import annotations

import math
from collections.abc import Sequence

import bounds
import torch
from calls import Call
from cases import CASES, OpCase, to_float64
from torch import Tensor

from denoise_ext.reference.activation import apply_activation

Pair = tuple[int, int]

MOST_WORK = 20_000_000  # products that are computed again
_NEAR = {"stride": 32, "dilation": 32, "padding": 100_000}  # torch computes that itself
_MOST_TAPS = 2_000  # of a filter that is computed again
_TAIL = 39  # exp(-0.5 * 39**2) is 0 in float64


def pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def geometry(call: Call) -> dict[str, Pair]:
    """Stride, padding, dilation and output padding of a convolution."""
    given = {name: call.options.get(name, 1) for name in ("stride", "dilation")}
    given |= {name: call.options.get(name, 0) for name in ("padding", "output_padding")}
    if given["padding"] == "valid":
        given["padding"] = 0
    return {name: pair(value) for name, value in given.items() if value != "same"}


def conv_size(call: Call, image: Sequence[int], kernel: Sequence[int], transposed: bool) -> Pair:
    """Rows and columns of a convolution's output, in integers without end."""
    g = geometry(call)
    sizes = []
    for i in (0, 1):
        if call.options.get("padding") == "same":
            sizes.append(image[i])
            continue
        reach = g["dilation"][i] * (kernel[i] - 1)
        if transposed:
            rows = (image[i] - 1) * g["stride"][i] - 2 * g["padding"][i]
            sizes.append(rows + reach + g["output_padding"][i] + 1)
        elif g["stride"][i] == 0:
            sizes.append(0)
        else:
            sizes.append((image[i] + 2 * g["padding"][i] - reach - 1) // g["stride"][i] + 1)
    return sizes[0], sizes[1]


def conv_work(call: Call, x: Sequence[int], weight: Sequence[int], transposed: bool) -> int:
    """Products in a convolution; 0 where its output is empty or negative."""
    rows, columns = conv_size(call, x[-2:], weight[2:], transposed)
    if min(rows, columns) <= 0:
        return 0
    channels = weight[1] * x[-3] if transposed else weight[0] * weight[1]
    return math.prod(x[:-3]) * rows * columns * channels * weight[2] * weight[3]


def _sources(
    count: int,
    size: int,
    taps: int,
    stride: int,
    padding: int,
    dilation: int,
    transposed: bool,
    border: str,
) -> tuple[Tensor, Tensor]:
    """(count, taps): which input each tap of each output reads, and whether there is one."""
    index = torch.zeros((count, taps), dtype=torch.long)
    valid = torch.zeros((count, taps), dtype=torch.bool)
    for i in range(count):
        for t in range(taps):
            at = i + padding - t * dilation if transposed else i * stride - padding + t * dilation
            if transposed:
                at, rest = divmod(at, stride)
                there = rest == 0
            else:
                there = True
            if border == "replicate":
                at = min(max(at, 0), size - 1)
            elif border == "circular":
                at %= size
            elif border == "reflect":
                at %= max(2 * (size - 1), 1)
                at = min(at, 2 * (size - 1) - at) if size > 1 else 0
            if there and 0 <= at < size:
                index[i, t], valid[i, t] = at, True
    return index, valid


def as_one_by_one(
    call: Call, tensors: dict[str, Tensor], transposed: bool, border: str = "constant"
) -> tuple[Call, dict[str, Tensor]]:
    """The same convolution as a 1x1 convolution of the pixels that its taps read."""
    x, weight = tensors["input"], tensors["weight"]
    x = x if x.dim() == 4 else x.unsqueeze(0)
    g, groups = geometry(call), call.options.get("groups", 1)
    size = conv_size(call, x.shape[2:], weight.shape[2:], transposed)
    # "same", as torch has it: the smaller half comes first
    same = [g["dilation"][i] * (weight.shape[2 + i] - 1) // 2 for i in (0, 1)]
    padding = g.get("padding", same)
    (rows, row_there), (columns, column_there) = (
        _sources(size[i], x.shape[2 + i], weight.shape[2 + i], g["stride"][i], padding[i],
                 g["dilation"][i], transposed, border)
        for i in (0, 1)
    )  # fmt: skip
    read = x[:, :, rows][:, :, :, :, columns]  # (N, C, OH, kh, OW, kw)
    there = row_there[:, :, None, None] & column_there[None, None]
    read = torch.where(there, read, torch.zeros((), dtype=x.dtype))
    patches = read.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    if transposed:  # (C, K / g, kh, kw) -> (K, C / g, kh, kw)
        parts = weight.unflatten(0, (groups, -1)).transpose(1, 2)
        weight = parts.flatten(0, 1)
    flat = weight.flatten(1)[:, :, None, None]
    kept = ("stride", "padding", "dilation", "output_padding")
    options = {name: value for name, value in call.options.items() if name not in kept}
    changed = {**tensors, "input": patches, "weight": flat}
    return Call({}, options), changed


def is_near(call: Call) -> bool:
    """Whether a convolution's numbers are such that torch computes it."""
    g = geometry(call)
    return all(max(g[name]) <= most for name, most in _NEAR.items() if name in g)


def narrowed(call: Call, sigmas: Sequence[float], height: int, width: int) -> Call | None:
    """A filter with a kernel cut where its weights are 0; None where it is too large even so."""
    sizes = [
        min(size, 2 * math.ceil(_TAIL * sigma) + 1) if sigma < 1e6 else size
        for size, sigma in zip(pair(call.options["kernel_size"]), sigmas, strict=True)
    ]
    if call.options.get("window") == "circle":
        sizes = [max(sizes)] * 2
    work = sizes[0] * sizes[1] * height * width
    if sizes[0] * sizes[1] > _MOST_TAPS or work > MOST_WORK:
        return None
    return call.with_options(kernel_size=tuple(sizes))


def pair_of_numbers(value: float | Sequence[float]) -> tuple[float, float]:
    return (value, value) if isinstance(value, (int, float)) else (value[0], value[1])


def _reach(call: Call, tensors: dict[str, Tensor], name: str) -> tuple[float, float]:
    """The largest sigma of each direction: it decides how far weights reach."""
    if name in tensors:
        values = tensors[name].double()
        values = values if values.dim() == 2 else values[:, None].expand(-1, 2)
        return tuple(values.amax(0).tolist()) if values.numel() else (1.0, 1.0)
    return pair_of_numbers(call.options[name])


def _reference(case: OpCase, call: Call, exact: dict[str, Tensor]) -> Tensor:
    """The case's reference, and what conv_transpose2d_out has besides: a residual."""
    if case.name != "conv_transpose2d" or "residual" not in exact:
        kept = {k: v for k, v in call.options.items() if k != "residual_position"}
        return case.reference(**exact, **(call.options if case.name == "conv2d" else kept))
    after = call.options["residual_position"] == "after"
    names = ("activation", "negative_slope", "residual_position")
    linear = {k: v for k, v in call.options.items() if k not in names}
    tensors = {k: x for k, x in exact.items() if k in ("input", "weight", "bias")}
    y = case.reference(**tensors, **linear)
    y = y if after else y + exact["residual"]
    slope = call.options.get("negative_slope", 0.01)
    y = apply_activation(
        y, call.options.get("activation", "none"), slope, exact.get("prelu_weight")
    )
    return y + exact["residual"] if after else y


def expected_and_bound(
    case: OpCase, call: Call, tensors: dict[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """The float64 result and its largest error; None where computing it would take too long."""
    dtype = tensors["input"].dtype
    exact = to_float64(tensors)
    if case.name.startswith("conv"):
        transposed = case.name == "conv_transpose2d"
        shapes = (tuple(exact["input"].shape), tuple(exact["weight"].shape))
        if conv_work(call, *shapes, transposed) > MOST_WORK:
            return None
        if not is_near(call):
            unbatched = exact["input"].dim() == 3
            if unbatched and "residual" in exact:
                exact["residual"] = exact["residual"].unsqueeze(0)
            call, exact = as_one_by_one(call, exact, transposed)
            case = CASES["conv2d"]
            result = case.reference(**exact, **call.options)
            bound = case.bound(call, exact, dtype) + bounds.output_rounding(result, dtype)
            return (result[0], bound[0]) if unbatched else (result, bound)
    elif "blur" in case.name:
        name = "sigma" if case.name == "gaussian_blur2d" else "sigma_space"
        reach = _reach(call, tensors, name)
        call = narrowed(call, reach, *exact["input"].shape[-2:])
        if call is None:
            return None
    if case.output_dtype is not None or (dtype == torch.uint8 and case.exact_uint8):
        result = case.reference(**tensors, **call.options)
        return result.double(), torch.zeros_like(result, dtype=torch.float64)
    result = _reference(case, call, exact)
    return result, case.bound(call, exact, dtype) + bounds.output_rounding(result, dtype)
