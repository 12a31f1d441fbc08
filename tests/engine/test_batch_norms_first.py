"""Networks that normalise before they convolve, and concatenate all that came before."""

from __future__ import annotations

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of, random_norm
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.affine import AffineSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites
from denoise_ext.engine.run.schedule import _copy

C = 16


class Dense(nn.Module):
    """DenseNet: each layer reads all that came before; ``order`` of the parts."""

    def __init__(self, layers: int = 3, order: int = 1, act=F.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.order, self.act = nn.Conv2d(3, C, 3, padding=1), order, act
        self.norms = nn.ModuleList(random_norm(C + 8 * i) for i in range(1, layers + 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(C + 8 * i, 8, 3, padding=1) for i in range(layers)
        )  # fmt: skip
        self.last = nn.Conv2d(C + 8 * layers, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for i, conv in enumerate(self.convs):
            before = torch.cat(parts[:: self.order], 1) if i else parts[0]
            y = self.act(self.norms[i - 1](before)) if i else before
            parts.append(conv(y))
        return self.last(self.act(self.norms[-1](torch.cat(parts[:: self.order], 1))))


def _sites(net: nn.Module, x: Tensor) -> tuple[list[AffineSite], Constants]:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    found = find_sites(graph, constants, "default")
    return [site for site in found if isinstance(site, AffineSite)], constants


def _copies(net: nn.Module, x: Tensor) -> int:
    return sum(step.function is _copy for step in plan_of(net, x).schedule.steps)


ACTIVATIONS = {
    "none": lambda x: x, "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "silu": F.silu, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_within_the_bound_of_float64(name, affine, dtype):
    torch.manual_seed(1)
    norm = random_norm(C) if affine else nn.BatchNorm2d(C, affine=False).eval()
    act = ACTIVATIONS[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            return act(self.norm(x)) * 2

    net = Net().to(dtype).eval()
    for shape in [(1, C, 1, 1), (2, C, 7, 9), (1, C, 33, 40)]:
        x = torch.randn(shape, dtype=dtype)
        (site,), constants = _sites(net, x)
        assert site.activation == name
        step = site.step("folded", constants)
        values = {site.input: x, site.output: act(norm.to(dtype)(x)).detach()}
        exact = act(norm.double()(x.double())).detach()
        norm.to(dtype)

        def env(value, values=values, constants=constants):
            return values[value] if value in values else constants[value]

        bound = site.error_bound("folded", env)
        wide = torch.full((shape[0], 3 * C, *shape[2:]), torch.nan, dtype=dtype)
        wide = wide.contiguous(memory_format=torch.channels_last)
        for image in (x, x.contiguous(memory_format=torch.channels_last)):
            for out in (torch.full_like(x, torch.nan), wide[:, C : 2 * C]):
                filled = step.filled([out])
                filled.function(image, *filled.args[1:])
                error = (out.double() - exact).square().mean().sqrt()
                assert error <= bound and bound < 1e-4
        assert wide[:, :C].isnan().all() and wide[:, 2 * C :].isnan().all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays(name, ours_is_faster):
    act = ACTIVATIONS[name]
    net = Dense(act=act).eval()
    x = torch.rand(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    assert any(row.site.startswith("batch norm") for row in fast.report().rows)
    x[0, 1, 4, 5] = torch.nan
    with torch.no_grad():
        wanted, actual = net(x), fast(x)
    assert torch.equal(wanted.isnan(), actual.isnan()) or actual.isnan()[wanted.isnan()].all()
    assert actual.isnan().any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("precision", ["strict", "default"])
@pytest.mark.parametrize("size", [(8, 8), (13, 21)])
def test_dense_networks(size, precision, layout, ours_is_faster):
    net = Dense().eval()
    x = torch.rand(2, 3, *size).contiguous(memory_format=layout)
    fast = denoise_ext.accelerate(net, x, precision=precision)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    labels = {row.site: row.variant for row in fast.report().rows}
    assert labels["batch norm 32 + relu"] == "folded"


def test_concatenations_share_their_parts():
    """Each part is written once: in place, or by the first of the copies."""
    x = torch.rand(1, 3, 12, 20)
    net = Dense(layers=4).eval()
    plan = plan_of(net, x)
    assert not [step for step in plan.schedule.steps if step.function is _copy]
    with torch.no_grad():
        torch.testing.assert_close(plan.run([x]), net(x), rtol=1e-4, atol=1e-4)
    assert _copies(Dense(layers=4, order=-1).eval(), x) == 0  # new parts first


class Shared(nn.Module):
    """Concatenations of one another's parts, and readers of some of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, 3, padding=1) for _ in range(3))
        widths = (24, 24) if kind == "repeated" else (16, 24)
        self.ends = nn.ModuleList(nn.Conv2d(n, 4, 3, padding=1) for n in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b, c = (conv(x) for conv in self.convs)
        if self.kind == "pooled":  # an operator that writes no slice makes a part
            a = F.max_pool2d(a, 3, 1, 1)
        firsts = {"repeated": [a, b, a], "other order": [b, a], "behind": [b, c]}
        first = torch.cat(firsts.get(self.kind, [a, b]), 1)
        results = [self.ends[0](first)]  # before the second one is made
        second = torch.cat([a, b, c], 1)
        results.append(self.ends[1](second))
        if self.kind == "returned":
            results += [first, second]
        if self.kind == "dense reader":
            results.append(torch.fft.rfft2(first).abs())
        if self.kind == "changed":  # what is read later must not be what was written since
            results.append(self.ends[0](first + 1) + self.ends[0](first))
        return tuple(results)


COPIES = {
    "before": 0, "behind": 0, "pooled": 1, "repeated": 3, "other order": 2, "returned": 2,
    "dense reader": 2, "changed": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", COPIES)
def test_what_concatenations_share(kind):
    x = torch.rand(2, 3, 10, 14)
    net = Shared(kind).eval()
    plan = plan_of(net, x)
    with torch.no_grad():
        wanted = net(x)
    for _ in range(2):  # freed memory is filled with NaN
        for actual, expected in zip(plan.run([x]), wanted, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert _copies(net, x) == COPIES[kind]


class Overlapping(nn.Module):
    """Concatenations of some of the same parts; no operator of the plan writes a part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ends = nn.ModuleList(nn.Conv2d(n, 4, 3, padding=1) for n in (16, 16, 24, 32))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        parts = ([a, b], [b, c], [a, b, c], [b, c, a, b])
        return tuple(end(torch.cat(p, 1)) for end, p in zip(self.ends, parts, strict=True))


def test_the_first_copy_of_all_is_kept():
    """The last concatenation's part may be copied for the second one: too late for the first."""
    net, inputs = Overlapping().eval(), [torch.rand(1, 8, 10, 14) for _ in range(3)]
    plan = plan_of(net, *inputs)
    with torch.no_grad():
        wanted = net(*inputs)
    for actual, expected in zip(plan.run(inputs), wanted, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
