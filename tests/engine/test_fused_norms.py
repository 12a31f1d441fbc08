"""Normalisations and activations that one call of an operator replaces."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import plan_of
from network_families import ChannelNorm
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.lengths import LengthSite
from denoise_ext.engine.fuse.match import find_sites
from denoise_ext.engine.fuse.norm import NormSite, RowNormSite

C = 16


class _Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(C) + 0.5), nn.Parameter(torch.rand(C))


class ChannelsFirst(_Affine):
    """ConvNeXt's."""

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ReciprocalRoot(_Affine):
    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(dim=1, keepdim=True)
        x = torch.rsqrt((d * d).mean(dim=1, keepdim=True) + 1e-5) * d
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Variance(_Affine):
    def forward(self, x: Tensor) -> Tensor:
        variance = x.var(1, unbiased=False, keepdim=True)
        x = (x - x.mean(1, keepdim=True)) / (variance + 1e-5).sqrt()
        return x * self.weight.view(1, -1, 1, 1)


class Flattened(_Affine):
    """Restormer's: pixels in a row, channels last."""

    def pixels(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
        return (y - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.pixels(x).transpose(1, 2).view(x.shape)


class PixelsLast(_Affine):
    """Of (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
        y = (y - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias
        return y.permute(0, 3, 1, 2)


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 0.1).sqrt()


class WithMean(_Affine):
    """Restormer's without bias: divided by the deviation, the mean stays."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        y = y / torch.sqrt(y.var(-1, keepdim=True, unbiased=False) + 1e-5) * self.weight
        return y.transpose(1, 2).view(x.shape)


class WithMeanOfImages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.var(1, keepdim=True, correction=0) + 1e-5).rsqrt() * x


FORMS = {
    "NAFNet": lambda: ChannelNorm(C),
    "ConvNeXt": ChannelsFirst,
    "rsqrt": ReciprocalRoot,
    "var": Variance,
    "Restormer": Flattened,
    "pixels last": PixelsLast,
    "plain": Plain,
    "instance": lambda: nn.InstanceNorm2d(C),
    "instance affine": lambda: nn.InstanceNorm2d(C, affine=True),
    "group": lambda: nn.GroupNorm(4, C),
}


def _net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, 3, padding=1)
    return nn.Sequential(first, *layers, last).eval()


def _sites(net: nn.Module, x: Tensor) -> list:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    return find_sites(graph, constants, "default")


def _norms(net: nn.Module, x: Tensor) -> list[NormSite]:
    return [site for site in _sites(net, x) if isinstance(site, NormSite)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", FORMS)
def test_norms(name, batch, dtype):
    torch.manual_seed(1)
    norm = FORMS[name]()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    net = _net(norm, nn.LeakyReLU(0.1)).to(dtype)
    x = torch.rand(batch, 3, 12, 20, dtype=dtype)
    (site,) = _norms(net, x)
    assert site.activation == "leaky_relu" and site.negative_slope == 0.1
    with torch.no_grad():
        expected = net.double()(x.double())
        net.to(dtype)
        original = net(x)
        actual = _planned(net, x)
    # Both are off by their own roundings; the original rounds after each of its operators.
    largest = float(expected.abs().max())
    bound = 64 * torch.finfo(dtype).eps * largest
    assert float((actual.double() - expected).abs().max()) <= bound
    assert float((original.double() - expected).abs().max()) <= 4 * bound


@pytest.mark.parametrize(
    ("slopes", "activation"),
    [([0.3], "leaky_relu"), ([0.0], "leaky_relu"), ([-0.2], "none"), ([0.3] * C, "none")],
)
@torch.no_grad()
def test_prelu_with_one_slope(slopes, activation, ours_is_faster):
    prelu = nn.PReLU(len(slopes))
    prelu.weight.copy_(torch.tensor(slopes))
    net, x = _net(nn.InstanceNorm2d(C), prelu), torch.randn(2, 3, 9, 13)
    (site,) = _norms(net, x)
    assert site.activation == activation
    torch.testing.assert_close(_planned(net, x), net(x), rtol=1e-4, atol=1e-4)
    fast = denoise_ext.accelerate(net, x)
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    prelu.weight.fill_(0.7)  # trained on
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    x[0, 0, 2, 3] = torch.nan
    assert torch.equal(fast(x).isnan(), net(x).isnan())


def _planned(net: nn.Module, x: Tensor) -> Tensor:
    return plan_of(net, x).run([x])


@pytest.mark.parametrize("size", [(C, C), (C, 5), (5, C), (1, C), (C, 1)])
@pytest.mark.parametrize("name", ["Restormer", "pixels last", "var", "instance affine"])
@torch.no_grad()
def test_sizes_that_are_those_of_other_axes(name, size):
    """The channels are found by what views do, not by how many there are."""
    net, x = _net(FORMS[name]()), torch.rand(1, 3, *size)
    assert len(_norms(net, x)) == 1
    torch.testing.assert_close(_planned(net, x), net(x), rtol=1e-4, atol=1e-4)


class Turned(Flattened):
    """Rows become columns: the sizes of a square are the same."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.pixels(x).view(n, h, w, c).permute(0, 3, 2, 1)


class EachImage(nn.Module):
    """Each image has weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(2 * C)), nn.Parameter(torch.rand(2 * C))

    def forward(self, x: Tensor) -> Tensor:
        y = x.contiguous().view(1, 2 * C, *x.shape[2:])
        return F.batch_norm(y, None, None, self.weight, self.bias, True).view(x.shape)


