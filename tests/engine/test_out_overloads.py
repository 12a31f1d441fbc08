"""Operators that write into given memory: every stride of what they read and write."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value
from denoise_ext.engine.fuse import match
from denoise_ext.engine.fuse.ir import call_step

aten = torch.ops.aten
SHAPE = (2, 4, 6, 8)


def _slice(whole: tuple[int, ...], last: bool, at: tuple) -> Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(whole, memory_format=layout)[at]


def layouts(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors of ``shape``: dense, channels of others, and cut out of larger images."""
    n, c, h, w = shape
    channels, pixels = (slice(None), slice(1, c + 1)), (..., slice(1, h + 1), slice(2, w + 2))
    result = {"transposed": torch.empty(n, c, w, h).transpose(2, 3)}
    for name, last in (("NCHW", False), ("NHWC", True)):
        result[name] = _slice(shape, last, (...,))
        result[f"channels of {name}"] = _slice((n, c + 3, h, w), last, channels)
        result[f"cut out of {name}"] = _slice((n, c, h + 2, w + 3), last, pixels)
    return result


UNARY = [
    (aten.relu.default, (), {}), (aten.sigmoid.default, (), {}), (aten.tanh.default, (), {}),
    (aten.leaky_relu.default, (0.2,), {}), (aten.silu.default, (), {}),
    (aten.gelu.default, (), {}), (aten.gelu.default, (), {"approximate": "tanh"}),
    (aten.abs.default, (), {}), (aten.clamp.default, (-0.5, 0.5), {}),
    (aten.neg.default, (), {}), (aten.exp.default, (), {}), (aten.pow.Tensor_Scalar, (2,), {}),
    (aten.sqrt.default, (), {}), (aten.rsqrt.default, (), {}),
    (aten.hardtanh.default, (-0.5, 0.5), {}), (aten.hardswish.default, (), {}),
    (aten.hardsigmoid.default, (), {}), (aten.elu.default, (0.7,), {}),
    (aten.mish.default, (), {}), (aten.softplus.default, (), {}),
    (aten.clamp_min.default, (0.1,), {}), (aten.clamp_max.default, (0.1,), {}),
]  # fmt: skip
BINARY = [
    (aten.add.Tensor, (), {}), (aten.sub.Tensor, (), {}), (aten.mul.Tensor, (), {}),
    (aten.div.Tensor, (), {}), (aten.maximum.default, (), {}), (aten.minimum.default, (), {}),
]  # fmt: skip
REDUCING = [(op, ([1], True), {}) for op in (aten.mean.dim, aten.sum.dim_IntList)]
# These write dense memory alone.
RESAMPLING = [
    (aten.upsample_nearest2d.default, ([12, 16],), {}),
    (aten.upsample_nearest2d.default, ([9, 12],), {}),
    (aten.upsample_bilinear2d.default, ([12, 16], False), {}),
    (aten.avg_pool2d.default, ([2, 2],), {}),
    (aten.max_pool2d_with_indices.default, ([2, 2],), {}),
    (aten.pixel_shuffle.default, (2,), {}), (aten.pixel_unshuffle.default, (2,), {}),
]  # fmt: skip
ALL = [(1, *case) for case in UNARY + REDUCING + RESAMPLING] + [(2, *case) for case in BINARY]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("count", "op", "rest", "kwargs"), ALL, ids=lambda v: str(v))
def test_every_layout(count, op, rest, kwargs, dtype):
    for combination in itertools.product(layouts(SHAPE).values(), repeat=count):
        inputs = [_numbers(like, dtype) for like in combination]
        expected = op(*inputs, *rest, **kwargs)
        first = expected[0] if isinstance(expected, tuple) else expected
        values = [_value(x) for x in inputs]
        results = [_value(x) for x in (expected if isinstance(expected, tuple) else [expected])]
        single = len(results) == 1
        node = Node(op, (*values, *rest), kwargs, results, single)
        Graph(values, [], [], [node], results[:1], None).finish()
        step = match._planned_step(node, results[0])
        if step is None:
            continue
        for like in layouts(tuple(first.shape)).values():
            if not step.any_output and not _is_dense(like):
                continue
            outs = [_nan(like, first.dtype)]
            outs += [torch.empty_like(x) for x in (expected if not single else [])[1:]]
            address = outs[0].data_ptr()
            call_step(step.filled(outs), dict(zip(values, inputs, strict=True)).__getitem__)
            assert outs[0].data_ptr() == address
            # The same operation on each element; vectors begin elsewhere: an ulp or two.
            tolerance = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(
                outs[0], first, rtol=tolerance, atol=tolerance, equal_nan=True
            )  # NaN: the root of a negative number


def test_all_of_them_are_tested():
    tested = {op for _, op, *_ in ALL}
    tables = (match._POINTWISE, match._REDUCING, match._DENSE)
    assert {op for table in tables for op in table} <= tested


def _numbers(like: Tensor, dtype: torch.dtype) -> Tensor:
    x = torch.empty_strided(like.shape, like.stride(), dtype=dtype)
    return x.copy_(torch.randn(like.shape, generator=torch.Generator().manual_seed(0)))


def _nan(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(like.shape, like.stride(), dtype=dtype).fill_(torch.nan)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def _value(x: Tensor) -> Value:
    return Value.of(x, torch.device("cpu"))
