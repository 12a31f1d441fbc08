"""Convolutions that plans leave to oneDNN, on weights that are folded and packed once."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import planned, random_norm
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse import onednn
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites
from denoise_ext.engine.fuse.onednn import ACTIVATIONS

pytestmark = [pytest.mark.usefixtures("ours_is_faster"), pytest.mark.usefixtures("no_cache")]

_CALLS = {
    "none": lambda x: x, "relu": torch.relu, "gelu": F.gelu, "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "relu6": F.relu6,
}  # fmt: skip

_GEOMETRY = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups


@pytest.fixture
def no_cache(monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")


class Layer(nn.Module):
    """A convolution, batch norm, and a skip connection or none, before or after the activation."""

    def __init__(self, activation: str, skip: str, channels: int = 12, **options: int) -> None:
        super().__init__()
        kernel = options.pop("kernel", 3)
        options.setdefault("padding", kernel // 2 * options.get("dilation", 1))
        self.conv = nn.Conv2d(channels, channels, kernel, **options)
        self.norm, self.activation, self.skip = random_norm(channels), activation, skip

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        if self.skip == "before":
            y = other + y
        y = _CALLS[self.activation](y)
        return y + other if self.skip == "after" else y


def site_of(net: nn.Module, *args: Tensor) -> ConvSite:
    graph, own, _ = trace(net, "forward", args, {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    (site,) = [s for s in find_sites(graph, constants, "default") if isinstance(s, ConvSite)]
    return site


def layer_and_images(**options) -> tuple[Layer, Tensor, Tensor]:
    torch.manual_seed(0)
    net = Layer(**options).eval()
    x = torch.randn(2, net.conv.in_channels, 13, 10)
    return net, x, torch.randn_like(net.conv(x))


@pytest.mark.parametrize(
    ("activation", "skip"),
    [*((name, "none") for name in sorted(ACTIVATIONS)), ("none", "before"), ("relu", "before")],
)
@pytest.mark.parametrize("last", [False, True])
def test_within_rounding_of_float64(activation, skip, last, monkeypatch):
    """Sums of 108 terms: 2^-23 sqrt(124) 4 times their size, as `ConvSite.error_bound` has it."""
    net, x, other = layer_and_images(activation=activation, skip=skip)
    assert "onednn" in site_of(net, x, other).variants()
    monkeypatch.setattr(ConvSite, "variants", lambda _: ["onednn"])
    if last:
        x, other = (t.contiguous(memory_format=torch.channels_last) for t in (x, other))
    fast = denoise_ext.accelerate(net, (x, other))
    (row,) = [row for row in fast.report().rows if "conv" in row.site]
    assert planned(fast) and row.variant == "onednn" and row.error <= row.bound
    for size in ((13, 10), (5, 7), (1, 1)):
        image, added = torch.randn(1, 12, *size), torch.randn(1, 12, *size)
        with torch.no_grad():
            actual, plain = fast(image, added), net(image, added)
            exact = copy.deepcopy(net).double()(image.double(), added.double())
        assert actual.stride() == plain.stride()
        # Terms are at most 5 times 1/sqrt(108), scaled by norms below 3; other images up to 5.
        allowed = 4 * 2.0**-23 * 124**0.5 * 3 * (5 + 5)
        assert float((actual - exact).abs().max()) <= allowed


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 1}, {"stride": 2}, {"stride": 2, "kernel": 1}, {"dilation": 2}, {"groups": 3},
        {"kernel": 5, "padding": 1}, {"channels": 1}, {"kernel": 4, "stride": 3, "padding": 0},
    ],
    ids=str,
)  # fmt: skip
def test_every_geometry(options, monkeypatch):
    net, x, other = layer_and_images(activation="relu", skip="before", **options)
    monkeypatch.setattr(ConvSite, "variants", lambda _: ["onednn"])
    fast = denoise_ext.accelerate(net, (x, other))
    assert planned(fast), fast.report()
    with torch.no_grad():
        exact = copy.deepcopy(net).double()(x.double(), other.double())
        assert float((fast(x, other) - exact).abs().max()) <= 4 * 2.0**-23 * 316**0.5 * 3 * 10


@pytest.mark.parametrize(
    ("options", "dtype", "taken"),
    [
        ({}, torch.float32, True),
        ({"skip": "after"}, torch.float32, False),  # it adds before it activates
        ({"skip": "before"}, torch.float32, True),
        ({"skip": "before", "activation": "silu"}, torch.float32, False),  # after sums, ReLU alone
        ({"skip": "after", "activation": "none"}, torch.float32, True),
        ({"groups": 12}, torch.float32, False),  # depthwise
        ({}, torch.float64, False),
        ({}, torch.bfloat16, False),
    ],
)
def test_what_it_is_tried_for(options, dtype, taken):
    net, x, other = layer_and_images(**{"activation": "relu", "skip": "none", **options})
    site = site_of(net.to(dtype), x.to(dtype), other.to(dtype))
    assert ("onednn" in site.variants()) == taken


def test_changed_weights_are_packed_anew(monkeypatch):
    net, x, other = layer_and_images(activation="relu", skip="before")
    monkeypatch.setattr(ConvSite, "variants", lambda _: ["onednn"])
    fast = denoise_ext.accelerate(net, (x, other))
    assert planned(fast)
    with torch.no_grad():
        for tensor in [*net.parameters(), net.norm.running_mean, net.norm.running_var]:
            before = net(x, other)
            tensor.mul_(1.5)
            assert not torch.allclose(net(x, other), before, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(fast(x, other), net(x, other), rtol=1e-4, atol=1e-4)


def test_every_size_has_the_layout_that_it_asks_for():
    """On AVX-512, sides of 4 and 8 pixels ask for two layouts, and moving takes 60 times as long.

    Weights in one layout are one tensor.
    """
    net = nn.Conv2d(256, 1024, 1).eval()
    shared, taken, layouts = {}, set(), set()
    for side in (4, 8, 12, 16, 8, 4):
        x = torch.randn(1, 256, side, side)
        graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=True)
        constants = Constants(own, shared)
        constants.enter(graph)
        (site,) = [s for s in find_sites(graph, constants, "default") if isinstance(s, ConvSite)]
        packed = site.step("onednn", constants).args[2]
        wanted = onednn.PACK_CONVOLUTION(net.weight, *_GEOMETRY, x.shape)
        assert onednn.layout_of(packed) == onednn.layout_of(wanted)
        taken.add(id(packed))
        layouts.add(onednn.layout_of(packed))
    assert len(taken) == len(layouts)
    assert len(layouts) == len([key for key in shared if "onednn" in key])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("skip", ["none", "before"])
def test_nan_stays_nan(activation, skip):
    """oneDNN's own ReLU and hard sigmoid make it a number."""
    x = torch.full((1, 4, 6, 6), torch.nan)
    packed = onednn.PACK_CONVOLUTION(torch.rand(4, 4, 3, 3), [1, 1], [1, 1], [1, 1], 1, x.shape)
    other = torch.rand(1, 4, 6, 6) if skip == "before" else None
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    assert onednn.convolve(x, other, packed, None, geometry, activation).isnan().all()
    rows = torch.full((8, 16), torch.nan)
    packed = onednn.PACK_LINEAR(torch.rand(16, 16), 8)
    assert onednn.multiply(rows, packed, None, activation).isnan().all()
