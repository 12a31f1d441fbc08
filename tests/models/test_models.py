"""The registry and the calling convention every model keeps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from zoo import TINY, image_denoisers, tiny

from denoise_ext.models import (
    ImageUpscaler,
    build_model,
    create_model,
    list_models,
    pretrained_info,
    register_model,
)
from denoise_ext.models.dxcodec import DXCodec
from denoise_ext.models.ffdnet import FFDNet
from denoise_ext.nn import to_torch

SMALL = TINY["ffdnet"]


def small(name: str, **options) -> torch.nn.Module:
    """A narrow version of a registered model, with random weights, in plain torch layers."""
    return to_torch(tiny(name, **options))


def image(channels: int, *size: int, n: int = 2) -> torch.Tensor:
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(1))


# ---- registry


@pytest.mark.parametrize("name", list_models())
def test_config_rebuilds_the_model(name):
    with torch.device("meta"):
        model = create_model(name)
        again = build_model(model.config)
    assert again.config == model.config
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    assert type(again) is type(model)


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_docstring_and_a_name_that_says_its_channels(name):
    with torch.device("meta"):
        model = create_model(name)
    colour = (
        "color" in name
        or name.endswith(("_photo", "_texture"))
        or isinstance(model, (ImageUpscaler, DXCodec))
    )
    assert model.in_channels == (3 if colour else 1)
    assert type(model).__doc__


def test_published_depths_and_widths():
    # Zhang et al. 2017: 17 layers for one noise level, 20 for blind denoising.
    # Zhang et al. 2018: 15 layers of 64 channels (gray), 12 layers of 96 channels (colour).
    with torch.device("meta"):
        shape = {
            name: (create_model(name).config["depth"], create_model(name).config["width"])
            for family in ("dncnn*", "ffdnet*")
            for name in list_models(family)
        }
    assert shape["dncnn_gray"] == shape["dncnn_color"] == (17, 64)
    assert shape["dncnn_gray_blind"] == shape["dncnn_color_blind"] == (20, 64)
    assert shape["ffdnet_gray"] == (15, 64)
    assert shape["ffdnet_color"] == (12, 96)


def test_list_models_filters():
    assert "ffdnet_gray" in list_models("ffdnet*")
    assert not set(list_models("ffdnet*")) & set(list_models("dncnn*"))
    assert list_models("nothing*") == []
    assert set(list_models(pretrained=True)) <= set(list_models())


def test_unknown_name_suggests():
    with pytest.raises(ValueError, match=r"unknown model 'ffdnet_grey'.*ffdnet_gray"):
        create_model("ffdnet_grey")
    with pytest.raises(ValueError, match="unknown model"):
        pretrained_info("ffdnet_grey")
    with pytest.raises(ValueError, match="unknown model family"):
        build_model({"family": "unet"})


def test_wrong_options():
    with pytest.raises(ValueError, match="colour"):
        create_model("ffdnet_gray", colour=True)
    with pytest.raises(ValueError, match=r"depth.*>= 2"):
        create_model("ffdnet_gray", depth=1)
    with pytest.raises(TypeError, match=r"width.*int"):
        create_model("dncnn_gray", width=6.5)
    with pytest.raises(ValueError, match=r"predicts.*image, noise"):
        create_model("dncnn_gray", predicts="residual")
    with pytest.raises(ValueError, match="exclude each other"):
        create_model("ffdnet_gray_small", pretrained=True, checkpoint_path="x.pth")
    with pytest.raises(ValueError, match="ships without weights"):
        create_model("dncnn_gray", pretrained=True)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *((name, "noise_map") for name in ("dncnn_gray", "sepdncnn_gray", "deconvnet_gray",
                                           "drunet_gray", "nafnet_gray")),
        ("dncnn_gray", "batch_norm"),
        ("deconvnet_gray", "skips"),
        ("drunet_gray", "bias"),
    ],
)  # fmt: skip
def test_a_text_is_no_switch(name, option):
    """bool("no") is True."""
    with torch.device("meta"), pytest.raises(TypeError, match=f"{option} must be true or false"):
        create_model(name, **{option: "no"})


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="already registered"):

        @register_model
        def ffdnet_gray():
            raise AssertionError


# ---- calling convention


@pytest.mark.parametrize("name", image_denoisers())
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3), (8, 8)])
def test_any_size_same_size_out(name, size):
    model = small(name)
    x = image(model.in_channels, *size)
    with torch.inference_mode():
        y = model(x, 25.0)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", ["ffdnet_gray", "ffdnet_color_small", "dncnn_gray"])
def test_sigma_as_number_tensor_and_map_agree(name):
    model = small(name, **({"noise_map": True} if name == "dncnn_gray" else {}))
    x = image(model.in_channels, 7, 10)
    with torch.inference_mode():
        expected = model(x, 30)
        for sigma in (
            30.0,
            torch.tensor(30.0),
            torch.tensor([30.0, 30.0]),
            torch.full((2, 1, 7, 10), 30.0),
            torch.tensor([30, 30]),
        ):
            torch.testing.assert_close(model(x, sigma), expected)
        # each image is given its own level
        both = model(x, torch.tensor([10.0, 50.0]))
        torch.testing.assert_close(both[:1], model(x[:1], 10.0))
        torch.testing.assert_close(both[1:], model(x[1:], 50.0))


def test_blind_models_ignore_sigma():
    model = small("dncnn_gray_blind")
    assert not model.needs_sigma
    x = image(1, 6, 6)
    with torch.inference_mode():
        assert torch.equal(model(x), model(x, 25.0))
    with pytest.raises(ValueError, match="sigma"):
        model(x, -1.0)


def test_ffdnet_is_its_formula():
    model = small("ffdnet_color", predicts="noise")
    x = image(3, 5, 9)
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    features = torch.cat([F.pixel_unshuffle(padded, 2), torch.full((2, 1, 3, 5), 40 / 255)], dim=1)
    state = model.state_dict()
    for i in range(SMALL["depth"]):
        features = F.conv2d(features, state[f"body.{i}.weight"], state[f"body.{i}.bias"], padding=1)
        features = features if i == SMALL["depth"] - 1 else F.relu(features)
    expected = (padded - F.pixel_shuffle(features, 2))[..., :5, :9]
    with torch.inference_mode():
        torch.testing.assert_close(model(x, 40.0), expected)


def test_ffdnet_averages_a_sigma_map_over_two_by_two_pixels():
    model = small("ffdnet_gray")
    x = image(1, 4, 4, n=1)
    fine = torch.tensor([[10.0, 20.0], [30.0, 40.0]]).repeat(2, 2).reshape(1, 1, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(model(x, fine), model(x, 25.0))


def test_empty_batch():
    model = small("ffdnet_gray")
    assert model(torch.empty(0, 1, 8, 8), 25.0).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("name", ["ffdnet_color", "dncnn_gray"])
def test_own_layers_compute_what_torch_computes(name):
    torch.manual_seed(0)
    model = create_model(name, **SMALL).eval()
    x = image(model.in_channels, 13, 10)
    with torch.inference_mode():
        # both accumulate in float32: a few layers of sums of at most 9 * 13 terms near 1
        torch.testing.assert_close(model(x, 25.0), to_torch(model)(x, 25.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [25.0, torch.tensor([10.0, 20.0])])
def test_compiles_in_one_graph(sigma):
    model = small("ffdnet_gray")
    torch._dynamo.reset()  # it compiles a method for a limited number of classes
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = image(1, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, sigma), model(x, sigma))


def test_gradients_reach_every_parameter():
    model = FFDNet(**SMALL, predicts="noise")
    torch_model = to_torch(model)
    torch_model(image(1, 8, 8), 25.0).square().sum().backward()
    assert all(parameter.grad is not None for parameter in torch_model.parameters())


def test_dxnet_scales_with_its_input():
    # No bias anywhere: f(a x, a sigma) = a f(x, sigma). A power of two changes no rounding.
    model = small("dxnet_s_color")
    x = image(3, 16, 12)
    with torch.inference_mode():
        assert torch.equal(model(4 * x, 100.0), 4 * model(x, 25.0))


def test_dxnet_before_training_is_nearly_the_identity():
    model = create_model("dxnet_s_gray", **TINY["dxnet"])
    model.initialise(torch.Generator().manual_seed(0))
    x = image(1, 32, 32)
    with torch.inference_mode():
        change = to_torch(model)(x, 25.0) - x
    assert change.square().mean() < 0.1 * x.square().mean()


def test_dxnet_refuses_levels_without_blocks():
    with pytest.raises(ValueError, match="one entry per level"):
        create_model("dxnet_s_gray", widths=[8, 8], blocks=[1])
    with pytest.raises(ValueError, match=r"blocks\[1\] must be >= 1"):
        create_model("dxnet_s_gray", blocks=[1, 0])


# ---- bad input


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.rand(1, 3, 8, 8), ValueError, r"x must have shape \(N, 1, H, W\)"),
        (torch.rand(8, 8), ValueError, r"x must have shape"),
        (torch.rand(1, 1, 0, 8), ValueError, r"H, W >= 1"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, "floating point"),
        ([[0.5]], TypeError, "x must be a tensor"),
    ],
)
def test_wrong_image(x, error, message):
    with pytest.raises(error, match=message):
        small("ffdnet_gray")(x, 25.0)


@pytest.mark.parametrize(
    ("sigma", "error", "message"),
    [
        (None, ValueError, "sigma is required"),
        (-1.0, ValueError, "finite and >= 0"),
        (math.nan, ValueError, "finite and >= 0"),
        (torch.tensor([1.0, -1.0]), ValueError, "finite and >= 0"),
        (torch.ones(3), ValueError, r"a tensor of shape \(2,\)"),
        (torch.ones(2, 1, 4, 4), ValueError, r"map of shape \(2, 1, 8, 8\)"),
        ("25", TypeError, "sigma must be a number or a tensor"),
        (True, TypeError, "sigma must be a number or a tensor"),
        (torch.tensor([1j, 1j]), TypeError, "real"),
    ],
)
def test_wrong_sigma(sigma, error, message):
    with pytest.raises(error, match=message):
        small("ffdnet_gray")(torch.rand(2, 1, 8, 8), sigma)
