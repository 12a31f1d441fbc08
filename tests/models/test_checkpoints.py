"""Reading and writing weights: own files, published layouts, bad files."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import keys_under, published_chain, randomise
from rotation import on_day
from safetensors.torch import save_file
from shared_data import image_folder, needs
from torch import Tensor, nn

from denoise_ext.data import add_gaussian_noise
from denoise_ext.io import read_image
from denoise_ext.metrics import psnr
from denoise_ext.models import (
    create_model,
    fold_batchnorm,
    load_checkpoint,
    read_metadata,
    save_model,
)
from denoise_ext.models.dncnn import DnCNN
from denoise_ext.nn import to_torch


def image(channels: int = 1, n: int = 1) -> Tensor:
    return torch.rand(n, channels, 9, 12, generator=torch.Generator().manual_seed(1))


def output(model: nn.Module, x: Tensor, sigma: float | None = None) -> Tensor:
    with torch.inference_mode():
        return to_torch(model)(x, sigma)


# ---- published layouts


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        pytest.param("model", {}, id="KAIR"),
        pytest.param("model", {"norm": True}, id="KAIR with BatchNorm"),
        pytest.param(
            "dncnn", {"norm": True, "first_bias": False, "bias": False, "eps": 1e-5}, id="SaoYan"
        ),
        pytest.param("dncnn", {"norm": True, "bias": False}, id="cszn/DnCNN"),
    ],
)
def test_dncnn(tmp_path, channels, prefix, options):
    chain = published_chain(channels, channels, **options)
    torch.save(keys_under(prefix, chain), tmp_path / "net.pth")
    model = load_checkpoint(tmp_path / "net.pth")
    assert isinstance(model, DnCNN)
    assert (model.in_channels, model.depth, model.width) == (channels, 5, 6)
    assert not model.training
    assert not model.needs_sigma
    x = image(channels)
    with torch.inference_mode():
        torch.testing.assert_close(output(model, x), x - chain(x), rtol=1e-5, atol=1e-5)


def test_fdncnn(tmp_path):
    chain = published_chain(2, 1)
    torch.save(keys_under("model", chain), tmp_path / "fdncnn.pth")
    model = load_checkpoint(tmp_path / "fdncnn.pth")
    assert model.needs_sigma
    x = image()
    with torch.inference_mode():
        expected = chain(torch.cat([x, torch.full_like(x, 30 / 255)], dim=1))
    torch.testing.assert_close(output(model, x, 30.0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_ffdnet(tmp_path, channels):
    chain = published_chain(4 * channels + 1, 4 * channels)
    torch.save(keys_under("model", chain), tmp_path / "ffdnet.pth")
    model = load_checkpoint(tmp_path / "ffdnet.pth")
    assert model.config["predicts"] == "image"
    x = image(channels)[..., :8, :]
    features = torch.cat(
        [nn.functional.pixel_unshuffle(x, 2), torch.full((1, 1, 4, 6), 15 / 255)], dim=1
    )
    with torch.inference_mode():
        expected = nn.functional.pixel_shuffle(chain(features), 2)
    torch.testing.assert_close(output(model, x, 15.0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_ffdnet_of_ipol(tmp_path, channels):
    """Its forward pass written out: levels first, one for each channel; the result is the noise."""
    chain = published_chain(
        5 * channels, 4 * channels, norm=True, first_bias=False, bias=False, eps=1e-5
    )
    state = keys_under("intermediate_dncnn.itermediate_dncnn", chain)
    torch.save({f"module.{key}": v for key, v in state.items()}, tmp_path / "net.pth")
    model = load_checkpoint(tmp_path / "net.pth")
    assert model.config["predicts"] == "noise" and model.in_channels == channels
    x = image(channels)[..., :8, :]
    parts = [x[..., dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)]
    shuffled = torch.stack(parts, dim=2).flatten(1, 2)  # (1, 4C, 4, 6), channel by channel
    levels = torch.full((1, channels, 4, 6), 15 / 255)
    with torch.inference_mode():
        noise = chain(torch.cat([levels, shuffled], dim=1))
    expected = x.clone()
    for place, (dy, dx) in enumerate((dy, dx) for dy in (0, 1) for dx in (0, 1)):
        expected[..., dy::2, dx::2] -= noise[:, place::4]
    torch.testing.assert_close(output(model, x, 15.0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": v for key, v in state.items()}},
        lambda state: {key: value.half() for key, value in state.items()},
    ],
    ids=["state_dict", "params", "module", "both", "half"],
)
def test_wrappings(tmp_path, wrap):
    state = keys_under("model", published_chain(1, 1))
    torch.save(state, tmp_path / "plain.pt")
    torch.save(wrap(state), tmp_path / "wrapped.pt")
    expected = output(load_checkpoint(tmp_path / "plain.pt"), image())
    # half: weights of 11 bits, five layers
    tolerance = 5e-2 if wrap(state).get("model.0.weight", torch.empty(0)).dtype == torch.half else 0
    loaded = load_checkpoint(tmp_path / "wrapped.pt")
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(output(loaded, image()), expected, rtol=tolerance, atol=tolerance)


def test_foreign_safetensors(tmp_path):
    state = keys_under("model", published_chain(1, 1))
    torch.save(state, tmp_path / "net.pth")
    save_file(dict(state), tmp_path / "net.safetensors")
    a = load_checkpoint(tmp_path / "net.pth")
    b = load_checkpoint(tmp_path / "net.safetensors")
    assert torch.equal(output(a, image()), output(b, image()))


# ---- folding


def absolute(model: DnCNN) -> DnCNN:
    """The same network with every number replaced by its magnitude, so that it bounds the sum of
    the magnitudes of all terms in ``model``; the subtracted mean is added."""
    model = copy.deepcopy(model)
    for layer in model.body:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.abs_().neg_()
        if isinstance(layer, (nn.BatchNorm2d, nn.Conv2d)):
            for parameter in layer.parameters():
                parameter.data.abs_()
    return model


@pytest.mark.parametrize("noise_map", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_folding_changes_rounding_only(noise_map, seed):
    torch.manual_seed(seed)
    model = randomise(DnCNN(2, 8, 6, noise_map=noise_map, batch_norm=True)).double()
    x = torch.rand(1, 2, 9, 12, dtype=torch.float64)
    folded = fold_batchnorm(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    difference = (output(folded, x, 25.0) - output(model, x, 25.0)).abs()
    # Forward error of a composition of sums: (1 + eps)^k - 1 times the network of magnitudes,
    # k the roundings on the longest path. Per layer: at most 9 * 8 products and sums, and 10 more
    # for folding, normalisation and the last subtraction; twice, for the two networks.
    bound = x + to_torch(absolute(model)).body(
        torch.cat([x, torch.full_like(x[:, :1], 25 / 255)], 1) if noise_map else x
    )
    roundings = 2 * 6 * (2 * 9 * 9 + 10)
    assert (difference <= roundings * torch.finfo(torch.float64).eps * bound).all()
    assert difference.max() > 0  # the two are computed differently


def test_folding_keeps_a_model_without_batchnorm():
    model = randomise(DnCNN(1, 4, 3))
    assert torch.equal(output(fold_batchnorm(model), image()), output(model, image()))
    with pytest.raises(TypeError, match="DnCNN"):
        fold_batchnorm(nn.Conv2d(1, 1, 3))


# ---- own files


@pytest.mark.parametrize("name", ["ffdnet_gray", "dncnn_color"])
def test_save_and_load(tmp_path, name):
    model = randomise(create_model(name, width=5, depth=3))
    save_model(model, tmp_path / "net.safetensors", torch.float32, {"steps": 7})
    again = load_checkpoint(tmp_path / "net.safetensors")
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert read_metadata(tmp_path / "net.safetensors")["training"] == {"steps": 7}


def test_a_network_described_by_lists_is_saved_and_created_again(tmp_path):
    options = {"widths": (4, 6), "blocks": (1, 2)}
    model = randomise(create_model("dxnet_s_color", **options))
    path = tmp_path / "net.safetensors"
    save_model(model, path, torch.float32)
    again = create_model("dxnet_s_color", checkpoint_path=path, **options)
    assert again.config == model.config
    assert torch.equal(output(again, image(3), 25.0), output(model, image(3), 25.0))
    with pytest.raises(ValueError, match=r"widths is \[4, 6\], wanted \[64, 80\]"):
        create_model("dxnet_s_color", checkpoint_path=path)


def test_half_precision_by_default(tmp_path):
    model = randomise(create_model("ffdnet_gray", width=5, depth=3))
    save_model(model, tmp_path / "net.safetensors")
    again = load_checkpoint(tmp_path / "net.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float())


def test_batchnorm_is_folded_when_loaded(tmp_path):
    model = randomise(DnCNN(1, 6, 4, batch_norm=True))
    save_model(model, tmp_path / "net.safetensors", torch.float32)
    again = load_checkpoint(tmp_path / "net.safetensors")
    assert again.config["batch_norm"] is False
    torch.testing.assert_close(output(again, image()), output(model, image()))


def test_create_model_with_a_checkpoint(tmp_path):
    model = randomise(create_model("ffdnet_gray", width=5, depth=3))
    save_model(model, tmp_path / "net.safetensors", torch.float32)
    path = tmp_path / "net.safetensors"
    again = create_model("ffdnet_gray", checkpoint_path=path, width=5, depth=3)
    assert torch.equal(output(again, image(), 9.0), output(model, image(), 9.0))
    with pytest.raises(ValueError, match=r"'ffdnet_gray'.*width.*5.*64"):
        create_model("ffdnet_gray", checkpoint_path=path)


def test_weights_that_half_precision_cannot_hold(tmp_path):
    model = create_model("ffdnet_gray", width=2, depth=2)
    model.body[0].bias.data.fill_(1e6)
    with pytest.raises(ValueError, match=r"body\.0\.bias.*not finite"):
        save_model(model, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


# ---- published weights


def mean_psnr(model: nn.Module, folder: str, sigma: float) -> float:
    """Mean PSNR in dB: one noise draw (one generator, seed 0, over the images in order of their
    names), noise not clipped, output clipped and not rounded."""
    generator = torch.Generator().manual_seed(0)
    network = to_torch(model).to(memory_format=torch.channels_last)
    values = []
    for path in image_folder(folder):
        pixels = torch.from_numpy(read_image(path).copy())
        pixels = pixels[..., None] if pixels.dim() == 2 else pixels
        clean = pixels.permute(2, 0, 1)[None].to(torch.float32).contiguous() / 255.0
        noisy = add_gaussian_noise(clean, sigma, generator)
        with torch.inference_mode():
            values.append(psnr(network(noisy, sigma).clamp(0, 1), clean).item())
    return sum(values) / len(values)


# Published: DnCNN-S on Set12 30.436 (cszn/DnCNN, README), FFDNet on Set12 30.43 (cszn/DPIR,
# figs/grayscale_psnr.png) and on CBSD68 31.21 (cszn/FFDNet, figs/table2.png). 0.03 dB covers one
# draw of the noise.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "folder", "published"),
    [
        on_day(0, "dncnn_25.pth", "Set12", 30.43, turns=12),
        on_day(4, "ffdnet_gray.pth", "Set12", 30.43, turns=12),
        on_day(8, "ffdnet_color.pth", "CBSD68", 31.21, turns=12),
    ],
)
def test_published_weights_give_the_published_psnr(file, folder, published):
    path = needs(f"published_weights/{file}")
    assert mean_psnr(load_checkpoint(path), f"test/{folder}", 25.0) == pytest.approx(
        published, abs=0.03
    )


@pytest.mark.parametrize(
    ("file", "depth", "channels"),
    [("dncnn_gray_blind.pth", 20, 1), ("dncnn_color_blind.pth", 20, 3)],
)
def test_published_blind_weights_remove_noise(file, depth, channels):
    model = load_checkpoint(needs(f"published_weights/{file}"))
    assert (model.config["depth"], model.in_channels) == (depth, channels)
    clean = torch.full((1, channels, 32, 32), 0.5)
    noisy = add_gaussian_noise(clean, 25.0, torch.Generator().manual_seed(0))
    # a flat patch: 20 dB of noise at sigma 25, and nothing in it to be lost
    assert psnr(output(model, noisy), clean).item() > 32.0
