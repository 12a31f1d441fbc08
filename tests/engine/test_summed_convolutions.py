"""Sums of convolutions of one image, which plans compute as one convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import planned, random_norm
from torch import Tensor, nn
from torch.nn import functional as F

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites

pytestmark = [pytest.mark.usefixtures("ours_is_faster"), pytest.mark.usefixtures("no_cache")]


@pytest.fixture
def no_cache(monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", "off")


def conv(*args, norm: bool = True, **options) -> nn.Sequential:
    layer = nn.Conv2d(*args, **options)
    return nn.Sequential(layer, random_norm(layer.out_channels)) if norm else nn.Sequential(layer)


class Block(nn.Module):
    """A sum of branches, by default plain, and ReLU."""

    def __init__(self, *branches: nn.Module, join: Callable[..., object] | None = None) -> None:
        super().__init__()
        self.branches, self.join = nn.ModuleList(branches), join

    def forward(self, x: Tensor) -> object:
        if self.join is not None:
            return self.join(x, *self.branches)
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return torch.relu(total)


def block(*branches: nn.Module, join: Callable[..., object] | None = None) -> Block:
    return Block(*branches, join=join).eval()


TAKEN = {  # channels of the image, and the block
    "with identity": (16, lambda: [conv(16, 16, 3, 1, 1), conv(16, 16, 1), random_norm(16)]),
    "identity first": (16, lambda: [random_norm(16), conv(16, 16, 1), conv(16, 16, 3, 1, 1)]),
    "small one last": (16, lambda: [conv(16, 20, 3, 1, 1), conv(16, 20, 1)]),
    "stride 2": (16, lambda: [conv(16, 24, 3, 2, 1, bias=False), conv(16, 24, 1, 2)]),
    "groups": (
        16,
        lambda: [conv(16, 16, 3, 1, 1, groups=4), conv(16, 16, 1, groups=4), random_norm(16)],
    ),
    "depthwise": (
        16,
        lambda: [conv(16, 16, 7, 1, 3, groups=16), conv(16, 16, 3, 1, 1, groups=16), nn.Identity()],
    ),
    "affine alone": (16, lambda: [conv(16, 16, 3, 1, 1, norm=False), random_norm(16)]),
    "plain image": (16, lambda: [conv(16, 16, 3, 1, 1), nn.Identity(), conv(16, 16, 1)]),
    "crosses": (8, lambda: [conv(8, 8, 3, 1, 1), conv(8, 8, (1, 3), 1, (0, 1)),
                            conv(8, 8, (3, 1), 1, (1, 0))]),
    "even and odd": (8, lambda: [conv(8, 8, 4, 2, 1), conv(8, 8, 2, 2), conv(8, 8, 1, 2)]),
    "corner": (8, lambda: [conv(8, 8, 3, 4), conv(8, 8, 1, 4)]),
    "dilated": (8, lambda: [conv(8, 8, 3, 1, 2, dilation=2), conv(8, 8, 1), nn.Identity()]),
    "five": (8, lambda: [conv(8, 8, k, 1, k // 2) for k in (1, 3, 5, 3, 1)]),
}  # fmt: skip


def sites(net: nn.Module, x: Tensor, precision: str = "default") -> list[ConvSite]:
    graph, own, _ = trace(net, "forward", (x,), {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    found = find_sites(graph, constants, precision)
    return [site for site in found if isinstance(site, ConvSite)]


def exact(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(net).double()(x.double())


def magnitudes(net: Block, x: Tensor) -> tuple[Tensor, int]:
    """Sums of the sizes of all terms that a result is made of, and how many they are at most."""
    total, terms = torch.zeros((), dtype=torch.float64), 0
    for branch in copy.deepcopy(net.branches).double():
        part = x.double().abs()
        for layer in branch if isinstance(branch, nn.Sequential) else [branch]:
            if isinstance(layer, nn.Conv2d):
                bias = None if layer.bias is None else layer.bias.abs()
                shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
                part = F.conv2d(part, layer.weight.abs(), bias, *shape)
                terms += layer.weight[0].numel() + 1
            elif isinstance(layer, nn.BatchNorm2d):
                factor = (layer.weight / (layer.running_var + layer.eps).sqrt()).abs()
                shift = layer.running_mean.abs() * factor + layer.bias.abs()
                part = part * factor[:, None, None] + shift[:, None, None]
                terms += 4
        total = total + part
        terms += 1
    return total.detach(), terms


def amplification(variant: str) -> float:
    return {"winograd2": 3.0, "winograd4": 19.4, "winograd6": 114.2}.get(variant, 1.0)


@pytest.mark.parametrize("name", TAKEN)
def test_a_sum_is_one_convolution(name, monkeypatch, isa):
    """By each algorithm: within Higham's bound of n eps sum |w| |x|, weights rounded once more."""
    torch.manual_seed(0)
    channels, branches = TAKEN[name]
    net, x = block(*branches()), torch.randn(2, channels, 24, 20)
    (site,) = sites(net, x, "fast")
    assert site.splits and f"{len(net.branches)} branches" in site.label
    assert site.activation == "relu" and site.residual is None
    assert "onednn" in site.variants()
    odd = (9, 13) if name not in ("even and odd", "corner") else (12, 4)
    for variant in site.variants():
        monkeypatch.setattr(ConvSite, "variants", lambda _, only=variant: [only])
        fast = denoise_ext.accelerate(net, x, precision="fast")
        assert planned(fast), fast.report()
        (row,) = [row for row in fast.report().rows if "branches" in row.site]
        assert row.variant == variant and row.error <= row.bound
        for size in [(24, 20), odd, (8, 8)]:
            image = torch.randn(1, channels, *size)
            size_of_terms, terms = magnitudes(net, image)
            allowed = 2.0**-23 * (terms + 2) * amplification(variant) * size_of_terms
            with torch.no_grad():
                assert bool(((fast(image) - exact(net, image)).abs() <= allowed).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["with identity", "stride 2", "groups", "depthwise"])
