"""Linear layers with what follows them: against float64, whatever surrounds them."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.linear import LinearSite
from denoise_ext.engine.fuse.match import find_sites

C = 24
ACTIVATIONS = {
    "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"), "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(), "hardsigmoid": nn.Hardsigmoid(), "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(), "relu": nn.ReLU(),
}  # fmt: skip


class Tokens(nn.Module):
    """A transformer's: (N, pixels, C), with a skip connection."""

    def __init__(self, activation: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(C, 40, bias), nn.Linear(40, C, bias)
        self.norm, self.activation = nn.LayerNorm(C), activation

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        y = y + self.second(self.activation(self.first(self.norm(y))))
        return y.transpose(1, 2).reshape(n, c, h, w)


class Pixels(Tokens):
    """ConvNeXt's: (N, H, W, C), with a trained scale of each channel."""

    def __init__(self, activation: nn.Module, bias: bool = True) -> None:
        super().__init__(activation, bias)
        self.scale = nn.Parameter(torch.rand(C) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.activation(self.first(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.scale.view(1, -1, 1, 1) * y + x


def _net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, 3, padding=1)
    return nn.Sequential(first, *layers, last).eval()


def _linears(net: nn.Module, x: Tensor, channels_last: bool = True) -> list[LinearSite]:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=channels_last)
    constants = Constants(own, {})
    constants.enter(graph)
    sites = find_sites(graph, constants, "default")
    return [site for site in sites if isinstance(site, LinearSite)]


def _compare(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double())
        actual, original = plan_of(net, x).run([x]), net(x)
    # Both are off by their own roundings.
    bound = 32 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    assert float((original.double() - expected).abs().max()) <= bound
    assert float((actual.double() - expected).abs().max()) <= bound


@pytest.mark.parametrize("size", [(12, 20), (1, 1), (1, 7), (24, 24)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", [Tokens, Pixels])
def test_blocks(layer, bias, batch, size):
    net, x = _net(layer(nn.GELU(), bias)), torch.rand(batch, 3, *size)
    first, second = _linears(net, x)
    assert (first.activation, first.residual, first.factors) == ("gelu", None, None)
    assert second.activation == "none" and second.residual is not None
    assert (second.factors is not None) == (layer is Pixels)
    if layer is Tokens:  # of the other, the first reads columns otherwise
        assert len(_linears(net, x, channels_last=False)) == 2
    _compare(net, x)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("layer", [Tokens, Pixels])
def test_activations(layer, name):
    net, x = _net(layer(ACTIVATIONS[name])), torch.rand(1, 3, 12, 20)
    assert _linears(net, x)[0].activation == name
    _compare(net, x)


class AddedBias(Tokens):
    """The bias is added afterwards, as PyTorch itself does for rows that are not dense."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = F.linear(x.flatten(2).transpose(1, 2), self.first.weight) + self.first.bias
        y = self.second.bias + F.linear(self.activation(y), self.second.weight)
        return y.transpose(1, 2).reshape(n, c, h, w)


def test_a_bias_that_is_added_afterwards():
    net, x = _net(AddedBias(nn.GELU())), torch.rand(2, 3, 12, 20)
    first, second = _linears(net, x)
    assert first.bias is not None and second.bias is not None and first.activation == "gelu"
    _compare(net, x)


class OtherActivation(Tokens):
    def __init__(self) -> None:
        super().__init__(nn.LeakyReLU(0.1))


class ReadTwice(Tokens):
    """The result before the activation is read, too."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.permute(0, 2, 3, 1))
        return (self.second(F.gelu(y)) + y[..., :C]).permute(0, 3, 1, 2)


class Regrouped(Tokens):
    """Channels become pixels before the sum."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.gelu(self.first(x.permute(0, 2, 3, 1))))
        return x + y.view(x.shape)


class ScaledByPixel(Tokens):
    """As many pixels as channels: a factor of each pixel is none of each channel."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__(activation)
        self.scale = nn.Parameter(torch.rand(C) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.activation(self.first(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return x + y * self.scale


class Broadcast(Tokens):
    """What is added has one row."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.gelu(self.first(x.permute(0, 2, 3, 1))))
        return (y + x.mean((2, 3))[:, None, None]).permute(0, 3, 1, 2)


class Transposed(Tokens):
    """Rows and columns are exchanged before the sum."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.gelu(self.first(x.permute(0, 2, 3, 1))))
        return x + y.permute(0, 3, 2, 1)


class Doubled(Tokens):
    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.gelu(self.first(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return y + y


class Twice(Tokens):
    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.gelu(self.first(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return torch.add(x, y, alpha=2)


@pytest.mark.parametrize(
    ("layer", "fused"),
    [
        (OtherActivation(), (False, True)), (ReadTwice(nn.GELU()), (False, True)),
        (Regrouped(nn.GELU()), (True, False)), (ScaledByPixel(nn.GELU()), (True, False)),
        (Broadcast(nn.GELU()), (True, False)), (Transposed(nn.GELU()), (True, True)),
        (Doubled(nn.GELU()), (True, False)), (Twice(nn.GELU()), (True, False)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_not_taken_in(layer, fused):
    size = (12, 20) if isinstance(layer, Regrouped) else (C, C)
    net, x = _net(layer), torch.rand(1, 3, *size)
    first, second = _linears(net, x)
    assert (first.activation != "none", second.residual is not None) == fused
    _compare(net, x)


class Chunks(nn.Module):
    """Two layers whose weights are parts of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * C, C) / C**0.5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.weight.chunk(2)
        y = x.permute(0, 2, 3, 1)
        return F.linear(F.gelu(F.linear(y, first)), second).permute(0, 3, 1, 2)


class Shared(nn.Module):
    """One weight, as it is and transposed, and with factors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, C) / C**0.5)
        self.scale = nn.Parameter(torch.rand(C) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(F.linear(x.permute(0, 2, 3, 1), self.weight))
        y = F.relu(y @ self.weight)
        return (F.linear(y, self.weight) * self.scale).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("layer", "count"), [(Chunks(), 2), (Shared(), 3)])
def test_weights_that_are_one_tensor(layer, count):
    net, x = _net(layer), torch.rand(1, 3, 12, 20)
    assert len(_linears(net, x)) == count
    _compare(net, x)


@pytest.mark.usefixtures("ours_is_faster")
def test_accelerated():
    net, x = _net(Tokens(nn.GELU()), Pixels(nn.SiLU())), torch.rand(1, 3, 24, 40)
    fast = denoise_ext.accelerate(net, x)
    rows = [row for row in fast.report().rows if row.site.startswith("linear")]
    assert len(rows) == 4
    assert all(row.variant == "packed" and row.error <= row.bound for row in rows)
    assert [row.module for row in rows] == ["1.first", "1.second", "2.first", "2.second"]
    for size in ((24, 40), (17, 9), (48, 8)):  # a packed weight serves every size
        y = torch.rand(2, 3, *size)
        for _ in range(3):
            with torch.no_grad():
                torch.testing.assert_close(fast(y), net(y), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        net[1].first.weight.mul_(3.0)
        net[2].scale.mul_(-2.0)
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("ours_is_faster")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_stay_pytorchs(dtype):
    net, x = _net(Tokens(nn.GELU())).to(dtype), torch.rand(1, 3, 24, 40, dtype=dtype)
    fast = denoise_ext.accelerate(net, x)
    assert not any(row.site.startswith("linear") for row in fast.report().rows)