class TurnedInstances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x.reshape(1, -1, *x.shape[2:]), None, None, training=True)
        return y.transpose(2, 3)


@pytest.mark.parametrize(
    ("layer", "batch", "count"), [(Turned, 1, 0), (EachImage, 2, 0), (TurnedInstances, 1, 1)]
)
@torch.no_grad()
def test_what_looks_like_a_normalisation_of_an_image(layer, batch, count):
    """No example is needed to tell: of equal pixels, the results would be the same."""
    net, x = _net(layer()), torch.rand(batch, 3, 12, 12)
    assert len(_norms(net, x)) == count
    torch.testing.assert_close(_planned(net, x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(12, 20), (C, C), (1, 7)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("layer", [WithMean, WithMeanOfImages])
def test_norms_that_keep_the_mean(layer, mean, batch, size):
    net, x = _net(layer(), nn.ReLU()), torch.rand(batch, 3, *size)
    nn.init.constant_(net[0].bias, mean)
    (site,) = _norms(net, x)
    assert not site.centred and site.activation == "none"
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double())
        # Sums are off by some eps of the values; of the deviation, that is more by their ratio.
        y = copy.deepcopy(net)[0].double()(x.double())
        ratio = float((y.square().mean(1) / (y.var(1, correction=0) + 1e-5)).sqrt().max())
        bound = 64 * torch.finfo(torch.float32).eps * ratio * float(expected.abs().max())
        assert float((_planned(net, x) - expected).abs().max()) <= bound


def test_norms_that_keep_the_mean_of_narrow_types():
    net, x = _net(WithMean()).bfloat16(), torch.rand(1, 3, 12, 20, dtype=torch.bfloat16)
    assert not _norms(net, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(5, 16), (2, 9, 33), (2, 3, 7, 60), (1, 1, 16)])
def test_layer_norms_over_the_last_axis(shape, affine, dtype):
    """Sums of up to 60 values: each side is off by some eps of numbers up to 5."""
    torch.manual_seed(0)
    net = nn.LayerNorm(shape[-1], elementwise_affine=affine).to(dtype)
    if affine:
        nn.init.uniform_(net.weight)
        nn.init.uniform_(net.bias)
    x = torch.randn(shape).to(dtype)
    for given in (x, x.transpose(0, -2).contiguous().transpose(0, -2)):
        (site,) = _norms(net, given)
        assert isinstance(site, RowNormSite)
        with torch.no_grad():
            exact = copy.deepcopy(net).double()(given.double())
            off = (_planned(net, given) - exact).abs().max()
        assert float(off) <= 64 * torch.finfo(dtype).eps * 5


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.LayerNorm((3, 20)), torch.rand(2, 3, 20)),
        (nn.LayerNorm(8), torch.rand(2, 8)),  # fewer than a vector
        (nn.LayerNorm(20).bfloat16(), torch.rand(2, 20).bfloat16()),
    ],
)
def test_other_layer_norms_stay_pytorchs(layer, x):
    assert not _norms(layer, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lengths(dtype):
    """Of channels over pixels, as where queries and keys are normalised: Restormer."""

    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.normalize(x.flatten(2), dim=-1)
            return y.view(x.shape) * torch.linalg.vector_norm(x, dim=1, keepdim=True)

    net, x = _net(Unit()).to(dtype), torch.rand(2, 3, 12, 20, dtype=dtype)
    sites = [site for site in _sites(net, x) if isinstance(site, LengthSite)]
    assert len(sites) == (2 if dtype == torch.float32 else 0)
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double())
        actual = _planned(net, x)
    bound = 64 * torch.finfo(dtype).eps * float(expected.abs().max())
    assert float((actual.double() - expected).abs().max()) <= bound


