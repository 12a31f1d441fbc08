"""Products of the halves of a convolution's channels: one call."""

from __future__ import annotations

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse import onednn, verify
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites
from denoise_ext.engine.fuse.match_gate import GatedSite

C = 20


class Gated(nn.Module):
    """``product(first half, second half)`` of a convolution's channels, and a convolution."""

    def __init__(self, product, conv: nn.Conv2d, halves=lambda y: y.chunk(2, 1)) -> None:
        super().__init__()
        self.product, self.conv, self.halves = product, conv, halves
        self.enter, self.leave = nn.Conv2d(3, conv.in_channels, 1), nn.Conv2d(C, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.product(*self.halves(self.conv(self.enter(x)))))


def _depthwise(**more) -> nn.Conv2d:
    return nn.Conv2d(2 * C, 2 * C, 3, padding=1, groups=2 * C, **more)


FORMS = {
    "NAFNet": lambda a, b: a * b,
    "Restormer": lambda a, b: F.gelu(a) * b,
    "second half": lambda a, b: a * torch.sigmoid(b),
    "the other way round": lambda a, b: b * F.silu(a),
}
OTHERS = {
    "relu": lambda a, b: a.relu() * b,
    "sum": lambda a, b: a + b,
    "both activated": lambda a, b: a.sigmoid() * b.sigmoid(),
    "one half twice": lambda a, b: a * a,
    "a half read twice": lambda a, b: a * b + a,
    "an activation read twice": lambda a, b: a.sigmoid() * b * a.sigmoid().mean(),
    "one pixel": lambda a, b: a * b[:, :, :1, :1],
}
CONVOLUTIONS = {"1x1": lambda: nn.Conv2d(8, 2 * C, 1), "depthwise": _depthwise}
HALVES = {
    "split": lambda y: y.split(C, 1),
    "split with sizes": lambda y: y.split([C, C], 1),
    "slices": lambda y: (y[:, :C], y[:, C:]),
    "slices from the end": lambda y: (y[:, :-C], y[:, -C:]),
}


def _found(net: nn.Module, x: Tensor, precision: str = "default") -> list[GatedSite]:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    return [s for s in find_sites(graph, constants, precision) if isinstance(s, GatedSite)]


def _check(net: nn.Module, x: Tensor) -> None:
    exact = net.double()(x.double())
    actual = plan_of(net.float(), x).run([x])
    # Three convolutions of at most 40 terms: tolerances of their sums, not of what is observed.
    torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_forms(name, convolution):
    torch.manual_seed(0)
    net = Gated(FORMS[name], CONVOLUTIONS[convolution]()).eval()
    for layout in (torch.contiguous_format, torch.channels_last):
        for size in [(24, 36), (7, 5), (1, 1)]:
            x = torch.rand(2, 3, *size).contiguous(memory_format=layout)
            (site,) = _found(net, x)
            assert ("gelu gate" in site.label) is (name == "Restormer")
            names = [step.function.__module__ for step in plan_of(net, x).schedule.steps]
            assert sum("gate" in name for name in names) == 1 and len(names) == 3, names
            _check(net, x)


@pytest.mark.parametrize("name", HALVES)
@torch.no_grad()
def test_halves(name):
    torch.manual_seed(1)
    net, x = Gated(FORMS["Restormer"], _depthwise(), HALVES[name]).eval(), torch.rand(1, 3, 9, 11)
    (site,) = _found(net, x)
    assert site.gated_first
    _check(net, x)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_what_is_another_function(name):
    torch.manual_seed(2)
    net, x = Gated(OTHERS[name], _depthwise()).eval(), torch.rand(1, 3, 9, 11)
    assert not _found(net, x)
    _check(net, x)


@torch.no_grad()
def test_what_the_operator_does_not_compute():
    """Borders that are no zeros, 3x3 filters, unequal halves: convolutions as before."""
    x = torch.rand(1, 3, 9, 11)
    product = FORMS["NAFNet"]
    for conv in (_depthwise(padding_mode="reflect"), nn.Conv2d(8, 2 * C, 3, padding=1)):
        assert not _found(Gated(product, conv).eval(), x)
    net = Gated(product, nn.Conv2d(8, C + 1, 1), lambda y: (y[:, :C], y[:, C:])).eval()
    assert not _found(net, x)
    _check(net, x)


@torch.no_grad()
def test_nan_passes_through():
    torch.manual_seed(3)
    net = Gated(FORMS["Restormer"], _depthwise()).eval()
    x = torch.rand(1, 3, 12, 16)
    x[0, 1, 5, 6] = torch.nan
    expected, actual = net(x), plan_of(net, x).run([x])
    assert torch.equal(expected.isnan(), actual.isnan()) and actual.isnan().any()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@torch.no_grad()
def test_variants(monkeypatch):
    """oneDNN's convolution with a product after it contends, but not with strict sums."""
    torch.manual_seed(4)
    net, x = Gated(FORMS["NAFNet"], CONVOLUTIONS["1x1"]()).eval(), torch.rand(2, 3, 9, 11)
    assert _found(net, x, "strict")[0].variants() == ["gated"]
    if onednn.CONVOLUTION is None:
        return
    assert _found(net, x)[0].variants() == ["gated", "onednn"]
    monkeypatch.setattr(GatedSite, "variants", lambda site: ["onednn"])
    for form in FORMS.values():
        net = Gated(form, CONVOLUTIONS["1x1"]()).eval()
        names = [step.function.__name__ for step in plan_of(net, x).schedule.steps]
        assert "multiply_afterwards" in names
        _check(net, x)


@pytest.mark.usefixtures("ours_is_faster")
@pytest.mark.parametrize("precision", ["strict", "default"])
@torch.no_grad()
def test_accelerated(precision):
    torch.manual_seed(5)
    net = Gated(FORMS["Restormer"], _depthwise()).eval()
    fast = denoise_ext.accelerate(net, torch.rand(1, 3, 32, 48), precision=precision)
    for size in [(32, 48), (20, 28)]:
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    (row,) = [row for row in fast.report().rows if row.site.endswith("gate")]
    assert row.variant == "gated" and row.error <= row.bound
    net.conv.weight.mul_(2.0)  # a changed weight is taken anew
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_slower_together(monkeypatch):
    """A gate that is not faster is left, and its convolution is a site of its own."""

    def timed(calls):
        gated = len(calls) > 1 and "gate" in timed.label
        return [1.0, *[2.0 if gated else 0.5] * (len(calls) - 1)]

    def times(steps, site, *rest):
        timed.label = site.label
        return timed([None, *steps])

    timed.label = ""
    monkeypatch.setattr(verify, "_times", times)
    monkeypatch.setattr(verify, "settled", lambda calls: [1.0, *[0.5] * (len(calls) - 1)])
    net, x = Gated(FORMS["NAFNet"], _depthwise()).eval(), torch.rand(1, 3, 16, 16)
    fast = denoise_ext.accelerate(net, x)
    sites = [row.site for row in fast.report().rows if row.variant == "direct"]
    assert any("groups" in site for site in sites)
    assert not any("gate" in row.site for row in fast.report().rows)
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
