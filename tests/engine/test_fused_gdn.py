"""Divisive normalisations that one call of an operator replaces."""

from __future__ import annotations

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.gdn import GdnSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites

C = 24


class Normalised(nn.Module):
    """``of(x, n)``, with n the weighted squares."""

    def __init__(self, of, squared=lambda x: x**2) -> None:
        super().__init__()
        self.of, self.squared = of, squared
        self.gamma = nn.Parameter(torch.rand(C, C) / C)
        self.beta = nn.Parameter(torch.rand(C) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.gamma.clamp_min(1e-6).reshape(C, C, 1, 1)
        return self.of(x, F.conv2d(self.squared(x), gamma, self.beta))


FORMS = {
    "CompressAI": (lambda x, n: x * torch.rsqrt(n), False),
    "CompressAI's inverse": (lambda x, n: x * torch.sqrt(n), True),
    "quotient": (lambda x, n: x / n.sqrt(), False),
    "other way round": (lambda x, n: n.rsqrt() * x, False),
}
OTHERS = {
    "another image": lambda x, n: x.sin() * n.rsqrt(),
    "root over image": lambda x, n: (n.sqrt() / x).clamp(-1, 1),
    "no root": lambda x, n: x * n,
    "logarithm": lambda x, n: x * n.log(),
}


def _net(layer: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, C, 5, 2, 2), layer, nn.ConvTranspose2d(C, 3, 5, 2, 2, 1)
    ).eval()  # fmt: skip


def _found(net: nn.Module, x: Tensor) -> list[GdnSite]:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    return [s for s in find_sites(graph, constants, "default") if isinstance(s, GdnSite)]


@pytest.mark.parametrize("squared", [lambda x: x**2, lambda x: x * x], ids=["power", "product"])
@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_forms(name, squared):
    torch.manual_seed(0)
    form, inverse = FORMS[name]
    net, x = _net(Normalised(form, squared)), torch.rand(2, 3, 24, 36)
    (site,) = _found(net, x)
    assert site.inverse is inverse
    plan = plan_of(net, x)
    names = [str(step.function) for step in plan.schedule.steps]
    assert len(names) == 3 and "gdn_out" in names[1], names
    torch.testing.assert_close(plan.run([x]), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_what_is_another_function(name):
    net, x = _net(Normalised(OTHERS[name])), torch.rand(1, 3, 24, 36)
    assert not _found(net, x)
    torch.testing.assert_close(plan_of(net, x).run([x]), net(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_negative_weights_are_left():
    """Their terms may cancel, and the sum's error is then no small part of it."""
    layer = Normalised(FORMS["quotient"][0])
    layer.beta[3] = -0.1
    assert not _found(_net(layer), torch.rand(1, 3, 24, 36))


@pytest.mark.usefixtures("ours_is_faster")
@torch.no_grad()
def test_accelerated():
    torch.manual_seed(0)
    net = _net(Normalised(FORMS["CompressAI"][0]))
    fast = denoise_ext.accelerate(net, torch.rand(1, 3, 32, 48))
    for size in [(32, 48), (20, 28)]:
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    (row,) = [row for row in fast.report().rows if row.site == f"gdn {C}"]
    assert row.variant == "one pass" and row.error <= row.bound
    with torch.no_grad():
        net[1].gamma.mul_(2.0)  # a changed weight is packed anew
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
