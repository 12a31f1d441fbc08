"""What a call of a new size does besides the original's work: counted, with a clock that is set."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from engine_tools import is_site, set_times, small_net, timed
from torch import Tensor, nn

import denoise_ext
from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.run import economy, making
from denoise_ext.engine.run.economy import COMPARISON, SITES, TRACE, Economy
from denoise_ext.engine.run.plan import Plan
from denoise_ext.engine.run.region import Region

MILLISECOND = 1e-3


class Net(nn.Module):
    """A small network whose calls are counted."""

    current: Work

    def __init__(self) -> None:
        super().__init__()
        self.body = small_net()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "meta":  # else it is traced
            Net.current.do("original")
        return self.body(x)


class Work:
    """Counts what is done and sets the clock forward by what each takes, in milliseconds."""

    def __init__(self, monkeypatch, **costs: float) -> None:
        self.now, self.done = 0.0, Counter()
        self.costs = {"original": 10.0, "plan": 5.0, "trace": 0.0, "sites": 0.0, **costs}
        set_times(monkeypatch, lambda c: [2.0, 1.0] if is_site(c) else timed(10.0, 5.0, c))
        for name in ("clock", "processor_clock"):
            monkeypatch.setattr(verify, name, lambda: self.now)
        monkeypatch.setattr(Net, "current", self, raising=False)
        self.wrap(monkeypatch, Plan, "leaves", "plan")
        self.wrap(monkeypatch, Region, "_traced", "trace")
        self.wrap(monkeypatch, making, "find_sites", "sites")

    def wrap(self, monkeypatch, owner, name: str, kind: str) -> None:
        right = getattr(owner, name)

        def counted(*args, **kwargs):
            self.do(kind)
            return right(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def do(self, kind: str) -> None:
        self.done[kind] += 1
        self.now += MILLISECOND * self.costs[kind]

    def calls(self, fast, x: Tensor, count: int) -> list[dict[str, int]]:
        """What each of ``count`` calls does; none may take more than 2.5 times the original's."""
        found = []
        for _ in range(count):
            self.done.clear()
            start = self.now
            fast(x)
            assert self.now - start <= 2.5 * MILLISECOND * self.costs["original"] + 1e-9
            found.append(dict(self.done))
        return found


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")


def image(size: int = 12) -> Tensor:
    return torch.randn(1, 3, size, size)


def plans(fast) -> int:
    entries = fast._shim._engine_state.regions["forward"]._entries.values()
    return sum(entry.plan is not None for entry in entries)


@torch.no_grad()
def test_a_call_runs_original_and_plan_once(monkeypatch):
    """The comparison is the only run of the plan, and the original's result is the call's."""
    work = Work(monkeypatch)
    net = Net().eval()
    fast, x = denoise_ext.accelerate(net, image()), image(14)
    expected = net(x)
    work.done.clear()
    assert torch.equal(fast(x), expected)
    assert work.done == {"original": 1, "trace": 1, "sites": 1, "plan": 1}
    assert work.calls(fast, x, 2) == [{"plan": 1}] * 2
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_strict_call_returns_the_plans_result(monkeypatch):
    work = Work(monkeypatch, trace=1000.0)
    fast = denoise_ext.accelerate(Net().eval(), image(), precision="strict")
    x = image(14)
    work.done.clear()
    first = fast(x)
    assert work.done == {"original": 1, "trace": 1, "sites": 1, "plan": 1}
    assert torch.equal(first, fast(x))


@torch.no_grad()
def test_planning_is_spread_over_calls(monkeypatch):
    """All of it takes 16 ms, of 12 that a call has: none in the first call, two in the next."""
    work = Work(monkeypatch, trace=10.0, sites=1.0)
    fast = denoise_ext.accelerate(Net().eval(), image())
    assert work.calls(fast, image(), 1) == [{"plan": 1}]
    assert work.calls(fast, torch.randn(1, 3, 9, 16), 4) == [
        {"original": 1},
        {"original": 1, "trace": 1, "sites": 1},
        {"original": 1, "plan": 1},
        {"plan": 1},
    ]


