"""Operations counted from the graph, against the sum of the layers written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo import FAMILIES, tiny

from denoise_ext.analysis import gflop_per_megapixel
from denoise_ext.models import create_model

# per pixel of the image: products, then two operations for each
PRODUCTS = {
    "dncnn_gray": 9 * (64 + 15 * 64 * 64 + 64),
    "dncnn_color_blind": 9 * (3 * 64 + 18 * 64 * 64 + 3 * 64),
    "sepdncnn_gray": 9 * 64 + 15 * (9 * 64 + 64 * 64) + 9 * 64,
    # 12 layers of 96 channels at a quarter of the pixels, 13 channels in, 12 out
    "ffdnet_color": 9 * (13 * 96 + 10 * 96 * 96 + 12 * 96) / 4,
    # two levels below of 96 and 192 channels; transposed 4x4: 16 products per input value
    "deconvnet_gray": 9 * (48 + 2 * 48**2 + 3 * 48**2 + 48)
    + 9 * (48 * 96 + 2 * 96**2 + 3 * 96**2) / 4
    + 9 * (96 * 192 + 2 * 192**2) / 16
    + 16 * (192 * 96 / 16 + 96 * 48 / 4),
    # at a quarter of the pixels, 4 channels and sigma in, 4 out
    "sepdncnn_s_gray": (9 * 5 * 64 + 14 * (9 * 64 + 64 * 64) + 9 * 64 * 4) / 4,
    "deconvnet_s_gray": 9 * (5 * 64 + 64**2 + 2 * 64**2 + 64 * 4) / 4
    + 9 * (64 * 128 + 128**2) / 16
    + 16 * 128 * 64 / 16,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_convolutions_are_counted(name):
    with torch.device("meta"):
        model = create_model(name)
    assert gflop_per_megapixel(model) == pytest.approx(2 * PRODUCTS[name] * 1e6 / 1e9, rel=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_counted_and_left_as_it_was(name):
    model = tiny(name).train()
    assert gflop_per_megapixel(model) > 0
    assert model.training and not next(model.parameters()).is_meta
    assert gflop_per_megapixel(model.half()) == gflop_per_megapixel(tiny(name))


def test_the_figures_in_the_text_of_sepdncnn():
    with torch.device("meta"):
        models = [create_model(name) for name in ("sepdncnn_gray", "dncnn_gray")]
    text = " ".join(type(models[0]).__doc__.split())
    gflop = [f"{gflop_per_megapixel(model):,.0f}" for model in models]
    count = [f"{sum(p.numel() for p in model.parameters()):,}" for model in models]
    assert f"takes {gflop[0]} GFLOP per megapixel where DnCNN takes {gflop[1]}," in text
    assert f"has {count[0]} parameters where DnCNN has {count[1]} (gray)" in text


def test_only_denoisers():
    with pytest.raises(TypeError, match="denoise_ext model"):
        gflop_per_megapixel(nn.Conv2d(1, 1, 3))
