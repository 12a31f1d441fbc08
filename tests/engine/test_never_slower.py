"""``accelerate``: what is tried, given up and remembered, with a clock that is set."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import is_site, planned, set_times, small_net, timed
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.fuse import verify


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")


class Clock:
    """Times of what is compared: [original, ours], by who asks; a clock that each look advances."""

    def __init__(self, monkeypatch, step: float = 0.0) -> None:
        self.site, self.whole, self.now, self.step = [2.0, 1.0], [2.0, 1.0], 0.0, step
        set_times(monkeypatch, self.interleaved)
        monkeypatch.setattr(verify, "clock", self.look)

    def interleaved(self, calls) -> list[float]:
        # A site's calls are made in `verify`; a plan's and a model's elsewhere.
        return self.site if is_site(calls) else timed(*self.whole, calls)

    def look(self) -> float:
        self.now += self.step
        return self.now


def packed_kinds(fast) -> set[str]:
    """What the region of the whole keeps of weights in other forms."""
    region = fast._shim._engine_state.regions["forward"]
    return {kind for kind, *_ in region._packed.packed}


class Counting(nn.Module):
    """Its forward writes to an attribute: it runs itself, on parts."""

    def __init__(self, parts: int = 2) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(parts))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for part in self.parts:
            x = part(x).relu()
        return x


def test_parts_are_timed_together(monkeypatch):
    clock = Clock(monkeypatch)
    times = iter([[2.0, 1.0], [2.0, 1.0], [3.0, 4.0]])  # two parts, then both
    set_times(
        monkeypatch, lambda c: clock.site if is_site(c) else timed(*next(times), c)
    )  # fmt: skip
    model, x = Counting().eval(), torch.randn(1, 3, 8, 8)
    fast = denoise_ext.accelerate(model, x)
    last = fast.report().rows[-1]
    assert (last.variant, last.original_ms, last.ours_ms) == ("original", 3.0, 4.0)
    assert "not faster together" in last.reason and model.calls == 1
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


def test_timing_parts_leaves_the_model_alone(monkeypatch):
    Clock(monkeypatch)
    calls = []
    set_times(
        monkeypatch,
        lambda c: calls.extend(call() for call in c) or timed(2.0, 1.0, c),
    )
    model, x = Counting().eval(), torch.randn(1, 3, 8, 8)
    state = torch.get_rng_state()
    fast = denoise_ext.accelerate(model, x)
    assert model.calls == 1 and torch.equal(state, torch.get_rng_state())
    row = fast.report().rows[-1]
    assert (row.variant, row.decided, row.speedup) == ("its parts' plans", "timed", 2.0)
    # The last two: the reference, and the same with the parts replaced.
    torch.testing.assert_close(calls[-1], calls[-2], rtol=1e-4, atol=1e-5)


def test_a_whole_that_is_not_faster_tries_its_parts(monkeypatch):
    clock = Clock(monkeypatch)
    # The whole in channels_last, in its own layout; then parts and the parts together.
    times = iter([[1.0, 2.0], [1.0, 3.0], *[[2.0, 1.0]] * 4, [3.0, 1.0]])
    set_times(
        monkeypatch, lambda c: clock.site if is_site(c) else timed(*next(times), c)
    )  # fmt: skip
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    rows = fast.report().rows
    whole = next(r for r in rows if r.site == "Sequential" and not r.module)
    assert (whole.variant, whole.ours_ms) == ("original", 3.0)
    assert [r.module for r in rows if r.variant == "plan"] == ["0", "2", "3", "5"]
    assert rows[-1].variant == "its parts' plans" and rows[-1].ours_ms == 1.0
    assert not packed_kinds(fast)  # the whole does not keep weights that its parts have packed
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_plan_in_the_layout_of_the_arguments(monkeypatch):
    clock = Clock(monkeypatch)
    times = iter([[1.0, 2.0], [2.0, 1.0]])
    set_times(
        monkeypatch, lambda c: clock.site if is_site(c) else timed(*next(times), c)
    )  # fmt: skip
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.InstanceNorm2d(16), nn.ReLU()).eval()
    fast = denoise_ext.accelerate(net, torch.randn(1, 3, 12, 12))
    assert planned(fast) and len(fast.report().rows) == len({r.site for r in fast.report().rows})
    with torch.no_grad():
        for x in (torch.randn(1, 3, 12, 12), torch.randn(2, 3, 9, 7)):
            torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("site", "times", "kept"),
    [  # the original, PyTorch's own operators in a plan, ours
        ([2.0, 1.0], [3.0, 2.0, 1.0], "ours"),
        ([2.0, 1.0], [3.0, 1.0, 2.0], "plain"),
        ([2.0, 1.0], [3.0, 1.0, 4.0], "plain"),
        ([2.0, 1.0], [1.0, 2.0, 3.0], "original"),
        ([2.0, 1.0], [1.0, 3.0, 2.0], "original"),
        ([1.0, 2.0], [3.0, 2.0], "plain"),  # no site is faster: there is no plan of ours
        ([1.0, 2.0], [2.0, 3.0], "original"),
        ([1.0, 2.0], [1.01, 1.0], "original"),  # not by enough to be sure
    ],
)  # fmt: skip
def test_the_fastest_of_three_is_kept(monkeypatch, site, times, kept):
    """`accelerate` ends at the original, PyTorch's operators in channels_last, or ours."""

    def interleaved(calls):
        if is_site(calls):
            return site
        # Parts, and plans in the other layout, are slower.
        return times if len(calls) == len(times) else [1.0, *[2.0] * (len(calls) - 1)]

    set_times(monkeypatch, interleaved)
    net, x = small_net(), torch.randn(1, 3, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    whole = [row for row in fast.report().rows if row.site == "Sequential" and not row.module]
    sites = {row.variant for row in fast.report().rows if row.site.startswith("conv")}
    assert whole[-1].variant == ("original" if kept == "original" else "plan")
    assert (fast._shim is None) == (kept == "original")
    if kept == "plain":
        assert "PyTorch's own" in whole[-1].reason and sites == {"original"}
        assert (whole[-1].original_ms, whole[-1].ours_ms) == (times[0], times[1])
    if kept == "ours":
        assert not whole[-1].reason and "original" not in sites
    with torch.no_grad():
        for y in (x, torch.randn(2, 3, 30, 22)):
            torch.testing.assert_close(fast(y), net(y), rtol=1e-4, atol=1e-5)
    if kept == "ours":
        assert packed_kinds(fast) >= {"packed", "folded"}
    if kept == "plain":
        assert packed_kinds(fast).isdisjoint({"packed", "folded"})


def test_sites_with_one_name_are_decided_one_by_one(monkeypatch):
    """Normalisations have no name of their own: the first is faster here, the second is not."""
    Clock(monkeypatch)
    norms = iter([[2.0, 1.0], [1.0, 2.0]])

    def interleaved(calls):
        return next(norms) if is_site(calls) else timed(2.0, 1.0, calls)

    set_times(monkeypatch, interleaved)
    net = nn.Sequential(nn.GroupNorm(2, 16), nn.MaxPool2d(2), nn.GroupNorm(2, 16)).eval()
    x = torch.randn(1, 16, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    region = fast._shim._engine_state.regions["forward"]
    with torch.no_grad():
        for y in (x, torch.randn(1, 16, 40, 40)):
            torch.testing.assert_close(fast(y), net(y), rtol=1e-4, atol=1e-5)
    assert len(region._entries) == 2
    for entry in region._entries.values():
        names = [str(step.function) for step in entry.plan.schedule.steps]
        assert sum("group_norm_out" in n for n in names) == 1
        assert sum("native_group_norm" in n for n in names) == 1


class OneOrTwo(nn.Module):
    """Large images have a convolution more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if x.shape[-1] > 10 else x


def test_a_size_without_what_is_faster_is_no_rule(monkeypatch):
    """The first convolution is not faster, the second is: small images have the first alone."""
    Clock(monkeypatch)
    sites = iter([[1.0, 2.0], [2.0, 1.0]])
    set_times(monkeypatch, lambda c: next(sites) if is_site(c) else timed(2.0, 1.0, c))
    net, x = OneOrTwo().eval(), torch.randn(1, 3, 20, 20)
    fast = denoise_ext.accelerate(net, x, precision="strict")
    with torch.no_grad():
        for size in (9, 24, 9, 30):
            y = torch.randn(1, 3, size, size)
            torch.testing.assert_close(fast(y), net(y), rtol=1e-4, atol=1e-5)
    entries = fast._shim._engine_state.regions["forward"]._entries.values()
    assert [entry.plan is not None for entry in entries] == [True, False, True, True]


def test_times_are_of_sites_that_are_alike(monkeypatch):
    """The first and the last convolution are; dilation makes the second another one."""
    Clock(monkeypatch)
    timings = []
    set_times(
        monkeypatch,
        lambda c: timings.append(is_site(c)) or timed(2.0, 1.0, c),
    )
    layers = [nn.Conv2d(4, 4, 3, padding=d, dilation=d) for d in (1, 2, 1)]
    net, x = nn.Sequential(*layers).eval(), torch.randn(1, 4, 9, 9)
    denoise_ext.accelerate(net, x, precision="strict")
    assert sum(timings) == 2


class NewWeights(nn.Module):
    """Re-parametrised at every call, as SPAN's convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.merged = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.merged.weight.data = F.pad(self.wide.weight, (1, 1, 1, 1)).detach()
        return self.last(self.merged(x).relu())


def test_weights_that_change_at_every_call_are_given_up(monkeypatch):
    """First the whole, then the part that has them."""
    Clock(monkeypatch)
    model, x = NewWeights().eval(), torch.randn(1, 3, 8, 8)
    reference = copy.deepcopy(model)
    fast = denoise_ext.accelerate(model, x)
    made = []
    right = verify.examine
    monkeypatch.setattr(verify, "examine", lambda *args: made.append(1) or right(*args))
    with torch.no_grad():
        for turn in range(6):
            for net in (model, reference):
                net.wide.weight.fill_(turn)
            torch.testing.assert_close(fast(x), reference(x), rtol=1e-4, atol=1e-4)
    whole = next(row for row in fast.report().rows if row.site == "NewWeights")
    assert whole.variant == "original" and "every call" in whole.reason
    rows = {row.module: row for row in fast.report().rows if row.site == "Conv2d"}
    assert rows["merged"].variant == "original" and "every call" in rows["merged"].reason
    assert rows["last"].variant == "plan" and len(made) == 2  # of parts
    assert fast.report().rows[-1].variant == "its parts' plans"
    region = fast._shim._engine_state.child("merged", model.merged)
    assert region is model.merged  # its calls pass no shim any more


def test_weights_that_change_now_and_then_are_not_given_up(monkeypatch):
    Clock(monkeypatch)
    net, x = small_net(), torch.randn(1, 3, 8, 8)
    fast = denoise_ext.accelerate(net, x)
    with torch.no_grad():
        for _ in range(5):
            net[0].weight.mul_(1.1)
            for _ in range(2):
                torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    assert planned(fast)
    assert all(e.plan for e in fast._shim._engine_state.regions["forward"]._entries.values())


def test_a_refusal_at_two_sizes_is_a_rule_and_one_row(monkeypatch):
    Clock(monkeypatch)
    model = Counting().eval()
    fast = denoise_ext.accelerate(model, torch.randn(1, 3, 8, 8))
    tried = []
    region = fast._shim._engine_state.regions["forward"]
    right = region._make
    monkeypatch.setattr(region, "_make", lambda *args: tried.append(1) or right(*args))
    rows = len(fast.report().rows)
    with torch.no_grad():
        for size in range(9, 30):
            x = torch.randn(1, 3, size, 8)
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(tried) == 1 and len(fast.report().rows) == rows


def test_refusals_with_sizes_in_them_are_one_row(monkeypatch):
    """The message of an exception may have numbers in it."""
    Clock(monkeypatch)

    def run(m, x):
        if x.device.type == "meta":
            raise ValueError(f"no data in {x.shape[-1]} columns")
        return m.a(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3)

        forward = run

    fast = denoise_ext.accelerate(Net().eval(), torch.randn(1, 3, 8, 8))
    for size in range(9, 20):
        fast(torch.randn(1, 3, 8, size))
    assert sum("no data" in row.reason for row in fast.report().rows) == 1


def test_a_size_that_the_original_refuses_is_no_rule(monkeypatch):
    Clock(monkeypatch)
    net = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2), nn.Flatten(), nn.Linear(27, 2)).eval()
    fast = denoise_ext.accelerate(net)
    for size in (20, 21, 22):
        with pytest.raises(RuntimeError, match="mat1"):
            fast(torch.randn(1, 3, size, size))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    assert planned(fast)
