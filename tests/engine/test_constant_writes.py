"""Forwards that leave the same tensors in their module at every call, computed from its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import planned
from torch import nn
from torch.nn import functional as F

import denoise_ext


class Merged(nn.Module):
    """A 3x3 and a 1x1 convolution, merged into one at each call, as in SPAN's published code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, channels, 1)
        self.merged = nn.Conv2d(channels, channels, 3, padding=1)
        self.weight = None

    def forward(self, x):
        self.weight = self.conv.weight.data.clone() + F.pad(self.skip.weight.data, [1, 1, 1, 1])
        self.merged.weight.data = self.weight.contiguous()
        self.merged.bias.data = self.conv.bias.data + self.skip.bias.data
        return self.merged(x)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Merged(16), nn.ReLU(), Merged(16)).eval()


@pytest.fixture
def image():
    return torch.rand(1, 16, 40, 48, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_it_is_planned_whole(image, ours_is_faster):
    model, expected = network(), network()(image)
    fast = denoise_ext.accelerate(model, image)
    assert planned(fast)
    torch.testing.assert_close(fast(image), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_module_keeps_what_its_forward_leaves(image, ours_is_faster):
    model, reference = network(), network()
    reference(image)
    denoise_ext.accelerate(model, image)
    assert torch.equal(model[0].weight, reference[0].weight)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@torch.no_grad()
def test_a_changed_weight_is_seen(image, ours_is_faster):
    model = network()
    fast = denoise_ext.accelerate(model, image)
    before = fast(image)
    model[0].skip.weight.mul_(3)
    expected = copy.deepcopy(model)(image)
    torch.testing.assert_close(fast(image), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-2)


@torch.no_grad()
def test_calls_of_the_original_leave_the_plan(image, ours_is_faster, monkeypatch):
    model = network()
    fast = denoise_ext.accelerate(model, image)
    for _ in range(4):
        model(image)  # sets new tensors of the same numbers
        monkeypatch.setattr(Merged, "forward", None)  # nothing but the plan can run
        fast(image)
        monkeypatch.undo()


class Decaying(nn.Module):
    """Each call leaves another weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.following = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        self.conv.weight.data = self.conv.weight.data * 0.5
        return self.following(self.conv(x))


class Remembering(nn.Module):
    """Each call leaves its input's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.mean = torch.zeros(1, 16, 1, 1)

    def forward(self, x):
        result = self.conv(x - self.mean)
        self.mean = x.mean((0, 2, 3), keepdim=True)
        return result


class Delayed(nn.Module):
    """Each call scales by what the one before has left, which is always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.weight = nn.Parameter(torch.rand(1, 16, 1, 1) + 1)
        self.scale = torch.ones(1, 16, 1, 1)

    def forward(self, x):
        result = self.conv(x) * self.scale
        self.scale = self.weight * 2
        return result


class DelayedInPlace(Delayed):
    def forward(self, x):
        result = self.conv(x) * self.scale
        self.scale.copy_(self.weight)
        return result


class FirstCall(nn.Module):
    """Its first call takes another way than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.last = None

    def forward(self, x):
        result = self.conv(x)
        if self.last is not None:
            result = result.tanh() + self.last.shape[0]
        self.last = self.conv.weight.sum((1, 2, 3))
        return result


@pytest.mark.parametrize("kind", [Decaying, Remembering, Delayed, DelayedInPlace, FirstCall])
@torch.no_grad()
def test_what_differs_from_call_to_call_is_not_planned(kind, image, ours_is_faster):
    torch.manual_seed(0)
    model = kind().eval()
    reference = copy.deepcopy(model)
    fast = denoise_ext.accelerate(model)
    for i in range(4):
        x = image + i
        torch.testing.assert_close(fast(x), reference(x), rtol=1e-4, atol=1e-4)
    assert not planned(fast)
    for (name, value), own in zip(
        reference.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, own), name
