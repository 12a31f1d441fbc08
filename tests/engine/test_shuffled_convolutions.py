"""Convolutions whose result is shuffled into a larger image, as networks for upscaling end."""

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
from denoise_ext.engine.fuse import shuffle
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites
from denoise_ext.engine.fuse.match_shuffle import ShuffledSite

pytestmark = [pytest.mark.usefixtures("ours_is_faster"), pytest.mark.usefixtures("no_cache")]


@pytest.fixture
def no_cache(monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")


def conv(channels: int, factor: int, kernel: int = 3, inputs: int = 16, **options) -> nn.Conv2d:
    options.setdefault("padding", kernel // 2)
    return nn.Conv2d(inputs, channels * factor**2, kernel, **options)


class Upscale(nn.Module):
    """A network made of layers; ``join(x, other, *layers)`` computes it."""

    def __init__(self, join, *layers: nn.Module) -> None:
        super().__init__()
        self.join, self.layers = join, nn.ModuleList(layers)

    def forward(self, x: Tensor, other: Tensor) -> object:
        return self.join(x, other, *self.layers)


def slopes(count: int) -> nn.PReLU:
    layer = nn.PReLU(count)
    nn.init.uniform_(layer.weight)
    return layer


def shuffled(factor: int, *after):
    """Convolution, other layers, shuffle, and what comes after, else a skip connection."""

    def join(x, other, first, *layers):
        y = first(x)
        for layer in layers[: len(layers) - len(after)]:
            y = layer(y)
        y = F.pixel_shuffle(y, factor)
        for layer in layers[len(layers) - len(after) :]:
            y = layer(y)
        return y if after else other + y

    return join


def plus(x, other, first):
    return other + F.pixel_shuffle(first(x), 2)


TAKEN = {  # the network, the factor, its channels
    "plain": (lambda: Upscale(shuffled(2), conv(5, 2)), 2, 5),
    "1x1": (lambda: Upscale(shuffled(2), conv(8, 2, 1)), 2, 8),
    "5x5": (lambda: Upscale(shuffled(2), conv(8, 2, 5)), 2, 8),
    "three": (lambda: Upscale(shuffled(3), conv(16, 3)), 3, 16),
    "four": (lambda: Upscale(shuffled(4), conv(3, 4)), 4, 3),
    "one channel": (lambda: Upscale(shuffled(2), conv(1, 2)), 2, 1),
    "no bias": (lambda: Upscale(shuffled(2), conv(4, 2, bias=False)), 2, 4),
    "mirrored": (lambda: Upscale(shuffled(2), conv(4, 2, padding_mode="reflect")), 2, 4),
    "dilated": (lambda: Upscale(shuffled(2), conv(4, 2, padding=2, dilation=2)), 2, 4),
    "batch norm": (lambda: Upscale(shuffled(2), conv(4, 2), random_norm(16), nn.ReLU()), 2, 4),
    "gelu before": (lambda: Upscale(shuffled(2), conv(4, 2), nn.GELU()), 2, 4),
    "gelu after": (lambda: Upscale(shuffled(2, 1), conv(4, 2), nn.GELU()), 2, 4),
    "prelu before": (lambda: Upscale(shuffled(2), conv(4, 2), slopes(16)), 2, 4),
    "prelu after": (lambda: Upscale(shuffled(2, 1), conv(4, 2), slopes(4)), 2, 4),
    "one slope": (lambda: Upscale(shuffled(2, 1), conv(4, 2), slopes(1)), 2, 4),
    "residual": (lambda: Upscale(plus, conv(4, 2)), 2, 4),
    "difference": (
        lambda: Upscale(lambda x, o, first: o - F.pixel_shuffle(first(x), 2), conv(4, 2)), 2, 4,
    ),
    "residual, then relu": (
        lambda: Upscale(lambda x, o, first: F.relu(plus(x, o, first)), conv(4, 2)), 2, 4,
    ),
    "relu, then residual": (
        lambda: Upscale(lambda x, o, first: plus(x, o, lambda y: F.relu(first(y))), conv(4, 2)),
        2, 4,
    ),
}  # fmt: skip


def sites(net: nn.Module, *args: Tensor) -> list[ShuffledSite]:
    graph, own, _ = trace(net, "forward", args, {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    found = find_sites(graph, constants, "fast")
    return [site for site in found if isinstance(site, ShuffledSite)]


def images(channels: int, factor: int, size: tuple[int, int] = (9, 13)) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    larger = [factor * n for n in size]
    return torch.randn(2, 16, *size), torch.randn(2, channels, *larger)


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("last", [False, True])
def test_within_rounding_of_float64(name, last, monkeypatch, isa):
    """Winograd F(6x6) multiplies rounding errors of 2^-23 by 114.2 (engine/fuse/conv.py)."""
    torch.manual_seed(0)
    build, factor, channels = TAKEN[name]
    net, args = build().eval(), images(channels, factor)
    if last:
        args = tuple(x.contiguous(memory_format=torch.channels_last) for x in args)
    (site,) = sites(net, *args)
    assert "pixel shuffle" in site.label and site.output.shape == args[1].shape
    for variant in site.variants():
        monkeypatch.setattr(ShuffledSite, "variants", lambda _, only=variant: [only])
        fast = denoise_ext.accelerate(net, args, precision="fast")
        assert planned(fast), fast.report()
        (row,) = [row for row in fast.report().rows if "shuffle" in row.site]
        assert row.variant == variant and row.error <= row.bound
        for size in ((9, 13), (4, 4), (1, 2)):
            if name == "mirrored" and 1 in size:
                continue
            given = images(channels, factor, size)
            with torch.no_grad():
                actual, plain = fast(*given), net(*given)
                exact = copy.deepcopy(net).double()(*(x.double() for x in given))
            assert actual.stride() == plain.stride()
            # 400 terms of at most 5 times 1/sqrt(144), norms below 3, and the other image.
            amplifications = {"winograd2": 3.0, "winograd4": 19.4, "winograd6": 114.2}
            amplification = amplifications.get(variant, 1.0)
            allowed = 4 * 2.0**-23 * 416**0.5 * amplification * 3 * (5 + 5)
            assert float((actual - exact).abs().max()) <= allowed


REFUSED = {
    "nothing after": lambda: Upscale(lambda x, o, f: F.pixel_shuffle(f(x), 2), conv(4, 2)),
    "read twice": lambda: Upscale(lambda x, o, f: (y := f(x), F.pixel_shuffle(y, 2)), conv(4, 2)),
    "residual before": lambda: Upscale(
        lambda x, o, f: F.pixel_shuffle(x + f(x), 2), conv(4, 2)
    ),
    "groups": lambda: Upscale(shuffled(2), conv(4, 2, groups=4)),
    "transposed": lambda: Upscale(shuffled(2), nn.ConvTranspose2d(16, 16, 3, 1, 1)),
    "smaller": lambda: Upscale(
        lambda x, o, f: F.pixel_unshuffle(f(F.pad(x, (0, 1, 0, 1))), 2), conv(4, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_shuffle(name):
    torch.manual_seed(0)
    net, args = REFUSED[name]().eval(), images(4, 2)
    assert not sites(net, *args)
    fast = denoise_ext.accelerate(net, args)
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), net(*args), rtol=1e-4, atol=1e-4)


def test_in_a_concatenation_and_as_a_residual():
    """The shuffled image lies apart from others; the other one may be channels of a larger one."""
    torch.manual_seed(0)

    def join(x, other, first, last):
        wide = torch.cat((plus(x, other[:, 1:], first), other), 1)
        return last(wide), wide

    net = Upscale(join, conv(4, 2), nn.Conv2d(9, 6, 3, padding=1)).eval()
    args = images(5, 2)
    assert len(sites(net, *args)) == 1
    fast = denoise_ext.accelerate(net, args)
    assert planned(fast), fast.report()
    with torch.no_grad():
        for actual, expected in zip(fast(*args), net(*args), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_slower_together_it_is_tried_apart(monkeypatch):
    torch.manual_seed(0)
    net, args = Upscale(shuffled(2), conv(4, 2)).eval(), images(4, 2)
    monkeypatch.setattr(ShuffledSite, "error_bound", lambda *_: 0.0)
    fast = denoise_ext.accelerate(net, args)
    labels = {row.site: row.variant for row in fast.report().rows}
    assert labels["conv2d 3x3 16->16"] != "original" and labels["pixel_shuffle"] != "original"
    with torch.no_grad():
        torch.testing.assert_close(fast(*args), net(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3])
def test_rows_and_channels_are_those_of_the_shuffle(factor):
    channels = 5 * factor**2
    x = torch.arange(2.0 * channels * 12).view(2, channels, 3, 4)
    larger = F.pixel_shuffle(x, factor).contiguous(memory_format=torch.channels_last)
    for row in range(factor):
        order = shuffle.channels_of(channels, factor, row)
        assert torch.equal(x[:, order], shuffle._rows(larger, factor, row))


def test_other_numbers():
    torch.manual_seed(0)
    for dtype, allowed in ((torch.float64, 1e-12), (torch.bfloat16, 0.1)):
        net, args = Upscale(plus, conv(4, 2)).eval().to(dtype), images(4, 2)
        args = tuple(x.to(dtype) for x in args)
        fast = denoise_ext.accelerate(net, args)
        with torch.no_grad():
            torch.testing.assert_close(fast(*args), net(*args), rtol=allowed, atol=allowed)
        assert planned(fast), fast.report()
