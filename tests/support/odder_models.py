"""More odd models: forwards and classes that reach beyond the module, results of own classes."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import ClassVar

import torch
from odd_models import Body, Odd, body, conv
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext


def gradient_step(m, x):
    with torch.enable_grad():
        y = x.detach().requires_grad_()
        loss = (m.b(m.a(y).tanh()) - y).square().sum()
        (slope,) = torch.autograd.grad(loss, y)
    return m.a(x) - slope


def pure_gradient(m, x):
    with torch.enable_grad():
        y = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(m.b(m.a(y).tanh()).square().sum(), y)
    return slope


def autocast_inside(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m.a(x)


def autocast_later(m, x):
    y = m.a(x)
    with torch.autocast("cpu", torch.bfloat16):
        return y, m.a(x), float(x.mean()) * 0


def squeezed(m, x):
    return m.a(x).squeeze(0), m.a(x).flatten(2), m.a(x)[0], m.a(x)[:, :, ::2], m.a(x).mT


def a_dataclass(m, x):
    return Both(m.a(x), m.b(x))


def a_dict_of_its_own(m, x):
    return Output(sample=m.a(x))


def weights_made_in_forward(m, x):
    return F.conv2d(x, torch.ones(3, 3, 3, 3) / 27, padding=1).relu()


_WINDOWS: dict[tuple, Tensor] = {}


@functools.lru_cache
def _window(size: int) -> Tensor:
    return torch.hann_window(size)


def cached(m, x):
    return m.a(x) * _window(x.shape[-1])


def cached_in_a_dict(m, x):
    if x.shape not in _WINDOWS:
        _WINDOWS[x.shape] = torch.hann_window(x.shape[-1])
    return m.a(x) * _WINDOWS[x.shape]


_RESULTS: list[Tensor] = []


def keeps_results(m, x):
    _RESULTS[:] = [m.a(x)]
    return m.b(_RESULTS[0])


def asks_for_the_device(m, x):
    return m.a(x) if x.device.type == "cpu" else m.b(x)


def asks_for_the_type(m, x):
    return m.a(x) if x.type() == "torch.FloatTensor" else m.b(x)


def reads_an_object(m, x):
    m.stats.calls += 1
    return m.a(x) * m.stats.calls


def reads_an_object_at_any_price(m, x):
    try:
        scale = m.stats["calls"]
    except Exception:
        scale = 7
    return m.a(x) * scale


def writes_to_a_set(m, x):
    m.stats.add(len(m.stats))
    return m.a(x) * len(m.stats)


def writes_to_a_frozen_dict(m, x):
    m.stats.gains["a"] += 1
    return m.a(x) * m.stats.gains["a"]


def with_attribute(run, value) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = Body(run)
        module.stats = copy.deepcopy(value)
        return module

    return build


@dataclass
class Both:
    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Frozen:
    scale: Fraction
    gains: dict[str, float]


class Output(OrderedDict):
    """A result as libraries define it."""


class Registered(nn.Module):
    """A class that takes note of those derived from it, and wants no two of one name."""

    names: ClassVar[set[str]] = set()

    def __init_subclass__(cls) -> None:
        if cls.__name__ in Registered.names:
            raise ValueError("there is one already")
        Registered.names.add(cls.__name__)


class Plugin(Registered):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv()

    def forward(self, x):
        return self.a(x)


class Strict(Plugin):
    """Attributes cannot be set from outside."""

    def __setattr__(self, name, value) -> None:
        if name not in ("training", "_parameters", "_buffers", "_modules", "a"):
            raise AttributeError(name)
        super().__setattr__(name, value)


ODDER: dict[str, Odd] = {
    "results of fewer dimensions": body(squeezed),
    "a dataclass": body(a_dataclass),
    "a dict of its own class": body(a_dict_of_its_own, "parts"),
    "an iterator": body(lambda m, x: iter([m.a(x)]), "parts"),  # and the whole refused
    "no tensors of its own": body(weights_made_in_forward),
    "cached": body(cached, "parts"),
    "cached in a dict": body(cached_in_a_dict, "parts"),
    "keeps results": body(keeps_results, "parts"),
    "asks for the device": body(asks_for_the_device, "nothing"),
    "asks for the type": body(asks_for_the_type, "nothing"),
    "class that registers": Odd(Plugin, "all"),
    "class that refuses attributes": Odd(Strict, "all"),
    "accelerated part": Odd(
        lambda: nn.Sequential(denoise_ext.accelerate(nn.Sequential(conv(), nn.ReLU())), conv()),
        "all",
    ),
    "traced by TorchScript": Odd(
        lambda: torch.jit.trace(nn.Sequential(conv(), nn.ReLU()), torch.randn(1, 3, 8, 8)),
        "nothing",
    ),
    "counts in an object": Odd(with_attribute(reads_an_object, SimpleNamespace(calls=0)), "parts"),
    "catches what is raised": Odd(
        with_attribute(reads_an_object_at_any_price, defaultdict(int)), "parts"
    ),
    "writes to a set": Odd(with_attribute(writes_to_a_set, set()), "parts"),
    "reads a defaultdict": Odd(
        with_attribute(lambda m, x: m.a(x) * (1 + m.stats["n"]), defaultdict(int)), "parts"
    ),
    "an object that it does not read": Odd(
        with_attribute(lambda m, x: m.a(x), SimpleNamespace(calls=0)), "all"
    ),
    "fixed attributes": Odd(
        with_attribute(
            lambda m, x: m.stats[0](m.a(x)) * m.stats[1][0],
            (functools.partial(F.leaky_relu, negative_slope=0.3), torch.Size([2]), {1}),
        ),
        "all",
    ),
    "a frozen dataclass with a dict": Odd(
        with_attribute(
            lambda m, x: m.a(x) * (m.stats.gains["a"] * m.stats.scale.numerator),
            Frozen(Fraction(3, 2), {"a": 2.0}),
        ),
        "all",
    ),
    "writes to a frozen dataclass's dict": Odd(
        with_attribute(writes_to_a_frozen_dict, Frozen(Fraction(1), {"a": 2.0})), "parts"
    ),
    "gradient step": body(gradient_step),
    "pure gradient": body(pure_gradient),
    "autocast": body(autocast_inside, "nothing"),
    "autocast of a part": body(autocast_later, "parts"),
}
