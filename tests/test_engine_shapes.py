"""engine.shapes: results on tensors without data have the strides that the CPU's operators give."""

from __future__ import annotations

import itertools

import pytest
import torch

from denoise_ext.engine.shapes import result_of

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


def strides_that_matter(x: torch.Tensor) -> list[int]:
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


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
