"""Attention that a forward writes out: against float64, in the forms that networks have."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.attention import AttentionSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites

C, HEADS, WINDOW = 24, 3, 4


class Windows(nn.Module):
    """Swin's: a bias for each pair of pixels in a window; masks where windows are shifted."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.qkv, self.shift = nn.Linear(C, 3 * C), shift
        self.bias = nn.Parameter(torch.randn(WINDOW**2, WINDOW**2, HEADS))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * (C // HEADS) ** -0.5) @ k.transpose(-2, -1)

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.permute(0, 2, 3, 1).roll((-self.shift, -self.shift), (1, 2))
        y = y.view(n, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c).transpose(2, 3)
        y = y.reshape(-1, WINDOW**2, c)
        q, k, v = self.qkv(y).view(len(y), -1, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        scores = self.scores(q, k) + self.bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if self.shift:
            scores = scores.view(n, len(y) // n, *scores.shape[1:]) + self.mask(h, w)
            scores = scores.view(-1, *scores.shape[2:])
        y = (self.weights(scores) @ v).transpose(1, 2).reshape(-1, WINDOW, WINDOW, c)
        y = y.view(n, h // WINDOW, w // WINDOW, WINDOW, WINDOW, c).transpose(2, 3)
        y = y.reshape(n, h, w, c).roll((self.shift, self.shift), (1, 2))
        return x + y.permute(0, 3, 1, 2)

    def mask(self, h: int, w: int) -> Tensor:
        """(1, windows, 1, pixels, pixels): -100 between pixels that the shift made neighbours."""
        parts = torch.zeros(h, w)
        parts[-self.shift :] += 1
        parts[:, -self.shift :] += 2
        parts = parts.view(h // WINDOW, WINDOW, w // WINDOW, WINDOW).transpose(1, 2)
        parts = parts.reshape(-1, WINDOW**2)
        return ((parts[:, None] != parts[:, :, None]) * -100.0)[None, :, None]


class Factor(Windows):
    """The product is scaled, not the queries."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)) * 0.3


class NegativeFactor(Windows):
    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)) * -0.3


class Cosine(Windows):
    """Swin V2's: of unit vectors."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)


class Scaled(Cosine):
    """Swin V2's, with a trained factor of each head, of either sign."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__(shift)
        self.scale = nn.Parameter(torch.randn(HEADS, 1, 1))

    def factors(self) -> Tensor:
        return self.scale.clamp(max=4.6).exp() * torch.tensor([1.0, -1.0, 1.0]).view(-1, 1, 1)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return self.factors() * super().scores(q, k)


class ScaledTwice(Scaled):
    """By a number, too."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(q, k) * 0.7


class ScaledAfter(Scaled):
    """The scores have their constants already."""

    def weights(self, scores: Tensor) -> Tensor:
        return (scores * self.factors()).softmax(-1)


class ScaledPairs(Scaled):
    """Each pair of pixels has a factor of its own."""

    def factors(self) -> Tensor:
        return self.bias.permute(2, 0, 1)


class ScaledQueries(Scaled):
    def factors(self) -> Tensor:
        return self.bias[:, 0].t().unsqueeze(-1)


class OverHeads(Windows):
    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(1)


class Seen(Windows):
    """The weights are read, too."""

    def weights(self, scores: Tensor) -> Tensor:
        weights = scores.softmax(-1)
        return weights * weights.amax()


class Turned(Windows):
    """The weights are of the keys, not of the queries."""

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1).transpose(-2, -1)


def _net(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, 3, padding=1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return nn.Sequential(first, layer, last).eval()


def _sites(net: nn.Module, x: Tensor, channels_last: bool = True) -> list[AttentionSite]:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=channels_last)
    constants = Constants(own, {})
    constants.enter(graph)
    sites = find_sites(graph, constants, "default")
    return [site for site in sites if isinstance(site, AttentionSite)]


def _compare(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double())
        actual, original = plan_of(net, x).run([x]), net(x)
    # Both are off by their own roundings.
    bound = 32 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    assert float((original.double() - expected).abs().max()) <= bound
    assert float((actual.double() - expected).abs().max()) <= bound


@pytest.mark.parametrize("size", [(8, 12), (4, 4), (16, 8)])
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("layer", [Windows, Factor, Cosine, Scaled, ScaledTwice])
def test_windows(layer, shift, size):
    net, x = _net(layer(shift)), torch.rand(1, 3, *size)
    (site,) = _sites(net, x)
    factor = {Windows: (C // HEADS) ** -0.5, Factor: 0.3, ScaledTwice: 0.7}.get(layer, 1.0)
    assert abs(site.factor - factor) < 1e-12 and len(site.added) == (2 if shift else 1)
    assert len(_sites(net, x, channels_last=False)) == 1
    _compare(net, x)


@pytest.mark.parametrize("shift", [0, 2])
def test_several_images(shift):
    """Masks of a batch would be repeated for each image: such attention is left."""
    net, x = _net(Windows(shift)), torch.rand(2, 3, 8, 12)
    assert len(_sites(net, x)) == (0 if shift else 1)
    _compare(net, x)


@pytest.mark.parametrize(
    "layer",
    [NegativeFactor, OverHeads, Seen, Turned, ScaledAfter, ScaledPairs, ScaledQueries],
)
def test_what_is_another_function(layer):
    net, x = _net(layer()), torch.rand(1, 3, 8, 12)
    assert not _sites(net, x)
    _compare(net, x)


@pytest.mark.usefixtures("ours_is_faster")
@pytest.mark.parametrize("layer", [Windows, Scaled])
def test_accelerated(layer):
    net, x = _net(layer(2)), torch.rand(1, 3, 16, 24)
    fast = denoise_ext.accelerate(net, x)
    (row,) = [row for row in fast.report().rows if row.site.startswith("attention")]
    assert row.variant == "by tiles" and row.error <= row.bound
    for size in ((16, 24), (8, 8), (24, 12)):
        y = torch.rand(1, 3, *size)
        for _ in range(3):
            with torch.no_grad():
                torch.testing.assert_close(fast(y), net(y), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        net[1].bias.mul_(-2.0)
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
