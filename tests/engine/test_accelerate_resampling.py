"""Upsampling, concatenation and pooling taken into the convolution beside them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine import plan
from denoise_ext.engine.fuse.resampled import ResampledSite

pytestmark = pytest.mark.usefixtures("ours_is_faster")
RESAMPLED = torch.ops.denoise_ext.conv2d_resampled_out.default


class Net(nn.Module):
    """Two convolutions of 16 -> 16 and 32 -> 16 channels, and what a test does with them."""

    def __init__(self, body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


def half(x: Tensor) -> Tensor:
    return x[:, :, ::2, ::2]


def pool_and_read(m: Net, x: Tensor) -> Tensor:
    full = F.relu(m.a(x))
    return up(F.max_pool2d(full, 2)) * full


# What is computed, and the labels of the convolutions that take something in.
TAKEN = {
    "upsampled": (
        lambda m, x: m.a(up(half(x))).relu(), ["upsample + conv2d 3x3 16->16 + relu"]
    ),
    "upsampled by a size": (
        lambda m, x: m.a(F.interpolate(half(x), size=x.shape[2:])), ["upsample + conv2d 3x3 16->16"]
    ),
    "in front": (
        lambda m, x: m.b(torch.cat((up(half(x)), x), 1)), ["cat + upsample + conv2d 3x3 32->16"]
    ),
    "behind": (
        lambda m, x: m.b(torch.cat((x, up(half(x))), 1)), ["cat + upsample + conv2d 3x3 32->16"]
    ),
    "both upsampled": (
        lambda m, x: m.b(torch.cat((up(half(x)), up(half(x.exp()))), 1)),
        ["cat + upsample + conv2d 3x3 32->16"],
    ),
    "mirrored border": (
        lambda m, x: F.conv2d(
            F.pad(torch.cat((up(half(x)), x), 1), [1] * 4, mode="reflect"), m.b.weight
        ),
        ["cat + upsample + conv2d 3x3 32->16 + reflect"],
    ),
    "maxima": (
        lambda m, x: F.max_pool2d(m.a(x).relu(), 2), ["conv2d 3x3 16->16 + relu + max pool"]
    ),
    "means": (
        lambda m, x: F.avg_pool2d(m.a(x).tanh() + x, 2, 2),
        ["conv2d 3x3 16->16 + tanh + residual + average pool"],
    ),
    "pooled and read": (pool_and_read, ["conv2d 3x3 16->16 + relu + max pool"]),
    "all at once": (
        lambda m, x: F.max_pool2d(F.leaky_relu(m.b(torch.cat((x, up(half(x))), 1)), 0.1), 2),
        ["cat + upsample + conv2d 3x3 32->16 + leaky_relu + max pool"],
    ),
}  # fmt: skip


def read_before_pooled(m: Net, x: Tensor) -> Tensor:
    full = m.a(x)
    return full.exp().mean((2, 3), keepdim=True) + F.max_pool2d(full, 2)


def pooled_and_returned(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    full = m.a(x)
    return full, F.max_pool2d(full, 2)


def upsampled_and_returned(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    large = up(half(x))
    return large, m.a(large)


# What cannot be taken in: somebody else needs it, or it is something else.
LEFT = {
    "read before it is pooled": read_before_pooled,
    "pooled and returned": pooled_and_returned,
    "upsampled and returned": upsampled_and_returned,
    "three in a row": lambda m, x: m.b(torch.cat((up(half(x[:, :8])), x, x[:, :8]), 1)),
    "by three": lambda m, x: m.a(F.interpolate(half(x), scale_factor=3)),
    "by two and by one": lambda m, x: m.a(F.interpolate(half(x), scale_factor=(2, 1))),
    "not quite two": lambda m, x: m.a(F.interpolate(x, scale_factor=2.05)),
    "linear": lambda m, x: m.a(F.interpolate(half(x), scale_factor=2, mode="bilinear")),
    "pooled by three": lambda m, x: F.max_pool2d(m.a(x), 3),
    "overlapping": lambda m, x: F.max_pool2d(m.a(x), 2, 1),
    "padded pooling": lambda m, x: F.max_pool2d(m.a(x), 2, 2, 1),
    "dilated": lambda m, x: F.max_pool2d(m.a(x), 2, 2, 0, 2),
    "rounded up": lambda m, x: F.max_pool2d(m.a(x), 2, ceil_mode=True),
    "with indices": lambda m, x: F.max_pool2d(m.a(x), 2, return_indices=True),
    "divided by three": lambda m, x: F.avg_pool2d(m.a(x), 2, divisor_override=3),
    "along the images": lambda m, x: m.a(torch.cat((up(half(x)), x), 0)),
    "along the rows": lambda m, x: m.a(torch.cat((up(half(x)), x), 2)),
    "padded otherwise": lambda m, x: F.conv2d(up(half(x)), m.a.weight),
}


def compare(net: nn.Module, fast: nn.Module, x: Tensor) -> None:
    expected, actual = net(x), fast(x)
    if isinstance(expected, Tensor):
        expected, actual = (expected,), (actual,)
    for a, e in zip(actual, expected, strict=True):
        # Sums of 9 * 32 terms of a size around 1, by Winograd's algorithm.
        assert torch.allclose(a.double(), e.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TAKEN)
@torch.no_grad()
def test_is_taken_in(name):
    body, labels = TAKEN[name]
    net, x = Net(body).eval(), torch.randn(2, 16, 24, 40)
    fast = denoise_ext.accelerate(net, x)
    compare(net, fast, x)
    compare(net, fast, torch.randn(1, 16, 18, 22))  # another size, another plan
    sites = [row.site for row in fast.report().rows if row.variant == "winograd4"]
    assert [site for site in sites if "upsample" in site or "pool" in site] == labels
    if name not in ("both upsampled", "pooled and read"):  # which upsample once more
        others = [r for r in fast.report().rows if r.site in ("upsample_nearest2d", "cat of 2")]
        assert all(row.variant == "left out" for row in others)


@pytest.mark.parametrize("name", LEFT)
@torch.no_grad()
def test_is_left(name):
    net, x = Net(LEFT[name]).eval(), torch.randn(2, 16, 24, 40)
    fast = denoise_ext.accelerate(net, x)
    compare(net, fast, x)
    rows = fast.report().rows
    convolutions = [row.site for row in rows if "conv2d" in row.site]
    assert convolutions and not any("upsample" in s or "pool" in s for s in convolutions)
    assert any(row.variant == "plan" for row in rows)


@torch.no_grad()
def test_odd_sizes_drop_what_no_block_has():
    net, x = Net(TAKEN["maxima"][0]).eval(), torch.randn(1, 16, 13, 31)
    fast = denoise_ext.accelerate(net, x)
    assert fast(x).shape == (1, 16, 6, 15)
    compare(net, fast, x)


@torch.no_grad()
def test_strict_convolutions_take_nothing_in():
    net, x = Net(TAKEN["all at once"][0]).eval(), torch.randn(1, 16, 24, 40)
    fast = denoise_ext.accelerate(net, x, precision="strict")
    compare(net, fast, x)
    assert not any("pool" in r.site and "conv" in r.site for r in fast.report().rows)


@torch.no_grad()
def test_half_as_many_bits():
    net, x = Net(TAKEN["all at once"][0]).eval(), torch.randn(1, 16, 24, 40)
    fast = denoise_ext.accelerate(net, x, dtype=torch.bfloat16)
    expected = net(x)
    assert any(row.variant == "plan" for row in fast.report().rows)
    # Weights and images of 8 bits: three roundings of values around 1.
    assert float((fast(x) - expected).abs().max()) <= 3 * 2**-8 * float(expected.abs().max())


class RandomUNet(nn.Module):
    """Two to four levels; what is pooled, upsampled, joined and read once more is drawn."""

    def __init__(self, seed: int, channels: int) -> None:
        super().__init__()
        self.seed, self.convs = seed, nn.ModuleDict()
        self(torch.zeros(1, channels, 16, 16))  # makes its layers

    def conv(self, draw: random.Random, name: str, x: Tensor) -> Tensor:
        width = draw.choice([16, 24, 32])
        if name not in self.convs:
            self.convs[name] = nn.Conv2d(x.shape[1], width, 3, padding=1)
        return draw.choice([F.relu, torch.tanh, lambda y: y])(self.convs[name](x))

    def level(self, draw: random.Random, x: Tensor, depth: int) -> Tensor:
        full = self.conv(draw, f"in{depth}", x)
        if depth == 0:
            return full
        pool = draw.choice([F.max_pool2d, F.avg_pool2d])
        large = up(self.level(draw, pool(full, 2), depth - 1))
        other = draw.choice([full, full, x, None])
        if other is not None:
            large = torch.cat((large, other) if draw.random() < 0.5 else (other, large), 1)
        result = self.conv(draw, f"out{depth}", large)
        return result * full.mean() if draw.random() < 0.3 else result

    def forward(self, x: Tensor) -> Tensor:
        draw = random.Random(self.seed)  # the same network at every call
        return self.level(draw, x, draw.randint(1, 3))


@torch.no_grad()
def test_random_u_nets_equal_the_original_with_freed_memory_poisoned():
    steps = []
    for seed in range(60):
        torch.manual_seed(seed)
        net, x = RandomUNet(seed, 16).eval(), torch.randn(1 + seed % 2, 16, 24, 32)
        expected = net(x)
        plan = plan_of(net, x)
        steps += [step for step in plan.schedule.steps if step.function is RESAMPLED]
        for _ in range(2):  # the second run finds the first one's remains
            # Winograd's error in up to seven layers; a wrong or poisoned tensor is further off.
            scale = max(1.0, float(expected.abs().max()))
            assert torch.allclose(plan.run([x]), expected, rtol=1e-3, atol=1e-3 * scale)
    upsampled = [step for step in steps if step.args[0] is not None]
    counts = {
        "alone": sum(step.args[1] is None for step in upsampled),
        "before": sum(step.args[1] is not None for step in upsampled),
        "pooled": sum(step.args[-1] is not None and len(step.results) == 1 for step in steps),
        "pooled and read": sum(len(step.results) == 2 for step in steps),
    }
    assert min(counts.values()) >= 10, counts


class Skip(nn.Module):
    """A U-Net as it is written for any size: upsampled to the skip's size, and behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        e = F.relu(self.a(x))
        large = F.interpolate(self.a(F.max_pool2d(e, 2)), size=e.shape[2:])
        return self.b(torch.cat((e, large), 1))


