"""What the tests of the engine share: plans without timing, and models made at random."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites
from denoise_ext.engine.run.plan import Plan
from denoise_ext.engine.run.schedule import Scheduler


@pytest.fixture
def ours_is_faster(monkeypatch):
    """Timings that never keep the original: decisions then depend on errors alone.

    Planning takes no time, so that every new size gets its plan.
    """
    monkeypatch.setattr(verify, "clock", lambda: 0.0)
    set_times(monkeypatch, lambda c: [2.0, 1.0] if is_site(c) else timed(2.0, 1.0, c))


def set_times(monkeypatch, times) -> None:
    """Give the engine ``times(calls)`` for milliseconds of sites' calls and of wholes'.

    Where a site has more variants than times, the others take as long as the last one.
    """

    def of_all(calls: list, *_: object) -> list[float]:
        found = times(calls)
        return [*found, *found[-1:] * (len(calls) - len(found))]

    for name in ("interleaved", "settled"):
        monkeypatch.setattr(verify, name, of_all)


def is_site(calls: list) -> bool:
    """Whether what is timed is a site's; a plan's calls and a model's are made elsewhere."""
    return calls[0].__module__ == verify.__name__


def timed(given: float, ours: float, calls: list, plain: float | None = None) -> list[float]:
    """Times of the original, of PyTorch's own operators in a plan (by default slower) and of ours.

    The plan of PyTorch's own operators stands in the middle, where one is tried.
    """
    slower = 2 * max(given, ours) if plain is None else plain
    return [given, *[slower] * (len(calls) - 2), ours]


def plan_of(module: nn.Module, *args: Tensor, poison: bool = True) -> Plan:
    """A plan in which every site is replaced, by the first variant."""
    graph, own, _ = trace(module, "forward", args, {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    chosen = {
        site: site.step(site.variants()[0], constants) if site.variants() else None
        for site in find_sites(graph, constants, "default")
    }
    schedule = Scheduler(graph, constants, chosen).run()
    return Plan(graph, constants, schedule, args[0].device, poison)


def planned(fast) -> bool:
    """Whether the whole network runs as one plan."""
    return any(row.variant == "plan" and not row.module for row in fast.report().rows)


def strides_that_matter(x: torch.Tensor) -> list[int]:
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


def small_net(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), random_norm(16), nn.ReLU(inplace=True),
        nn.Conv2d(16, channels, 3, padding=1),
    ).eval()  # fmt: skip


class RandomNet(nn.Module):
    """A network whose operators, sizes and connections are drawn from a seed."""

    def __init__(self, seed: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        draw = random.Random(seed)
        self.program: list[tuple] = []
        shapes = [(channels, 1.0)]  # of each value: channels, size relative to the input
        for _ in range(draw.randint(4, 14)):
            shapes.append(self._add(draw, shapes))
        self.results = sorted({len(shapes) - 1, draw.randrange(1, len(shapes))})

    def _add(self, draw: random.Random, shapes: list[tuple[int, float]]) -> tuple[int, float]:
        kinds = ["conv", "conv", "conv", "act", "add", "cat", "pool", "up", "slice", "scale", "pad"]
        kind = draw.choice(kinds)
        i = draw.choice(range(max(0, len(shapes) - 4), len(shapes)))
        c, size = shapes[i]
        same = [j for j, other in enumerate(shapes) if other == shapes[i]]
        near = [j for j, other in enumerate(shapes) if other[1] == size]
        if kind == "add":
            self.program.append(("add", i, draw.choice(same), draw.choice([1, -1])))
            return c, size
        if kind == "cat":
            parts = [i, *draw.choices(near, k=draw.randint(1, 2))]
            self.program.append(("cat", parts))
            return sum(shapes[j][0] for j in parts), size
        if kind == "pool" and size > 0.25:
            self.program.append((draw.choice(["max", "average"]), i))
            return c, size / 2
        if kind == "up" and size < 2 and c < 64:
            self.program.append((draw.choice(["nearest", "bilinear", "transpose"]), i))
            if self.program[-1][0] == "transpose":
                self.program[-1] += (self._layer(nn.ConvTranspose2d(c, c, 2, 2)),)
            return c, size * 2
        if kind == "slice" and c > 2:
            start = draw.randrange(c - 1)
            self.program.append(("slice", i, start, c - 1))
            return c - 1 - start, size
        if kind in ("act", "scale", "pad"):
            names = {"act": ["relu", "relu_", "leaky", "sigmoid", "tanh"], "scale": ["scale"],
                     "pad": ["pad"]}  # fmt: skip
            self.program.append((draw.choice(names[kind]), i))
            return c, size
        out = draw.choice([1, 3, 5, 8, 16])
        return self._conv(draw, i, c, out), size

    def _conv(self, draw: random.Random, i: int, c: int, out: int) -> int:
        kernel = draw.choice([1, 3, 3, 5])
        mode = draw.choice(["zeros", "zeros", "reflect", "replicate"])
        conv = nn.Conv2d(c, out, kernel, padding=kernel // 2, padding_mode=mode)
        layers: list[nn.Module] = [conv]
        if draw.random() < 0.3:
            layers.append(random_norm(out))
        if draw.random() < 0.5:
            acts = [nn.ReLU(True), nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(out), nn.Tanh()]
            layers.append(draw.choice(acts))
        self.program.append(("layer", i, self._layer(nn.Sequential(*layers))))
        return out

    def _layer(self, layer: nn.Module) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for step in self.program:
            values.append(self._run(step, values))
        return tuple(values[i] for i in self.results)

    def _run(self, step: tuple, values: list[Tensor]) -> Tensor:
        kind, *rest = step
        if kind == "cat":
            return torch.cat([values[i] for i in rest[0]], 1)
        x, *rest = values[rest[0]], *rest[1:]
        simple = {
            "max": lambda: F.max_pool2d(x, 2),
            "average": lambda: F.avg_pool2d(x, 2),
            "nearest": lambda: F.interpolate(x, scale_factor=2),
            "bilinear": lambda: F.interpolate(x, scale_factor=2, mode="bilinear"),
            "relu": lambda: F.relu(x),
            "relu_": lambda: (x * 1.5).relu_(),
            "leaky": lambda: F.leaky_relu(x, 0.1),
            "sigmoid": lambda: x.sigmoid(),
            "tanh": lambda: torch.tanh(x),
            "scale": lambda: 0.5 * x,
            "pad": lambda: F.pad(x, (1, 1, 1, 1))[..., 1:-1, 1:-1],
        }
        if kind in simple:
            return simple[kind]()
        if kind == "add":
            return x + values[rest[0]] if rest[1] == 1 else x - values[rest[0]]
        if kind == "slice":
            return x[:, rest[0] : rest[1]]
        return self.layers[rest[0]](x)


def random_norm(channels: int) -> nn.BatchNorm2d:
    """A batch normalisation as training might have left it."""
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(-2, 2)
        norm.bias.normal_()
    return norm
