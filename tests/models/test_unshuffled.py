"""Options of SepDnCNN and DeconvNet: layers on squares of pixels, residual blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from zoo import tiny

from denoise_ext.models import build_model, create_model

NAMES = ["sepdncnn_s_gray", "deconvnet_s_gray"]
SIGMA = 25.0


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubled(name: str, **options: object) -> torch.nn.Module:
    """In float64: compared to the last digits."""
    return tiny(name, **options).double()


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=rng(), dtype=torch.float64)


def separable(x: torch.Tensor, state: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    weight, bias = state[f"{layer}.depthwise.weight"], state[f"{layer}.depthwise.bias"]
    x = F.conv2d(x, weight, bias, padding=1, groups=len(weight))
    return F.conv2d(x, state[f"{layer}.pointwise.weight"], state[f"{layer}.pointwise.bias"])


def test_separable_blocks_written_out():
    model = doubled("sepdncnn_s_gray", depth=6)
    state, x = model.state_dict(), picture(2, 1, 12, 8)
    level = torch.full((2, 1, 6, 4), SIGMA / 255, dtype=torch.float64)
    y = torch.cat([F.pixel_unshuffle(x, 2), level], dim=1)
    y = F.conv2d(y, state["body.0.weight"], state["body.0.bias"], padding=1).relu()
    for block in ("body.1", "body.2"):
        inner = separable(y, state, f"{block}.conv1").relu()
        y = y + separable(inner, state, f"{block}.conv2")
    y = F.conv2d(y, state["body.3.weight"], state["body.3.bias"], padding=1)
    with torch.no_grad():
        torch.testing.assert_close(model(x, SIGMA), x - F.pixel_shuffle(y, 2))


def test_encoder_and_decoder_written_out():
    model = doubled("deconvnet_s_gray", levels=1, depth=1)
    state, x = model.state_dict(), picture(2, 1, 12, 8)

    def conv(y: torch.Tensor, layer: str) -> torch.Tensor:
        return F.conv2d(y, state[f"{layer}.weight"], state[f"{layer}.bias"], padding=1)

    def transposed(y: torch.Tensor, layer: str, stride: int = 1) -> torch.Tensor:
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        return F.conv_transpose2d(y, weight, bias, stride, padding=1)

    pool = {"max": F.max_pool2d, "average": F.avg_pool2d}[model.pooling]
    level = torch.full((2, 1, 6, 4), SIGMA / 255, dtype=torch.float64)
    fine = conv(torch.cat([F.pixel_unshuffle(x, 2), level], dim=1), "encoder.0.0").relu()
    coarse = conv(pool(fine, 2), "encoder.1.0").relu()
    y = (transposed(coarse, "up.0", 2) + fine).relu()
    y = transposed(transposed(y, "decoder.0.0").relu(), "tail")
    with torch.no_grad():
        torch.testing.assert_close(model(x, SIGMA), x - F.pixel_shuffle(y, 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_noise_map_is_averaged_over_the_squares(name):
    model, x = doubled(name), picture(1, 1, 16, 16)
    sigma = 10 + 40 * picture(1, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    rows = torch.tensor([4.0, -4.0], dtype=torch.float64).repeat(8)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(model(x, sigma + rows), model(x, sigma))
        assert not torch.allclose(model(x, sigma + 10), model(x, sigma))


def test_without_a_noise_map():
    model, x = doubled("deconvnet_s_gray", noise_map=False), picture(1, 1, 7, 9)
    assert not model.needs_sigma and model(x).shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_unshuffle_is_a_side_in_pixels(name):
    assert create_model(name, unshuffle=3).stride % 3 == 0
    for wrong, kind in ((0, ValueError), (17, ValueError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(kind, match="unshuffle must be"):
            create_model(name, unshuffle=wrong)


def test_residual_blocks_are_pairs_of_layers():
    with pytest.raises(ValueError, match="depth must be even with skips, got 15"):
        create_model("sepdncnn_s_gray", depth=15)
    with pytest.raises(TypeError, match="skips must be true or false"):
        create_model("sepdncnn_s_gray", skips="no")


@pytest.mark.parametrize("name", ["sepdncnn_gray", "deconvnet_gray"])
def test_earlier_files_build_the_same_network(name):
    """Their configuration has none of the new options, and the names of weights are as before."""
    model = tiny(name)
    earlier = {k: v for k, v in model.config.items() if k != "unshuffle"}
    if name == "sepdncnn_gray":
        del earlier["skips"]
        first = "body.1.depthwise.weight"
    else:
        first = "encoder.0.0.weight"
    again = build_model(earlier)
    again.load_state_dict(model.state_dict())
    assert first in model.state_dict() and again.config == model.config
