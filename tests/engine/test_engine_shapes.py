"""engine.shapes: results on tensors without data have the strides that the CPU's operators give."""

from __future__ import annotations

import itertools

import pytest
import torch
from engine_tools import strides_that_matter

from denoise_ext.engine.capture.shapes import result_of

aten = torch.ops.aten
SHAPES = [(1, 1, 8, 6), (1, 3, 5, 7), (2, 4, 6, 5), (1, 8, 1, 9), (3, 1, 4, 1), (2, 5, 1, 1)]
CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last


def tensor(shape: tuple[int, ...], layout: torch.memory_format | str) -> torch.Tensor:
    if layout == "transposed":  # dense in neither layout
        n, c, h, w = shape
        return torch.rand(n, c, w, h).transpose(2, 3)
    return torch.rand(shape).contiguous(memory_format=layout)


def as_meta(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


LAYOUTS = [CONTIGUOUS, CHANNELS_LAST, "transposed"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("func", [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor], ids=str)
def test_two_tensors(func, shape):
    for layouts in itertools.product(LAYOUTS, LAYOUTS):
        tensors = [tensor(shape, layout) for layout in layouts]
        got = result_of(func, tuple(as_meta(x) for x in tensors), {})
        real = func(*tensors)
        assert got.shape == real.shape
        assert strides_that_matter(got) == strides_that_matter(real), layouts


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS[:2], repeat=3)), ids=str)
def test_join(shape, layouts):
    n, _, h, w = shape
    tensors = [tensor((n, 1 + i, h, w), layout) for i, layout in enumerate(layouts)]
    got = result_of(aten.cat.default, ([as_meta(x) for x in tensors], 1), {})
    real = torch.cat(tensors, 1)
    assert got.shape == real.shape
    assert strides_that_matter(got) == strides_that_matter(real)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("func", [aten.relu.default, aten.sigmoid.default], ids=str)
def test_one_tensor(func, shape):
    for layout in LAYOUTS:
        x = tensor(shape, layout)
        got = result_of(func, (as_meta(x),), {})
        assert strides_that_matter(got) == strides_that_matter(func(x)), layout


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 4, 6, 8), (2, 12, 4, 2), (1, 1, 8, 6), (3, 8, 2, 2)], ids=str
)
def test_shuffles_and_pools(shape, layout):
    x = tensor(shape, layout)
    calls = [(aten.pixel_unshuffle.default, (2,)), (aten.avg_pool2d.default, ([2, 2],))]
    calls += [(aten.avg_pool2d.default, ([2, 2], [1, 2], [1, 1], False, True, None))]
    pads = (aten.reflection_pad2d.default, aten.replication_pad2d.default)
    calls += [(pad, ([1, 0, 0, 1],)) for pad in pads]
    calls += [(aten.pixel_shuffle.default, (2,))] if shape[1] % 4 == 0 else []
    for func, rest in calls:
        real, got = func(x, *rest), result_of(func, (as_meta(x), *rest), {})
        assert got.shape == real.shape and got.dtype == real.dtype
        assert strides_that_matter(got) == strides_that_matter(real), func


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("func", [aten.reflection_pad2d.default, aten.replication_pad2d.default])
def test_pads_add_and_take_away(func, layout):
    for shape in ((1, 4, 6, 8), (2, 3, 5, 1), (1, 1, 4, 7)):
        x = tensor(shape, layout)
        for padding in itertools.product([-2, -1, 0, 1], repeat=4):
            try:
                real = func(x, padding)
            except RuntimeError:
                with pytest.raises(RuntimeError):
                    result_of(func, (as_meta(x), padding), {})
                continue
            got = result_of(func, (as_meta(x), padding), {})
            assert got.shape == real.shape and got.dtype == real.dtype
            if real.numel():
                assert strides_that_matter(got) == strides_that_matter(real), padding


def test_layer_norm():
    for x in (tensor((2, 4, 6, 8), layout) for layout in LAYOUTS):
        weight = torch.rand(8)
        real = aten.native_layer_norm.default(x, [8], weight, weight, 1e-6)
        arguments = (as_meta(x), [8], as_meta(weight), as_meta(weight), 1e-6)
        got = result_of(aten.native_layer_norm.default, arguments, {})
        for a, b in zip(got, real, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            assert strides_that_matter(a) == strides_that_matter(b)


@pytest.mark.parametrize("wrong", [(1, 3, 6, 8), (1, 4, 5, 8)], ids=str)
def test_wrong_shuffles_are_worded_by_pytorch(wrong):
    x = as_meta(tensor(wrong, CONTIGUOUS))
    func = aten.pixel_shuffle.default if wrong[1] == 3 else aten.pixel_unshuffle.default
    with pytest.raises(RuntimeError):
        result_of(func, (x, 2), {})