@pytest.mark.parametrize("sizes", [(64, 65, 66, 64), (65, 64, 65, 96)])
@pytest.mark.parametrize("make", [denoise_ext.accelerate, lambda net, x: plan(net)])
@torch.no_grad()
def test_odd_and_even_sizes_keep_their_weights_apart(make, sizes):
    """An odd size is not doubled exactly: its convolution reads the concatenation as it is."""
    net = Skip().eval()
    fast = make(net, torch.randn(1, 16, sizes[0], sizes[0]))
    for size in sizes:
        compare(net, fast, torch.randn(1, 16, size, size))
    assert not [row for row in fast.report().rows if "off by" in row.reason]


@torch.no_grad()
def test_a_weight_shared_by_both_orders():
    def body(m: Net, x: Tensor) -> Tensor:
        y = half(x)
        plain = m.b(torch.cat((x, x.exp()), 1))
        return m.b(torch.cat((up(y), x), 1)) + m.b(torch.cat((x, up(y)), 1)) + plain

    net, x = Net(body).eval(), torch.randn(1, 16, 24, 40)
    for fast in (denoise_ext.accelerate(net, x), plan(net)):
        compare(net, fast, x)
    assert not [row for row in denoise_ext.accelerate(net, x).report().rows if "off" in row.reason]