def test_other_numbers(name, dtype):
    """Sums of bfloat16 are of float32: what is stored rounds, weights, results and the original's.

    The reference has the parameters as they are stored; weights round once more when added up.
    """
    torch.manual_seed(0)
    channels, branches = TAKEN[name]
    net, x = block(*branches()).to(dtype), torch.randn(2, channels, 24, 20).to(dtype)
    (site,) = sites(net, x)
    assert site.splits
    fast = denoise_ext.accelerate(net, x)
    assert planned(fast), fast.report()
    size_of_terms, terms = magnitudes(net, x)
    eps = terms * 2.0**-52 if dtype == torch.float64 else 2 * 2.0**-8 + terms * 2.0**-23
    with torch.no_grad():
        actual = fast(x)
    assert actual.dtype == dtype
    assert bool(((actual.double() - exact(net, x)).abs() <= eps * size_of_terms).all())


def nested(x, a, b, norm, other, scale):
    """A token mixer as of FastViT: x + s (m(x) - n(x))."""
    mixed = a(x) + b(x) + norm(x)
    return x + scale.weight * (mixed - other(x))


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels, 1, 1))


def test_sums_within_scaled_sums():
    torch.manual_seed(0)
    parts = [conv(16, 16, 3, 1, 1, groups=16), conv(16, 16, 1, groups=16), random_norm(16),
             random_norm(16), Scale(16)]  # fmt: skip
    net, x = block(*parts, join=nested), torch.randn(2, 16, 12, 20)
    (site,) = sites(net, x)
    assert "5 branches" in site.label
    fast = denoise_ext.accelerate(net, x)
    expected = exact(net, x)
    # 15 terms, factors of at most 2 / sqrt(0.5) on images up to 5: 2^-23 * 30 * 5 * 3 * 4.
    with torch.no_grad():
        torch.testing.assert_close(fast(x).double(), expected, rtol=0, atol=2e-4)
    assert planned(fast) and any("5 branches" in row.site for row in fast.report().rows)


