"""Random tensors: every dtype, odd layouts, and guards around what operators write."""

from __future__ import annotations

import math
import random

import torch
from calls import Call
from cases import FLOATS, LAYOUTS, make_tensors, with_layout
from torch import Tensor

OTHER_DTYPES = (
    torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool, torch.complex64,
    torch.float8_e4m3fn,
)  # fmt: skip
EXTREMES = (
    0, -1, 1, 2, 3, 5, 7, 16, 17, 64, 101, 128, 1000, 2001, 2**15, 2**16 - 1, 2**20 + 1, 2**31 - 1,
    2**31, 2**32 - 8, 2**32 + 1, 2**40, 2**62, 2**62 + 1, 2**63 - 1, -(2**63), 2**64,
)  # fmt: skip
GUARD = 64  # elements before and behind what an operator may write


def draw_tensors(rng: random.Random, call: Call, dtype: torch.dtype) -> dict[str, Tensor]:
    """Arguments for a call, each in a layout of its own, some seen through odd views."""
    plain = make_tensors(call, dtype, seed=rng.randrange(2**32))
    if rng.random() < 0.5:
        return {name: with_layout(x, rng.choice(LAYOUTS)) for name, x in plain.items()}
    return {name: odd_view(rng, x) for name, x in plain.items()}


def odd_view(rng: random.Random, x: Tensor) -> Tensor:
    """The tensor's shape in a layout that is none of the usual ones; its values may repeat."""
    kind = rng.choice(["same", "layout", "expanded", "overlapping", "permuted", "offset"])
    if kind == "layout":
        return with_layout(x, rng.choice(LAYOUTS))
    if kind == "expanded" and x.numel():
        axes = [slice(0, 1) if rng.random() < 0.4 else slice(None) for _ in x.shape]
        return x[tuple(axes)].expand(x.shape)
    if kind == "overlapping" and x.numel():  # rows that share memory
        strides = [rng.randint(0, 3) for _ in x.shape]
        return x.contiguous().flatten().as_strided(x.shape, _within(strides, x))
    if kind == "permuted":
        order = rng.sample(range(x.dim()), x.dim())
        back = sorted(range(x.dim()), key=order.__getitem__)
        return x.permute(order).contiguous().permute(back)
    if kind == "offset":
        buffer = x.new_zeros(x.numel() + 3)
        return buffer[3:].view(x.shape).copy_(x)
    return x


def _within(strides: list[int], x: Tensor) -> list[int]:
    """Those strides, or zeros if they reach beyond the tensor's memory."""
    last = sum(stride * (size - 1) for stride, size in zip(strides, x.shape, strict=True))
    return strides if last < x.numel() else [0] * x.dim()


def disturb(rng: random.Random, tensors: dict[str, Tensor]) -> None:
    """Replace one tensor by one of another shape, dtype or kind."""
    name = rng.choice(list(tensors))
    x = tensors[name]
    kind = rng.choice(["dtype", "other dtype", "size", "rank", "huge", "meta", "values", "sparse"])
    if kind == "dtype":
        x = x.to(rng.choice(FLOATS))
    elif kind == "other dtype":
        x = x.to(rng.choice(OTHER_DTYPES))
    elif kind == "size" and x.dim():
        axis = rng.randrange(x.dim())
        size = rng.choice([0, 0, 1, x.shape[axis] + 1, max(0, x.shape[axis] - 1)])
        shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
        x = torch.rand(shape).to(x.dtype)
    elif kind == "rank":
        x = x.unsqueeze(rng.randint(0, x.dim())) if rng.random() < 0.5 else x.flatten()
    elif kind == "huge" and x.numel():  # stride 0: no memory, whatever the size
        axis = rng.randrange(x.dim())
        shape = [*x.shape]
        shape[axis] = rng.choice([2**31, 2**32 + 1, 2**40, 2**50])
        if math.prod(shape) < 2**63:  # torch makes no larger one
            x = x.narrow(axis, 0, 1).expand(shape)
    elif kind == "meta":
        x = x.to("meta")
    elif kind == "sparse" and x.numel() < 10_000 and x.dtype in FLOATS:
        x = x.contiguous().to_sparse()
    elif kind == "values" and x.dtype in FLOATS:
        x = x * rng.choice([0.0, 1e-30, 1e30, float("nan"), float("inf"), -1.0])
    tensors[name] = x


def guarded(rng: random.Random, like: Tensor) -> tuple[Tensor, Tensor]:
    """An output of the shape of `like` inside a larger buffer: (the view, all of the buffer)."""
    buffer = torch.full((2 * like.numel() + 2 * GUARD,), 42.0).to(like.dtype)
    inner = buffer[GUARD : GUARD + like.numel()]
    kind = rng.choice(["contiguous", "channels_last", "every second"])
    if kind == "contiguous" or like.dim() != 4:
        return inner.view(like.shape), buffer
    n, c, h, w = like.shape
    if kind == "channels_last":
        return inner.view(n, h, w, c).permute(0, 3, 1, 2), buffer
    return buffer[GUARD : GUARD + 2 * like.numel() : 2].view(like.shape), buffer


def guards_hold(out: Tensor, buffer: Tensor) -> bool:
    """Whether nothing of the buffer but `out` has changed."""
    copy = buffer.clone()
    offset = out.storage_offset() - buffer.storage_offset()
    copy.as_strided(out.shape, out.stride(), offset).fill_(42.0)
    return bool((copy == 42.0).all())
