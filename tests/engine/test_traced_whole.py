"""``accelerate``: what forwards and modules may contain and still be planned as a whole."""

from __future__ import annotations

import argparse
import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import planned
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune, spectral_norm, weight_norm

import denoise_ext

pytestmark = pytest.mark.usefixtures("ours_is_faster")


class Net(nn.Module):
    def __init__(self, run, **attributes) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.run, self.size = run, 8
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class OldNorm(torch.autograd.Function):
    """Without ``setup_context``, as the NAFNet authors' normalisation and CompressAI's bound."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        mean = x.mean(1, keepdim=True)
        y = (x - mean) / ((x - mean).square().mean(1, keepdim=True) + eps).sqrt()
        ctx.save_for_backward(y, weight)
        return weight.view(1, -1, 1, 1) * y

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


class Recipe:
    """An object as einops keeps: plain attributes, never changed."""

    def __init__(self, factor: int) -> None:
        self.factor, self.axes, self.cache = factor, [0, 1], {"n": (1, 2)}

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor + len(self.axes) + self.cache["n"][1]


class Config(OrderedDict):
    """A dict with attributes, whose items are set once."""

    def __setitem__(self, key, value) -> None:
        if key in self:
            raise TypeError("frozen")
        super().__setitem__(key, value)

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Table(dict):
    """A dict with a method of its own."""

    def scale(self) -> float:
        return self["scale"]


def keeps_its_mean(m, x):
    m.mean = m.mean.type_as(x)
    m.mean = m.mean.to("cpu")
    m.size = 8
    return m.a(x - m.mean)


def masks(m, x):
    mask = torch.zeros(1, 1, *x.shape[2:], device="cpu")
    mask[..., 2:5, 1:] = 1
    window = torch.from_numpy(np.hanning(x.shape[-1]).astype(np.float32))
    scale = x.new_tensor([[1.0, 2.0, 3.0]]).view(1, 3, 1, 1)
    shift = torch.tensor(np.arange(3.0), dtype=x.dtype, device=x.device)[:, None, None]
    shift[1] = 5
    return m.a(x * mask * window + scale * torch.Tensor([0.5]) - shift + torch.as_tensor([1.0]))


def attention_over_channels(m, x):
    y = m.a(x)
    return m.b(y * F.adaptive_avg_pool2d(y, 1).sigmoid())


FORWARDS = {
    "old autograd.Function": lambda: Net(lambda m, x: OldNorm.apply(m.a(x), m.b.bias, 1e-5)),
    "constants made in forward": lambda: Net(masks),
    "writes that change nothing": lambda: Net(keeps_its_mean),
    "an object": lambda: Net(lambda m, x: m.recipe.apply(m.a(x)), recipe=Recipe(3)),
    "a namespace": lambda: Net(lambda m, x: m.a(x) * m.opt.n, opt=argparse.Namespace(n=2)),
    "a dict with attributes": lambda: Net(lambda m, x: m.a(x) * m.cfg.scale, cfg=Config(scale=2.0)),
    "a dict subclass": lambda: Net(lambda m, x: m.a(x) * m.cfg.scale(), cfg=Table(scale=2.0)),
    "an object of tensors": lambda: Net(
        lambda m, x: m.a(x) * m.opt.gain, opt=argparse.Namespace(gain=torch.rand(16, 1, 1))
    ),
    "mean over all pixels": lambda: Net(attention_over_channels),
    "circular padding": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=(2, 1), padding_mode="circular"), nn.ReLU()
    ),
    "weight_norm": lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU()),
    "spectral_norm": lambda: nn.Sequential(
        spectral_norm(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU()
    ),
    "pruning": lambda: nn.Sequential(
        prune.l1_unstructured(nn.Conv2d(3, 16, 3, padding=1), "weight", 0.3), nn.ReLU()
    ),
    "pruning twice": lambda: nn.Sequential(
        prune.ln_structured(
            prune.random_unstructured(nn.Conv2d(3, 16, 3, padding=1), "weight", 0.3),
            "weight", 0.2, n=2, dim=0,
        ), nn.ReLU(),
    ),
}  # fmt: skip


def close(actual: Tensor, expected: Tensor) -> bool:
    # Two convolutions of at most 144 terms; 6 bits of slack for what comes after them.
    eps = torch.finfo(torch.float32).eps
    return bool((actual - expected).abs().max() <= 2**12 * eps * max(1.0, expected.abs().max()))


@pytest.mark.parametrize("name", FORWARDS)
def test_planned_whole(name):
    torch.manual_seed(0)
    model, x = FORWARDS[name]().eval(), torch.randn(1, 3, 12, 10)
    torch.manual_seed(0)
    exact = FORWARDS[name]().eval()
    before = copy.deepcopy(model.state_dict())
    fast = denoise_ext.accelerate(model, x)
    with torch.no_grad():
        for size in ((12, 10), (9, 16), (12, 10)):
            x = torch.randn(1, 3, *size)
            assert close(fast(x), exact(x))
    rows = [row for row in fast.report().rows if row.variant != "left out"]
    assert planned(fast) and not any(row.reason for row in rows), fast.report()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "pruning"])
def test_changes_of_what_a_weight_is_computed_of_are_noticed(name):
    model, x = FORWARDS[name]().eval(), torch.randn(1, 3, 12, 10)
    fast = denoise_ext.accelerate(model, x)
    own = dict(model[0].named_parameters())
    with torch.no_grad():
        own[next(key for key in own if key != "bias")].mul_(-1.5)
        assert close(fast(x), model(x))  # the original sets the attribute `weight`
        assert close(fast(x), model(x))
        region = fast._shim._engine_state.regions["forward"]
        assert all(entry.plan is not None for entry in region._entries.values())
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    with torch.no_grad():
        assert close(fast(x), model(x))


def test_changes_of_an_object_are_noticed():
    for value, change in (
        (Recipe(2), lambda v: setattr(v, "factor", 5)),
        (Recipe(2), lambda v: v.axes.append(3)),
        (Recipe(2), lambda v: v.cache.update(n=(1, 9))),
    ):
        model, x = Net(lambda m, x: m.v.apply(m.a(x)), v=value).eval(), torch.randn(1, 3, 8, 8)
        fast = denoise_ext.accelerate(model, x)
        change(value)
        with torch.no_grad():
            assert close(fast(x), model(x))
    table = Table(scale=2.0)
    model = Net(lambda m, x: m.a(x) * m.v.scale(), v=table).eval()
    fast = denoise_ext.accelerate(model, x)
    table["scale"] = 7.0
    with torch.no_grad():
        assert close(fast(x), model(x))


GLOBAL = torch.rand(1, 3, 1, 1)


def test_tensors_that_others_hold_are_no_constants():
    """Nobody would notice that they change."""
    for read in (lambda: GLOBAL, lambda: GLOBAL[:, :1]):
        model, x = Net(lambda m, x, r=read: m.a(x + r())).eval(), torch.randn(1, 3, 8, 8)
        fast = denoise_ext.accelerate(model, x)
        GLOBAL.add_(1)
        with torch.no_grad():
            assert close(fast(x), model(x))
        assert not planned(fast)


def test_channels_last_survives_the_mean_over_all_pixels():
    """PyTorch words its strides by ``as_strided_``, for an image of one pixel."""
    from denoise_ext.engine.capture.trace import trace

    model = Net(attention_over_channels).eval()
    graph, _, _ = trace(model, "forward", (torch.randn(1, 3, 8, 8),), {}, None, channels_last=True)
    assert graph.outputs[0].stride == (16 * 64, 1, 8 * 16, 16)
    with torch.no_grad():
        expected = model(torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    assert expected.stride() == graph.outputs[0].stride


class InTraining(nn.Module):
    """Its gate is in a plain list, which ``eval()`` does not reach."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.gate = [nn.Conv2d(16, 16, 1), *more, nn.Sigmoid()]

    def forward(self, x):
        x = self.conv(x)
        gate = x
        for layer in self.gate:
            gate = layer(gate)
        return x * gate


@torch.no_grad()
def test_layers_that_are_the_same_in_training_mode():
    torch.manual_seed(0)
    model, x = InTraining().eval(), torch.randn(1, 16, 12, 10)
    assert model.gate[0].training
    fast = denoise_ext.accelerate(model, x)
    assert planned(fast)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [nn.BatchNorm2d(16), nn.InstanceNorm2d(16, track_running_stats=True), nn.Dropout2d(0.5)],
    ids=lambda layer: type(layer).__name__,
)
@torch.no_grad()
def test_layers_that_differ_in_training_mode(more):
    torch.manual_seed(0)
    model, x = InTraining(copy.deepcopy(more)).eval(), torch.randn(1, 16, 12, 10)
    reference = copy.deepcopy(model)
    fast = denoise_ext.accelerate(model)
    for _ in range(3):
        torch.manual_seed(1)
        actual = fast(x)
        torch.manual_seed(1)
        torch.testing.assert_close(actual, reference(x), rtol=1e-4, atol=1e-4)
    assert not planned(fast)
    for own, expected in zip(model.gate[1].buffers(), reference.gate[1].buffers(), strict=True):
        torch.testing.assert_close(own, expected)
