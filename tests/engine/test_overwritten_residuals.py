"""Sums with a skip connection that take its place in a plan's memory."""

from __future__ import annotations

import pytest
import torch
from engine_tools import plan_of
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).relu())


class UNet(nn.Module):
    """The sum after the transposed convolution takes the place of the finer level."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.down, self.up = nn.Conv2d(16, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.head(x)
        return self.tail(fine + self.up(self.down(fine)))


class ReadLater(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = x + self.conv2(x.relu())
        return self.conv2(y) * x.sigmoid()


class ReadAsInput(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv1(x + self.conv2(x))


class PartOfAConcatenation(Block):
    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        both = self.conv3(torch.cat((a, self.conv2(x)), 1))
        return self.conv1(a + self.conv2(both))


class Given(Block):
    """The argument is the caller's, and so is the result."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


def sums_in_place(module: nn.Module, x: Tensor) -> list[bool]:
    """For each sum whether it takes the residual's place; the plan's result is checked."""
    module = module.eval()
    with torch.no_grad():
        expected, plan = module(x), plan_of(module, x)
        for _ in range(2):
            given = x.clone()
            # Sums of 16 * 9 and 32 * 9 terms near 1, a few one after the other.
            assert torch.allclose(plan.run([given]), expected, rtol=1e-3, atol=1e-3)
            assert torch.equal(given, x)
    places = plan.schedule.places
    return [
        step.overwrites in places
        and step.made[0] in places
        and places[step.overwrites][0] is places[step.made[0]][0]
        for step in plan.schedule.steps
        if step.overwrites is not None
    ]


@pytest.mark.parametrize("size", [(24, 40), (9, 13)])
def test_a_chain_of_blocks_needs_two_feature_maps(size):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), Block(), Block(), Block(), nn.Conv2d(16, 1, 3, padding=1)
    )
    x = torch.rand(1, 1, *size)
    assert sums_in_place(net, x) == [True, True, True]
    one = 16 * size[0] * size[1] * 4
    with torch.no_grad():
        assert plan_of(net.eval(), x).schedule.size <= 2 * (one + 64)


def test_a_skip_connection_of_a_u_net():
    torch.manual_seed(0)
    assert sums_in_place(UNet(), torch.rand(2, 1, 24, 40)) == [True]


@pytest.mark.parametrize("module", [ReadLater, ReadAsInput, PartOfAConcatenation, Given])
def test_what_is_read_otherwise_stays(module):
    torch.manual_seed(0)
    assert sums_in_place(module(), torch.rand(1, 16, 24, 40)) == [False]