@torch.no_grad()
def test_a_size_that_does_not_come_back_is_not_begun(monkeypatch):
    work = Work(monkeypatch, trace=10.0, sites=1.0)
    fast = denoise_ext.accelerate(Net().eval(), image())
    for rows in range(13, 20):
        assert work.calls(fast, torch.randn(1, 3, rows, 12), 1) == [{"original": 1}]
    assert plans(fast) == 1


@torch.no_grad()
def test_what_never_fits_waits_until_it_is_a_small_part(monkeypatch):
    """A trace of 29.9 ms beside an original of 10 ms: here after ten times as long."""
    monkeypatch.setattr(economy, "_RARELY", 0.1)
    work = Work(monkeypatch, trace=29.9)
    fast = denoise_ext.accelerate(Net().eval(), image())
    x = torch.randn(1, 3, 13, 12)
    assert work.calls(fast, x, 29) == [{"original": 1}] * 29
    start = work.now
    fast(x)
    assert work.now - start == pytest.approx(0.0399)
    assert work.calls(fast, x, 2) == [{"original": 1, "plan": 1}, {"plan": 1}]


@torch.no_grad()
def test_weights_that_change_between_stages_count(monkeypatch):
    """What was traced of the old ones is dropped."""
    work = Work(monkeypatch, trace=10.0, sites=1.0)
    net = Net().eval()
    fast, x = denoise_ext.accelerate(net, image()), torch.randn(1, 3, 13, 12)
    work.calls(fast, x, 2)
    net.body[0].weight.mul_(3.0)
    found = work.calls(fast, x, 3)
    assert [call.get("trace", 0) for call in found] == [1, 0, 0] and found[2] == {"plan": 1}
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_refusal_leaves_the_originals_result(monkeypatch):
    work = Work(monkeypatch)
    net = Net().eval()
    fast, x = denoise_ext.accelerate(net, image()), image(14)
    monkeypatch.setattr(making, "find_sites", refuse)
    work.done.clear()
    result = fast(x)
    assert work.done == {"original": 1, "trace": 1} and torch.equal(result, net(x))


def refuse(*args):
    raise NotPlannedError("not today")


@torch.no_grad()
def test_a_plan_that_is_off_is_not_used(monkeypatch):
    Work(monkeypatch)
    net = Net().eval()
    fast, x = denoise_ext.accelerate(net, image()), image(14)
    monkeypatch.setattr(making, "largest_error", lambda *_: 1.0)
    for _ in range(3):
        assert torch.equal(fast(x), net(x))
    assert plans(fast) == 1


def tensors(elements: int) -> list[Tensor]:
    return [torch.empty(elements, device="meta")]


@pytest.mark.parametrize("ratio", [1.0, 1.5, 4.0])
@pytest.mark.parametrize("planning", [0.0, 0.003, 0.03, 3.0])
def test_no_call_goes_on_beyond_its_limit(ratio, planning):
    """Of calls whose stages take as long as on the example."""
    costs = Economy()
    stages = {TRACE: 0.7 * planning, SITES: 0.3 * planning, COMPARISON: 0.010 / ratio}
    for stage, seconds in stages.items():
        costs.without_limit().took(stage, seconds)
    costs.timed(10.0, 10.0 / ratio, tensors(100))
    waiting, spent, total = [*stages], [], 0.0
    for _ in range(1000):
        allowance, taken = costs.allowance("key", 0.010, tensors(100)), 0.0
        total += 0.010
        while waiting and allowance.may_begin and allowance.has_room(waiting[0]):
            seconds = stages[waiting.pop(0)]
            allowance.took(TRACE, 0.0) if seconds == 0 else allowance.took("other", seconds)
            taken += seconds
        spent.append(taken)
        assert taken <= max(1.5 * 0.010, 0.01 * total) + 1e-9
    assert not waiting or planning == 3.0


def test_a_slow_first_call_allows_no_more():
    """Other processes may have disturbed it: the example tells what it may have taken."""
    costs = Economy()
    costs.without_limit().took(TRACE, 0.025)
    costs.timed(10.0, 5.0, tensors(100))
    assert not costs.allowance("key", 10.0, tensors(100)).may_begin
    assert costs.allowance("larger", 0.040, tensors(400)).may_begin
