"""The plan's memory: no buffer is given away while it may still be read."""

from __future__ import annotations

import gc
import platform
import random
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from engine_tools import RandomNet, plan_of, planned, small_net
from engine_tools import ours_is_faster as ours_is_faster
from torch import Tensor, nn

import denoise_ext
from denoise_ext.engine.fuse.match import POINTWISE_STEPS
from denoise_ext.engine.run import memory
from denoise_ext.engine.run.entries import MOST_PLANS
from denoise_ext.engine.run.memory import Buffer, place


def random_buffers(seed: int) -> list[Buffer]:
    draw = random.Random(seed)
    buffers = []
    for _ in range(draw.randint(1, 40)):
        first = draw.randrange(30)
        size = draw.choice([1, 7, 16, 100, 1000])
        buffer = Buffer((size,), (1,), draw.choice([torch.float32, torch.bfloat16]))
        buffer.used_at(first)
        buffer.used_at(first + draw.randrange(8))
        buffers.append(buffer)
    return buffers


@pytest.mark.parametrize("seed", range(50))
def test_buffers_that_live_together_never_overlap(seed):
    buffers = random_buffers(seed)
    total = place(buffers)
    for i, a in enumerate(buffers):
        assert a.offset % 64 == 0 and a.offset + a.bytes <= total
        for b in buffers[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset
    # It cannot be less than what lives at one moment, and should not be all of it.
    moments = [sum(b.bytes for b in buffers if b.first <= t <= b.last) for t in range(40)]
    assert max(moments) <= total <= 2 * max(moments)


def close(actual, expected) -> bool:
    # 14 operators, sums of at most 5 * 5 * 64 terms, batch norms that scale by up to 3 each: far
    # below what a wrong or poisoned tensor would give.
    return all(
        torch.allclose(a, e, rtol=1e-3, atol=1e-3 * max(1.0, float(e.abs().max())))
        for a, e in zip(actual, expected, strict=True)
    )


@pytest.mark.parametrize("seed", range(120))
def test_random_graphs_equal_the_original_with_freed_memory_poisoned(seed):
    torch.manual_seed(seed)
    channels = seed % 4 + 1
    net = RandomNet(seed, channels).eval()
    x = torch.randn(1 + seed % 2, channels, 16, 24)
    with torch.no_grad():
        expected = net(x)
        plan = plan_of(net, x)
        for _ in range(2):  # the second run finds the first one's remains
            assert close(plan.run([x]), expected)


def test_a_lifetime_too_short_is_found(monkeypatch):
    # The test above can fail: with lives that end at the first use, most graphs go wrong.
    def dies_at_once(buffer: Buffer, step: int) -> None:
        buffer.first = min(buffer.first, step)
        buffer.last = buffer.first

    monkeypatch.setattr(Buffer, "used_at", dies_at_once)
    wrong = 0
    with torch.no_grad():
        for seed in range(40):
            torch.manual_seed(seed)
            net = RandomNet(seed, 3).eval()
            x = torch.randn(1, 3, 16, 24)
            try:
                wrong += not close(plan_of(net, x).run([x]), net(x))
            except RuntimeError as error:  # the operator refuses to write what it reads
                assert "overlap" in str(error)
                wrong += 1
    assert wrong > 20


def test_concatenations_are_written_in_place():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
            self.c = nn.Conv2d(40, 3, 3, padding=1)

        def forward(self, x):
            a = self.a(x).relu()
            b = self.b(a).relu()
            inner = torch.cat([a, b], 1)
            return self.c(torch.cat([inner, self.a(x)], 1))

    net, x = Net().eval(), torch.randn(1, 3, 20, 20)
    with torch.no_grad():
        plan = plan_of(net, x)
        assert plan.schedule.joined == 4  # a, b, inner and the second a
        assert not [s for s in plan.schedule.steps if s.part_of]
        assert close([plan.run([x])], [net(x)])


def test_results_are_not_the_plans_memory():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        plan = plan_of(net, x)
        first = plan.run([x])
        kept = first.clone()
        plan.run([torch.randn_like(x)])
        assert torch.equal(first, kept)


def test_memory_is_allocated_once_and_per_thread():
    net = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)]).eval()
    inputs = [torch.randn(1, 8, 40, 40) for _ in range(16)]
    with torch.no_grad():
        plan = plan_of(net, inputs[0], poison=False)
        expected = [net(x) for x in inputs]
        for x in inputs:
            plan.run([x])
        assert plan.workspaces == 1

        def work(i: int) -> bool:
            with torch.no_grad():
                return all(close([plan.run([inputs[i]])], [expected[i]]) for _ in range(20))

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(16)))
        assert plan.workspaces <= 4


