"""Copies that a forward makes for another order of memory: planned, or read through."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.fuse.copies import copy_as

C, WINDOW = 20, 4


class Between(nn.Module):
    """``laid_out(image)`` between two convolutions, and what it is added to."""

    def __init__(self, laid_out) -> None:
        super().__init__()
        self.laid_out = laid_out
        self.enter, self.leave = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.laid_out(self.enter(x)))


def _rows(x: Tensor) -> Tensor:
    """An image behind a normalisation of rows, as RetinexFormer makes it."""
    rows = F.layer_norm(x.permute(0, 2, 3, 1), (C,))
    return rows.permute(0, 3, 1, 2).contiguous()


def _tokens(x: Tensor) -> Tensor:
    """Uformer's: a list of pixels becomes an image again."""
    tokens = x.flatten(2).transpose(1, 2).sin()
    return tokens.transpose(1, 2).contiguous().view(x.shape)


def _windows(x: Tensor) -> Tensor:
    """Windows and back, as einops writes it."""
    n, c, h, w = x.shape
    y = x.view(n, c, h // WINDOW, WINDOW, w // WINDOW, WINDOW).permute(0, 2, 4, 3, 5, 1)
    y = F.layer_norm(y, (C,)).permute(0, 5, 1, 3, 2, 4)
    return y.reshape(n, c, h, w)


def _read_twice(x: Tensor) -> Tensor:
    """A convolution reads the copy, and so does a view that needs its order."""
    y = _rows(x)
    return y + y.view(-1, C // 2, 2, *x.shape[2:]).flip(2).reshape(x.shape)


def _joined(x: Tensor) -> Tensor:
    """Copies that are parts of a concatenation."""
    y = torch.cat([_tokens(x), x, _windows(x)], 1)
    return y[:, :C] + y[:, C : 2 * C] * y[:, 2 * C :]


def _other_rows(x: Tensor) -> Tensor:
    """Rows and columns exchanged: no image in channels_last to read instead."""
    return x.transpose(2, 3).contiguous().sin().transpose(2, 3).contiguous()


LAYOUTS = [_rows, _tokens, _windows, _read_twice, _joined, _other_rows]


def _check(net: nn.Module, x: Tensor) -> list[str]:
    """Compare with float64; memory is NaN but for what steps write.  Names of the steps."""
    plan = plan_of(net, x)
    exact = copy.deepcopy(net).double()(x.double())
    torch.testing.assert_close(plan.run([x]).double(), exact, rtol=1e-4, atol=1e-5)
    return [getattr(step.function, "__name__", "") for step in plan.schedule.steps]


@pytest.mark.parametrize("laid_out", LAYOUTS)
@torch.no_grad()
def test_layouts(laid_out):
    torch.manual_seed(0)
    net = Between(laid_out).eval()
    for n, height, width in [(1, 12, 20), (3, 4, 8), (1, 4, 4)]:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(n, 3, height, width).contiguous(memory_format=layout)
            names = _check(net, x)
            assert "clone.default" not in names, names


@torch.no_grad()
def test_convolutions_read_through_a_copy():
    torch.manual_seed(1)
    net, x = Between(_rows).eval(), torch.randn(1, 3, 12, 20)
    assert "copy_as" not in _check(net, x)
    assert "copy_as" in _check(Between(_tokens).eval(), x)  # of rows, which are no image


@torch.no_grad()
def test_a_view_keeps_its_memory():
    """`reshape` makes an alias whose schema does not say so: its memory must not be used again."""
    torch.manual_seed(2)

    def laid_out(x: Tensor) -> Tensor:
        turned = x.transpose(2, 3).reshape(*x.shape[:2], -1)  # a copy, then an alias
        later = (x.sin() * x.cos()).exp()
        return later + (turned @ turned.transpose(1, 2)).mean()

    _check(Between(laid_out).eval(), torch.randn(1, 3, 12, 20))


def test_copy_as():
    """To any memory, also where the source's dimensions are none of it."""
    image = torch.arange(2 * 6 * 4 * 8.0).view(2, 6, 4, 8)
    for shape in [(2, 6, 32), (2, 6, 2, 2, 4, 2), (12, 4, 8), (384,)]:
        for out in (torch.full((2, 6, 4, 8), torch.nan), torch.full((2, 9, 4, 8), torch.nan)):
            for layout in (torch.contiguous_format, torch.channels_last):
                target = out.clone(memory_format=layout)[:, :6]
                copy_as(image.reshape(shape), target)
                assert torch.equal(target, image)


@pytest.mark.usefixtures("ours_is_faster")
@pytest.mark.parametrize("laid_out", LAYOUTS)
@torch.no_grad()
def test_accelerated(laid_out):
    torch.manual_seed(3)
    net = Between(laid_out).eval()
    fast = denoise_ext.accelerate(net, torch.randn(1, 3, 16, 24), precision="strict")
    for size in [(16, 24), (8, 12)]:
        x = torch.randn(2, 3, *size)
        x[0, 1, 2, 3] = torch.nan
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5, equal_nan=True)
