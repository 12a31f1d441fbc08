"""Operators that change nothing are no part of a graph."""

from __future__ import annotations

import pytest
import torch
from engine_tools import plan_of
from torch import Tensor, nn
from torch.nn import functional as F

from denoise_ext.engine.capture.trace import trace


def _operators(module: nn.Module, x: Tensor) -> list[str]:
    graph, _, _ = trace(module, "forward", (x,), {}, None, channels_last=True)
    return [node.op._schema.name.removeprefix("aten::") for node in graph.nodes]


class Between(nn.Module):
    """A function between two others."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.sin()).cos()


NOTHING = {
    "view": lambda x: x.view(x.shape),
    "expand": lambda x: x.expand(x.shape),
    "permute": lambda x: x.permute(0, 1, 2, -1),
    "slice": lambda x: x[:, :, 0:],
    "constant pad": lambda x: F.pad(x, (0, 0, 0, 0)),
    "reflection pad": lambda x: F.pad(x, (0, 0, 0, 0), mode="reflect"),
    "replication pad": lambda x: F.pad(x, (0, 0, 0, 0), mode="replicate"),
    "view and back": lambda x: x.contiguous().view(2, -1).view(x.shape),
}
SOMETHING = {
    "view": lambda x: x.contiguous().view(1, 4, -1),
    "transpose": lambda x: x.transpose(2, 3),
    "permute": lambda x: x.permute(0, 2, 1, 3),
    "slice": lambda x: x[:, :, 1:],
    "step": lambda x: x[:, :, ::2],
    "pad": lambda x: F.pad(x, (0, 1, 0, 0)),
    "other layout": lambda x: x.contiguous(),
}


@pytest.mark.parametrize("name", NOTHING)
@torch.no_grad()
def test_dropped(name):
    module, x = Between(NOTHING[name]).eval(), torch.rand(1, 4, 4, 4)
    found = _operators(module, x)
    assert found in (["sin", "cos"], ["sin", "clone", "cos"])
    torch.testing.assert_close(plan_of(module, x).run([x]), module(x))


@pytest.mark.parametrize("name", SOMETHING)
@torch.no_grad()
def test_kept(name):
    module, x = Between(SOMETHING[name]).eval(), torch.rand(1, 4, 4, 4)
    found = _operators(module, x)
    assert len(found) >= 3
    torch.testing.assert_close(plan_of(module, x).run([x]), module(x))


class OwnResult(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sin()
        return y, y.view(y.shape)


@torch.no_grad()
def test_results_stay_what_they_are():
    x = torch.rand(1, 4, 6, 6)
    first, second = plan_of(OwnResult().eval(), x).run([x])
    torch.testing.assert_close(first, x.sin())
    assert first.data_ptr() == second.data_ptr()


class Unit(nn.Module):
    """Convolution, instance norm and activation in place, as in MONAI's networks."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)
        self.activation = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_no_layout_changes_between_norms_and_convolutions(batch):
    """The activation in place left views that the next convolution had to have a copy for."""
    torch.manual_seed(0)
    net = nn.Sequential(Unit(3, 16), Unit(16, 16), nn.MaxPool2d(2), Unit(16, 16)).eval()
    x = torch.rand(batch, 3, 32, 48)
    plan = plan_of(net, x)
    names = [str(step.function) for step in plan.schedule.steps]
    assert not [name for name in names if "copy" in name]
    torch.testing.assert_close(plan.run([x]), net(x), rtol=1e-4, atol=1e-4)
