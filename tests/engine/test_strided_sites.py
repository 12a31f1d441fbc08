"""The algorithms that a plan tries for strided and transposed convolutions."""

from __future__ import annotations

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from torch import nn

import denoise_ext
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import Constants
from denoise_ext.engine.fuse.match import find_sites


def _site(layer: nn.Module, precision: str = "default", size: int = 24) -> ConvSite:
    layer = layer.eval()
    x = torch.rand(1, layer.in_channels, size, size, dtype=layer.weight.dtype)
    graph, own, _ = trace(layer, "forward", (x,), {}, None, channels_last=True)
    constants = Constants(own, {})
    constants.enter(graph)
    (site,) = find_sites(graph, constants, precision)
    return site


PHASES = ["direct", "winograd4", "onednn"]


@pytest.mark.parametrize(
    ("layer", "variants"),
    [
        (nn.Conv2d(16, 16, 5, 2, 2), PHASES),
        (nn.Conv2d(16, 16, 4, 2, 1), PHASES),
        (nn.Conv2d(16, 16, 3, 2, 1), ["direct", "onednn"]),
        (nn.Conv2d(16, 16, 7, 2, 3), ["direct", "onednn"]),
        (nn.Conv2d(3, 16, 5, 2, 2), ["direct", "onednn"]),
        (nn.Conv2d(16, 16, 5, 2, 2, groups=2), ["direct", "onednn"]),
        (nn.Conv2d(16, 16, 5, 2, 2, groups=16), ["direct"]),
        (nn.Conv2d(16, 16, 5, 2, 2).double(), ["direct"]),
        (nn.ConvTranspose2d(16, 16, 5, 2, 2, 1), ["auto", "winograd4", "direct"]),
        (nn.ConvTranspose2d(16, 16, 2, 2), ["direct"]),
        (nn.ConvTranspose2d(16, 16, 5, 2, 2, 1, groups=2), ["auto"]),
    ],
)
def test_variants(layer, variants):
    assert _site(layer).variants() == variants
    assert "winograd4" not in _site(layer, "strict").variants()


@pytest.mark.parametrize(
    ("inputs", "outputs", "few"),
    [(3, 64, True), (5, 64, True), (12, 12, True), (12, 32, False), (13, 64, False),
     (64, 4, True), (16, 5, False), (48, 12, False), (64, 64, False)],
)  # fmt: skip
def test_the_first_guess_follows_the_channels(inputs, outputs, few):
    site = _site(nn.Conv2d(inputs, outputs, 3, padding=1))
    assert site.variants()[0] == ("direct" if few else "winograd4")
    strict = _site(nn.Conv2d(inputs, outputs, 3, padding=1), "strict")
    assert strict.variants() == ["direct"]


def test_an_output_smaller_than_the_stride_is_left_to_the_operator():
    layer = nn.ConvTranspose2d(4, 4, 2, 4)  # 2x2 outputs of 1x1 inputs
    assert _site(layer, size=1).variants() == ["auto"]


@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.usefixtures("ours_is_faster")
@torch.no_grad()
def test_each_variant_is_right_at_other_sizes(variant, monkeypatch):
    """An autoencoder of compression networks, by each of a site's algorithms."""
    own = ConvSite.variants
    monkeypatch.setattr(ConvSite, "variants", lambda site: [own(site)[variant % len(own(site))]])
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.LeakyReLU(), nn.Conv2d(16, 24, 5, 2, 2), nn.ReLU(),
        nn.ConvTranspose2d(24, 16, 5, 2, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 5, 2, 2, 1),
    ).eval()  # fmt: skip
    fast = denoise_ext.accelerate(net, torch.rand(1, 3, 48, 64))
    for size in [(48, 64), (16, 16), (4, 4), (52, 36)]:
        x = torch.rand(2, 3, *size)
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)
    replaced = [row for row in fast.report().rows if "conv" in row.site]
    assert len(replaced) == 4 and all(row.variant != "original" for row in replaced)
