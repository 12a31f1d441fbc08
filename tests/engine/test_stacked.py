"""Sums of a few images in one tensor: slices are added, in the layout that they have."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import plan_of
from torch import Tensor, nn

from denoise_ext.engine.fuse.stacked import add_images

C = 12


class Fusion(nn.Module):
    """Selective kernels: images weighted by a softmax over them, for each channel."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images, self.enter = images, nn.Conv2d(3, images * C, 3, padding=1)
        self.mlp, self.leave = nn.Conv2d(C, images * C, 1), nn.Conv2d(C, 3, 3, padding=1)

    def stack(self, y: Tensor) -> Tensor:
        return y.unflatten(1, (self.images, C))

    def forward(self, x: Tensor) -> Tensor:
        stack = self.stack(self.enter(x))
        means = self.mlp(stack.sum(1).mean((2, 3), keepdim=True))
        return self.leave((stack * self.stack(means).softmax(1)).sum(dim=-4))


class KeptAxis(Fusion):
    """The sum keeps its axis."""

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.stack(self.enter(x)).sum(1, keepdim=True)[:, 0])


class OverChannels(Fusion):
    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(self.enter(x))
        return self.leave(y.sum(2).repeat(1, C, 1, 1)[:, :C])


def _names(net: nn.Module, x: Tensor) -> list[str]:
    """Compare with float64; memory is NaN but for what steps write."""
    plan = plan_of(net, x)
    exact = copy.deepcopy(net).double()(x.double())
    torch.testing.assert_close(plan.run([x]).double(), exact, rtol=1e-4, atol=1e-5)
    return [getattr(step.function, "__name__", "") for step in plan.schedule.steps]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [2, 3, 4])
@torch.no_grad()
def test_sums(images, layout):
    torch.manual_seed(0)
    net = Fusion(images).eval()
    for size in [(12, 20), (7, 5), (1, 1)]:
        x = torch.randn(2, 3, *size).contiguous(memory_format=layout)
        names = _names(net, x)
        assert names.count("add_images") == 2 and "_copy" not in names, names


@torch.no_grad()
def test_other_sums():
    torch.manual_seed(1)
    for net in (Fusion(5), KeptAxis(2), OverChannels(2)):
        assert "add_images" not in _names(net.eval(), torch.randn(1, 3, 12, 20))


def test_add_images():
    """Into memory of any layout; NaN and infinity as in PyTorch."""
    stack = torch.randn(2, 3, 5, 7, 9)
    stack[0, 1, 2, 3, 4], stack[0, 2, 1, 1, 1] = torch.nan, torch.inf
    for memory in (torch.contiguous_format, torch.channels_last):
        out = torch.full((2, 9, 7, 9), torch.nan).contiguous(memory_format=memory)[:, 2:7]
        add_images(stack, out)
        torch.testing.assert_close(out, stack.sum(1), equal_nan=True)