def test_branches_larger_than_their_sum():
    """The original rounds what cancels: by 2^-24 of 10^5, which the bound allows."""
    torch.manual_seed(0)
    branches = [conv(16, 16, 3, 1, 1), random_norm(16), random_norm(16)]
    with torch.no_grad():
        branches[1].bias.add_(1e5)
        branches[2].bias.sub_(1e5)
    net, x = block(*branches), torch.randn(1, 16, 24, 24)
    fast = denoise_ext.accelerate(net, x)
    (row,) = [row for row in fast.report().rows if "branches" in row.site]
    assert row.variant == "winograd4" and 1e-4 < row.error <= row.bound


REFUSED = {
    "other centres": lambda: block(conv(8, 8, 3, 4, 1), conv(8, 8, 3, 4, 0)),
    "other stride": lambda: block(conv(8, 8, 13), conv(8, 8, 1, 2)),
    "other groups": lambda: block(conv(8, 8, 3, 1, 1), conv(8, 8, 1, groups=8)),
    "other dilation": lambda: block(conv(8, 8, 5, 1, 2), conv(8, 8, 3, 1, 2, dilation=2)),
    "neither within the other": lambda: block(
        conv(8, 8, (1, 3), 1, (0, 1)), conv(8, 8, (3, 1), 1, (1, 0))
    ),
    "mirrored border": lambda: block(
        conv(8, 8, 3, 1, 1, padding_mode="reflect"), conv(8, 8, 1)
    ),
    "a branch is read twice": lambda: block(
        conv(8, 8, 3, 1, 1), conv(8, 8, 1), join=lambda x, a, b: (y := b(x)) * (a(x) + y)
    ),
    "a branch is a result": lambda: block(
        conv(8, 8, 3, 1, 1), conv(8, 8, 1), join=lambda x, a, b: (y := b(x), a(x) + y)
    ),
    "a convolution in it is read": lambda: block(
        conv(8, 8, 3, 1, 1), conv(8, 8, 1),
        join=lambda x, a, b: (y := b[0](x), a(x) + b[1](y)),
    ),
    "a bend": lambda: block(
        conv(8, 8, 3, 1, 1), conv(8, 8, 1), join=lambda x, a, b: a(x) + torch.relu(b(x))
    ),
    "another image": lambda: block(
        conv(8, 8, 3, 1, 1), conv(8, 8, 1), join=lambda x, a, b: a(x) + b(x.exp())
    ),
    "a sum that repeats pixels": lambda: block(
        conv(8, 8, 3, 1, 1), conv(8, 8, 24, 1), join=lambda x, a, b: a(x) + b(x)
    ),
    "a skip connection": lambda: block(conv(8, 8, 3, 1, 1), nn.Identity()),
    "transposed": lambda: block(
        conv(8, 8, 3, 1, 1), nn.ConvTranspose2d(8, 8, 3, 1, 1), nn.ConvTranspose2d(8, 8, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_sum(name):
    torch.manual_seed(0)
    net, x = REFUSED[name](), torch.randn(1, 8, 24, 24)
    assert not any(site.splits for site in sites(net, x))
    fast = denoise_ext.accelerate(net, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


def test_sums_that_share_a_weight():
    """Packed weights are kept by what they are made of: all branches, and where they lie."""
    torch.manual_seed(0)
    three, *ones = [conv(16, 16, k, 1, k // 2, norm=False) for k in (3, 1, 1)]

    def join(x, a, b, c):
        wide = [
            F.conv2d(x, a[0].weight, None, 4, p) + F.conv2d(x, b[0].weight, None, 4) for p in (0, 1)
        ]
        return a(x) + b(x), a(x) + c(x), a(x) - c(x), a(x) + x + x, *wide

    net, x = block(three, *ones, join=join), torch.randn(1, 16, 24, 24)
    assert sum(site.splits for site in sites(net, x)) == 6
    fast = denoise_ext.accelerate(net, x)
    assert planned(fast)
    # Winograd's 19.4 times 2^-23 times 180 terms, of at most 5 times 1/4 each.
    with torch.no_grad():
        for actual, expected in zip(fast(x), net(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=6e-4)
    # What is wrong is tried apart.
    assert sum("branches" in row.site for row in fast.report().rows) == 6


def test_changed_parameters_are_noticed():
    torch.manual_seed(0)
    net, x = block(*TAKEN["with identity"][1]()), torch.randn(1, 16, 12, 12)
    fast = denoise_ext.accelerate(net, x)
    assert planned(fast)
    with torch.no_grad():
        tensors = [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]
        for tensor in tensors:
            before = net(x)
            tensor.mul_(1.5)
            assert not torch.allclose(net(x), before, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-3)


def test_what_loses_together_is_tried_apart(monkeypatch):
    torch.manual_seed(0)
    net, x = block(*TAKEN["with identity"][1]()), torch.randn(1, 16, 12, 12)
    right = ConvSite.error_bound
    monkeypatch.setattr(
        ConvSite, "error_bound", lambda site, *args: 0.0 if site.splits else right(site, *args)
    )
    fast = denoise_ext.accelerate(net, x)
    labels = {row.site: row.variant for row in fast.report().rows}
    assert labels["conv2d 1x1 16->16 + batch norm + residual"] != "original"
    assert not any("branches" in label for label in labels)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "size", "act", "variants"),
    [
        (16, 24, torch.relu, ["winograd4", "direct", "onednn"]),
        (160, 24, torch.relu, ["winograd4", "direct", "onednn"]),
        (160, 12, torch.relu, ["winograd2", "winograd4", "direct", "onednn"]),
        (16, 12, F.silu, ["winograd4", "direct", "onednn"]),
        (160, 12, F.leaky_relu, ["winograd2", "winograd4", "direct"]),
    ],
)
def test_variants(channels, size, act, variants):
    """Where weights are read longer than they are multiplied, the smaller tiles are a variant, too.

    160 channels take 36 * 160^2 * 4 bytes, 3.7 MB; images of 24x24 have 36 tiles, of 12x12 nine.
    """
    torch.manual_seed(0)
    pair = conv(channels, channels, 3, 1, 1), conv(channels, channels, 1)
    net = block(*pair, join=lambda x, a, b: act(a(x) + b(x)))
    x = torch.randn(1, channels, size, size)
    (site,) = sites(net, x)
    assert site.variants() == variants
    (site,) = sites(net, x, "strict")  # whose sums have one order, whatever the image's size
    assert site.variants() == ["direct"]


def test_a_sum_that_pools_its_result():
    """Winograd's algorithm stays a variant: the convolution has 36 tiles, its result nine."""
    torch.manual_seed(0)
    pair = conv(160, 160, 3, 1, 1), conv(160, 160, 1)
    net = block(*pair, join=lambda x, a, b: F.max_pool2d(a(x) + b(x), 2))
    x = torch.randn(1, 160, 24, 24)
    (site,) = sites(net, x)
    assert "2 branches" in site.label and "max pool" in site.label
    assert site.variants() == ["winograd4"]
    fast = denoise_ext.accelerate(net, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), net(x), rtol=1e-3, atol=1e-3)
    assert planned(fast)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_plans_serve_in_every_mode(mode, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(ConvSite, "variants", lambda _: ["onednn"])
    net, x = block(*TAKEN["with identity"][1]()), torch.randn(1, 16, 12, 12)
    with mode():
        fast = denoise_ext.accelerate(net, x)
    for other in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with other():
            result = fast(x)
        assert not result.requires_grad
        torch.testing.assert_close(result, net(x).detach(), rtol=1e-4, atol=1e-4)
    assert planned(fast)