def test_other_lengths_stay_pytorchs():
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.linalg.vector_norm(x, 1, 1, keepdim=True)
            return x / (y + torch.linalg.vector_norm(x, 2, (2, 3), keepdim=True))

    net, x = _net(Sum()), torch.rand(1, 3, 12, 20)
    assert not [site for site in _sites(net, x) if isinstance(site, LengthSite)]


@pytest.mark.parametrize("name", ["NAFNet", "instance affine", "group"])
@pytest.mark.usefixtures("ours_is_faster")
def test_accelerated(name):
    net = _net(FORMS[name](), nn.SiLU())
    x = torch.rand(1, 3, 24, 40)
    fast = denoise_ext.accelerate(net, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    assert any("norm" in row.site and row.variant.endswith(("pass", "passes"))
               for row in fast.report().rows)  # fmt: skip


class Unbiased(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()


class OtherMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(1, keepdim=True)
        return (x - x.mean(2, keepdim=True)) / (d.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()


class MovingWeight(nn.Module):
    """A scale that depends on the image is applied behind the normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        return y * x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(("layer", "count"), [(Unbiased, 0), (OtherMean, 0), (MovingWeight, 1)])
def test_what_is_another_function(layer, count):
    net, x = _net(layer()), torch.rand(1, 3, 12, 20)
    found = _norms(net, x)
    assert len(found) == count
    assert all(site.weight is None for site in found)
    with torch.no_grad():
        torch.testing.assert_close(_planned(net, x), net(x), rtol=1e-4, atol=1e-4)


def test_running_statistics_are_folded_not_normalised():
    net = _net(nn.InstanceNorm2d(C, affine=True, track_running_stats=True))
    assert not _norms(net, torch.rand(1, 3, 12, 20))


ACTIVATIONS = {
    "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"), "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(), "hardsigmoid": nn.Hardsigmoid(), "relu6": nn.ReLU6(),
    "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "relu": nn.ReLU(),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_fused(name):
    net, x = _net(ACTIVATIONS[name]), torch.rand(1, 3, 12, 20)
    first, last = (site for site in _sites(net, x) if isinstance(site, ConvSite))
    assert (first.activation, last.activation) == (name, "none")
    with torch.no_grad():
        torch.testing.assert_close(_planned(net, x), net(x), rtol=1e-4, atol=1e-4)


def test_other_limits_are_not_relu6():
    net, x = _net(nn.Hardtanh(-1.0, 6.0)), torch.rand(1, 3, 12, 20)
    assert all(s.activation == "none" for s in _sites(net, x) if isinstance(s, ConvSite))


class Scaled(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.beta = conv, nn.Parameter(torch.randn(1, C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x) * self.beta)


@pytest.mark.parametrize("conv", [
    nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 3, padding=1, groups=4, bias=False),
    nn.ConvTranspose2d(C, C, 3, padding=1, groups=2),
])  # fmt: skip
def test_a_scale_for_each_channel_is_folded(conv):
    """Of a residual branch, as in NAFNet: the sum follows in the same call."""
    net, x = _net(Scaled(conv)), torch.rand(1, 3, 12, 20)
    site = [site for site in _sites(net, x) if isinstance(site, ConvSite)][1]
    assert [kind for kind, *_ in site.scales] == ["factors"]
    assert site.residual is not None and site.activation == "relu"
    with torch.no_grad():
        torch.testing.assert_close(_planned(net, x), net(x), rtol=1e-4, atol=1e-4)