@torch.no_grad()
def test_what_loses_together_is_tried_apart(monkeypatch):
    net, x = Net(TAKEN["all at once"][0]).eval(), torch.randn(1, 16, 24, 40)
    monkeypatch.setattr(ResampledSite, "error_bound", lambda *_: 0.0)
    fast = denoise_ext.accelerate(net, x)
    rows = {row.site: row for row in fast.report().rows}
    assert rows["conv2d 3x3 32->16 + leaky_relu"].variant == "winograd4"
    assert rows["upsample_nearest2d"].variant == rows["max_pool2d_with_indices"].variant
    assert rows["max_pool2d_with_indices"].variant == "planned memory"
    for size in ((24, 40), (10, 12)):
        compare(net, fast, torch.randn(2, 16, *size))


@torch.no_grad()
def test_a_padding_that_others_read_keeps_its_upsampling():
    def body(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(up(half(x)), [1] * 4, mode="reflect")
        return F.conv2d(padded, m.a.weight), padded.mean((2, 3))

    net, x = Net(body).eval(), torch.randn(1, 16, 24, 40)
    fast = denoise_ext.accelerate(net, x)
    compare(net, fast, x)
    assert not [row for row in fast.report().rows if row.variant == "left out"]


@torch.no_grad()
def test_an_empty_state_in_a_concatenation():
    net = WithState().eval()
    x, state = torch.randn(1, 16, 24, 40), torch.empty(0)
    fast = denoise_ext.accelerate(net, (x, state))
    assert torch.allclose(fast(x, state), net(x, state), atol=1e-4)


class WithState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return self.conv(torch.cat((up(half(x)), state), 1))
