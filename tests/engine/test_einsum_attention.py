"""Attention written with einsum: against float64, in the forms that networks have."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from torch import Tensor, nn

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.einsum_attention import EinsumSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites

C, HEADS, WINDOW = 24, 3, 4
L = WINDOW**2


class ByWindow(nn.Module):
    """OmniSR's: windows, then heads; a bias of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C)
        self.bias = nn.Parameter(torch.randn(HEADS, L, L))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q * 0.3, k) + self.bias
        return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.unflatten(2, (-1, WINDOW)).unflatten(4, (-1, WINDOW)).permute(0, 2, 4, 3, 5, 1)
        y = self.out(self.attend(*self.qkv(y.reshape(-1, L, c)).chunk(3, -1)))
        y = y.view(n, h // WINDOW, w // WINDOW, WINDOW, WINDOW, c).permute(0, 5, 1, 3, 2, 4)
        return x + y.reshape(n, c, h, w)


class ByHead(ByWindow):
    """SCUNet's: heads, images, windows; the product is scaled."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(1, len(t), L, HEADS, -1).permute(3, 0, 1, 2, 4) for t in (q, k, v))
        scores = torch.einsum("hbwpc,hbwqc->hbwpq", q, k) * 0.3 + self.bias[:, None, None]
        y = torch.einsum("hbwij,hbwjc->hbwic", scores.softmax(-1), v)
        return y.permute(1, 2, 3, 0, 4).flatten(3)[0]


class OneHead(ByWindow):
    """Without a bias, of three dimensions."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bid,bjd->bij", q, k)
        return torch.einsum("bij,bjd->bid", scores.softmax(-1), v)


class Constants3(ByHead):
    """Two constants: one of heads, one of windows."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(1, len(t), L, HEADS, -1).permute(3, 0, 1, 2, 4) for t in (q, k, v))
        mask = -100.0 * (torch.arange(q.shape[2])[:, None, None] % 2 * torch.eye(L))
        scores = torch.einsum("hbwpc,hbwqc->hbwpq", q, k) + self.bias[:, None, None] + mask
        y = torch.einsum("hbwij,hbwjc->hbwic", scores.softmax(-1), v)
        return y.permute(1, 2, 3, 0, 4).flatten(3)[0]


FORMS = [ByWindow, ByHead, OneHead, Constants3]


class OverQueries(OneHead):
    """Weights that add up to 1 over the queries."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bid,bjd->bij", q, k)
        return torch.einsum("bij,bjd->bid", scores.softmax(1), v)


class Transposed(OneHead):
    """The weights of another query."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bid,bjd->bij", q, k)
        return torch.einsum("bij,bid->bjd", scores.softmax(-1), v)


class Turned(OneHead):
    """Scores are turned between product and softmax."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bid,bjd->bij", q, k).transpose(1, 2).contiguous()
        return torch.einsum("bij,bjd->bid", scores.softmax(-1), v)


class ReadTwice(OneHead):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.einsum("bid,bjd->bij", q, k).softmax(-1)
        return torch.einsum("bij,bjd->bid", weights, v) + weights.sum()


class Moving(OneHead):
    """What is added to the scores depends on the image."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bid,bjd->bij", q, k) + v.mean()
        return torch.einsum("bij,bjd->bid", scores.softmax(-1), v)


OTHERS = [OverQueries, Transposed, Turned, ReadTwice, Moving]


def _found(net: nn.Module, x: Tensor) -> list[EinsumSite]:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    return [s for s in find_sites(graph, constants, "default") if isinstance(s, EinsumSite)]


def _check(net: nn.Module, x: Tensor) -> None:
    exact = copy.deepcopy(net).double()(x.double())
    actual = plan_of(net, x).run([x])
    torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_forms(form):
    torch.manual_seed(0)
    net = form().eval()
    for n, height, width in [(1, 12, 20), (1, 4, 4)]:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(n, C, height, width).contiguous(memory_format=layout)
            (site,) = _found(net, x)
            assert site.key.shape[-2:] == (L, C if form is OneHead else C // HEADS)
            _check(net, x)


@pytest.mark.parametrize("form", OTHERS)
@torch.no_grad()
def test_what_is_another_function(form):
    torch.manual_seed(1)
    net, x = form().eval(), torch.randn(1, C, 8, 12)
    assert not _found(net, x)
    _check(net, x)


@torch.no_grad()
def test_nan_passes_through():
    torch.manual_seed(2)
    net, x = ByHead().eval(), torch.randn(1, C, 8, 12)
    x[0, 1, 5, 6] = torch.nan
    expected, actual = net(x), plan_of(net, x).run([x])
    assert torch.equal(expected.isnan(), actual.isnan())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.usefixtures("ours_is_faster")
@torch.no_grad()
def test_accelerated():
    torch.manual_seed(3)
    net = ByWindow().eval()
    fast = denoise_ext.accelerate(net, torch.randn(1, C, 16, 24), precision="strict")
    for size in [(16, 24), (8, 12)]:
        x = torch.randn(2, C, *size)
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    (row,) = [row for row in fast.report().rows if "einsum" in row.site]
    assert row.variant == "by tiles" and row.error <= row.bound