@pytest.fixture
def no_garbage_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class ReturnsMore(nn.Module):
    """Results: of a convolution, of a list, a weight, and what is computed of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        return y, torch.stack([y, y.cumsum(2)]), self.conv.bias, self.conv.bias * 2


@torch.no_grad()
def test_memory_of_a_plan_that_is_dropped_is_free_at_once(no_garbage_collection):
    x = torch.randn(1, 3, 9, 9)
    plan = plan_of(ReturnsMore().eval(), x, poison=False)
    plan.run([x])
    (workspace,) = plan.free_workspaces()
    arena = weakref.ref(workspace._arena)
    del plan, workspace
    assert arena() is None


@torch.no_grad()
def test_plans_of_many_sizes_are_dropped(ours_is_faster, no_garbage_collection):
    fast = denoise_ext.accelerate(small_net(), torch.randn(1, 3, 8, 8))
    assert planned(fast)
    for size in range(9, 9 + 2 * MOST_PLANS):
        fast(torch.randn(1, 3, size, 8))
    alive = [made() for _, made in fast._settings.plans]
    assert len([made for made in alive if made is not None]) == MOST_PLANS
    assert len(alive) <= MOST_PLANS + 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux has huge pages")
def test_large_blocks_are_aligned_for_huge_pages():
    block = memory.allocate(5 << 20, torch.device("cpu"))
    assert block.data_ptr() % (2 << 20) == 0 and block.numel() == 5 << 20
    small = memory.allocate(1000, torch.device("cpu"))
    assert small.data_ptr() % 64 == 0 and small.numel() == 1000


@pytest.mark.parametrize("how", [{"size": (7, 6)}, {"size": (14, 18)}, {"scale_factor": 2.15}])
def test_upsampling_into_a_concatenation(how):
    # The sizes repeat whole pixels and are written in place; the factor does not, though it doubles
    # the 7 rows: it is copied there.
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(8, 2, 3)

        def forward(self, x):
            y = nn.functional.max_pool2d(self.a(x), 3, 2, 1, ceil_mode=True)
            y = nn.functional.interpolate(y[..., :7, :6], **how)
            return self.b(torch.cat([y, torch.tanh(y[:, :3])], 1))

    net, x = Net().eval(), torch.randn(2, 3, 14, 18)
    with torch.no_grad():
        plan = plan_of(net, x)
        assert close([plan.run([x])], [net(x)])


class FromWindows(nn.Module):
    """Its first convolution reads what PyTorch lays out as NCHW, whatever the argument is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).cumsum(2).unflatten(2, x.shape[2:])
        y = nn.functional.group_norm(self.a(x), 4)
        return self.b(torch.exp(y - y.mean(1, keepdim=True)) / y.exp())


def test_elementwise_operators_write_the_layout_that_they_read():
    plan = plan_of(FromWindows().eval(), torch.rand(1, 16, 12, 10))
    places = plan.schedule.places
    found = [step for step in plan.schedule.steps if step.function in POINTWISE_STEPS]
    assert len(found) == 5
    for step in found:
        strides = {places[v][0].stride for v in (*step.reads(), *step.made) if v.shape[1] > 1}
        assert strides == {(1920, 1, 160, 16)}


_FAULTS = """
import resource
import torch
from torch import Tensor, nn
from denoise_ext.engine.accelerate import plan

class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):  # three results of PyTorch's, of 16 MiB each, at a time
        x = self.a(x).cumsum(1)
        return self.b(x.cumsum(2) + x.cumsum(3))

torch.set_num_threads(1)
fast, x = plan(Sums().eval()), torch.rand(1, 3, 512, 512)
with torch.no_grad():
    for _ in range(3):
        y = fast(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        y = fast(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of glibc")
def test_the_heap_keeps_what_operators_allocate():
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Pages of 4 KiB.  The heap may still grow by a result; those of three calls have 36864.
    assert int(done.stdout) < 12288
