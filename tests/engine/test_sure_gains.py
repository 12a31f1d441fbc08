"""When a plan counts as faster than the original: `verify.settled`, with a clock that is set."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import denoise_ext
from denoise_ext.engine.fuse import verify


class Run:
    """A contender; each call takes the next of ``seconds``, in a circle."""

    def __init__(self, now: list[float], *seconds: float) -> None:
        self.now, self.seconds, self.calls = now, seconds, 0

    def __call__(self) -> None:
        self.now[0] += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1


@pytest.mark.parametrize(
    ("contenders", "calls", "wins"),
    [  # seconds of the original and of contenders; the first call of each warms up
        ([[0.2], [0.1]], 6, 1),  # every time
        ([[0.1], [0.2]], 4, None),
        ([[0.1], [0.1]], 4, None),
        # Another process disturbed the original alone, at first.
        ([[0.1] + [0.15] * 4 + [0.1] * 99, [0.1]], None, None),
        # The plan is slower, and all runs are disturbed.
        ([[0.1, 0.31, 0.12, 0.22, 0.16], [0.12, 0.15, 0.38, 0.13, 0.26, 0.19, 0.14]], None, None),
        # The plan is twice as fast, and all runs are disturbed.
        ([[0.1, 0.31, 0.12, 0.22, 0.16], [0.06, 0.07, 0.19, 0.06, 0.13, 0.09, 0.07]], None, 1),
        ([[0.104, 0.105, 0.103], [0.1, 0.101, 0.099, 0.1]], None, 1),  # a small gain
        ([[0.101], [0.1]], 4, None),  # too small a gain
        ([[0.3], [0.4], [0.1]], 6, 2),
        ([[0.3], [0.1], [0.2]], 6, 1),
        ([[0.3], [0.4], [0.5]], 4, None),
        ([[2.0], [1.0]], 5, 1),  # long runs are no warm-up
        ([[1.0], [1.0]], 3, None),
    ],
)  # fmt: skip
def test_a_whole_must_be_surely_faster(monkeypatch, contenders, calls, wins):
    """Rounds follow each other until the gain is sure, or surely there is none."""
    now = [0.0]
    monkeypatch.setattr(verify, "clock", lambda: now[0])
    runs = [Run(now, *seconds) for seconds in contenders]
    original, *ours = verify.settled(list(runs))
    gains = [original / x for x in ours]
    best = max(range(len(ours)), key=lambda i: gains[i])
    assert (best + 1 if gains[best] >= verify.WORTH_IT else None) == wins
    assert calls is None or {run.calls for run in runs} == {calls}


@pytest.mark.parametrize(
    ("delays", "lose", "win"),
    [  # how much runs vary; plans by their gain, and in how many of 100 cases they are taken
        (0.01, {0.75: 0, 0.9: 0, 1.0: 0}, {1.03: 90, 1.05: 100, 2.0: 100}),
        (0.3, {0.75: 2, 0.9: 7, 1.0: 15}, {1.3: 80, 2.0: 98}),
    ],
)
def test_random_delays(monkeypatch, delays, lose, win):
    """Slower plans lose, also where runs vary by more than that; real gains win."""
    draw, now, cases = random.Random(1), [0.0], 300
    monkeypatch.setattr(verify, "clock", lambda: now[0])

    def wins(gain: float) -> float:
        count = 0
        for _ in range(cases):
            runs = [
                Run(now, *(t * math.exp(draw.gauss(0, delays)) for _ in range(50)))
                for t in (0.01, 0.01 / gain)
            ]
            original, ours = verify.settled(list(runs))
            count += original / ours >= verify.WORTH_IT
        return 100 * count / cases

    for gain, most in lose.items():
        assert wins(gain) <= most, gain
    for gain, least in win.items():
        assert wins(gain) >= least, gain


def test_what_runs_between_sites_is_not_timed(monkeypatch):
    """It comes before every call; a site with hot weights alone would win here."""
    now, order = [0.0], []
    monkeypatch.setattr(verify, "clock", lambda: now[0])

    def others() -> None:
        order.append("others")
        now[0] += 0.5

    def call(name: str, hot: float, cold: float) -> None:
        now[0] += cold if order[-1] == "others" else hot
        order.append(name)

    contenders = [lambda: call("first", 0.2, 0.2), lambda: call("second", 0.1, 0.3)]
    times = verify.interleaved(contenders, others)
    assert times == pytest.approx([200.0, 300.0])
    calls = order[1:]  # before the first one it is timed itself
    assert all(name == "others" for name in calls[::2]) and "others" not in calls[1::2]


@pytest.mark.parametrize(("channels", "runs"), [(8, False), (300, True)])
def test_caches_are_filled_where_the_weights_do_not_fit(channels, runs, monkeypatch):
    """Weights of 2 MiB and less stay in the second-level cache from call to call."""
    net = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, channels, 3)).eval()
    seen = []

    def interleaved(calls, in_between):
        read = _read(in_between)
        seen.append(read)
        return [2.0] + [1.0] * (len(calls) - 1)

    monkeypatch.setattr(verify, "interleaved", interleaved)
    monkeypatch.setattr(verify, "settled", lambda calls: [2.0] * (len(calls) - 1) + [1.0])
    denoise_ext.accelerate(net, torch.rand(1, 3, 20, 20))
    assert seen
    for read in seen:
        assert bool(read) == runs
        if runs:  # other memory first, then what the site reads: it was just written
            assert read[0] >= 2 * 2**21 * torch.get_num_threads() and read[-1] < 2**20


def _read(call) -> list[int]:
    """Bytes of each tensor that ``call`` adds up."""
    sizes = []

    class Sums(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.sum.default:
                sizes.append(args[0].numel() * args[0].element_size())
            return func(*args, **(kwargs or {}))

    with torch.inference_mode(False), Sums():
        call()
    return sizes
