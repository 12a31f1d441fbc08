"""Guided filters and guided networks as models of a Denoiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denoise_ext import nn, reference, tasks
from denoise_ext._loader import native_error
from denoise_ext.io import Metadata, picture_of, read_picture, write_image, write_picture
from denoise_ext.models import create_model, save_model
from denoise_ext.runtime import RunOptions
from denoise_ext.tasks import Denoiser
from denoise_ext.tasks.holes import filled
from denoise_ext.tasks.processor import load_denoiser

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")

RNG = np.random.default_rng(9)
DEPTH = (np.arange(31 * 43).reshape(31, 43) % 43 > 20) * 0.6 + RNG.normal(0.1, 0.05, (31, 43))
DEPTH = DEPTH.astype(np.float32)
PHOTO = RNG.integers(0, 20, (31, 43, 3), dtype=np.uint8)
PHOTO[:, 21:] += 180


def test_joint_bilateral_keeps_the_edges_of_the_guide():
    result = tasks.denoise(DEPTH, "joint_bilateral", guide=PHOTO)
    assert result.shape == DEPTH.shape and result.dtype == DEPTH.dtype
    for side in (slice(0, 21), slice(21, 43)):
        clean = 0.1 if side.start == 0 else 0.7
        before, after = (np.abs(x[:, side] - clean).mean() for x in (DEPTH, result))
        assert after < before / 2
    expected = reference.joint_bilateral_blur(
        torch.from_numpy(DEPTH)[None, None],
        torch.from_numpy(PHOTO).permute(2, 0, 1)[None] / 255,
        (13, 13), 0.1, (3.0, 3.0), color_distance_type="l2",
    )  # fmt: skip
    np.testing.assert_allclose(result, expected[0, 0], atol=1e-5)


def test_a_filter_of_ones_own_in_tiles_and_batches():
    layer = nn.JointBilateralBlur(5, sigma_color=0.2, sigma_space=1.5)
    whole = Denoiser(layer, tile=None)(DEPTH, guide=PHOTO)
    tiled = Denoiser(layer, tile=14).run(DEPTH, guide=PHOTO)
    assert tiled.tiles > 6 and tiled.sigma is None
    np.testing.assert_array_equal(tiled.image, whole)
    alpha = np.concatenate([PHOTO, PHOTO[..., :1]], -1)
    np.testing.assert_array_equal(Denoiser(layer)(DEPTH, guide=alpha), whole)
    batch = torch.from_numpy(np.stack([DEPTH, DEPTH[::-1]]))[:, None]
    guides = torch.from_numpy(np.stack([PHOTO, PHOTO[::-1]])).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(Denoiser(layer)(batch, guide=guides)[0, 0], whole)
    with pytest.raises(ValueError, match=r"cannot be computed in tiles.*border is circular"):
        Denoiser(nn.JointBilateralBlur(5, 0.2, 1.5, "circular"), tile=14)(DEPTH, guide=PHOTO)


BAD_GUIDES = [
    ({"guide": PHOTO, "model": "dxnet_s_gray"}, ValueError, "guide: this model takes none.*joint"),
    ({"model": "joint_bilateral"}, ValueError, "guide is required by this model"),
    ({"model": "joint_bilateral", "guide": PHOTO[1:]}, ValueError, r"guide must.*\(31, 43\).*30"),
    ({"model": "joint_bilateral", "guide": 7}, TypeError, "guide: image must be"),
    ({"model": "joint_bilateral", "guide": PHOTO, "backend": "torch"}, ValueError, "guided"),
    ({"model": "joint_bilateral", "guide": 1.0 * PHOTO}, ValueError, r"guide: .*\[0, 1\] scale"),
    ({"model": "joint_bilateral", "guide": PHOTO / np.nan}, ValueError, "guide: .*NaN"),
    (
        {"model": "joint_bilateral", "guide": PHOTO.astype("i2")},
        TypeError,
        r"guide: .*torch\.int16",
    ),
]


@pytest.mark.parametrize("change, error, message", BAD_GUIDES)
def test_bad_guides_are_named(change, error, message):
    with pytest.raises(error, match=message):
        tasks.denoise(DEPTH, **{"sigma": 10.0} | change)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("dxnet_s_guided", widths=[8, 16], blocks=[1, 1], guide_width=4).eval()


def expected(network, depth, photo, sigma):
    inputs = {
        "image": torch.from_numpy(depth)[None, None],
        "guide": torch.from_numpy(photo).permute(2, 0, 1)[None] / 255,
        "noise_map": torch.full((1, 1, 1, 1), sigma / 255),
    }
    with torch.no_grad():
        return network(inputs)[0]["image"][0, 0].numpy()


def test_a_network_gets_image_level_and_guide(network, tmp_path):
    whole = expected(network, DEPTH, PHOTO, 20.0)
    assert np.abs(whole - expected(network, DEPTH, PHOTO[:, ::-1].copy(), 20.0)).max() > 1e-3
    made = Denoiser(network, sigma=20).run(DEPTH, guide=PHOTO)
    np.testing.assert_allclose(made.image, whole, atol=1e-5)
    assert made.sigma == 20 and not made.sigma_estimated
    estimated = Denoiser(network).run(DEPTH, guide=PHOTO)
    assert estimated.sigma_estimated and 5 < estimated.sigma < 30  # 0.05 of white is 12.75
    save_model(network, tmp_path / "guided.safetensors", torch.float32, {})
    again = Denoiser(tmp_path / "guided.safetensors", sigma=20)(DEPTH, guide=PHOTO)
    np.testing.assert_array_equal(again, made.image)


def test_tiles_batches_colours_and_kinds_of_guides(network):
    whole = Denoiser(network, sigma=20, precision="strict", tile=None)(DEPTH, guide=PHOTO)
    depth, photo = (np.tile(x, (4, 3) + (1,) * (x.ndim - 2)) for x in (DEPTH, PHOTO))
    large = Denoiser(network, sigma=20, precision="strict", tile=None)(depth, guide=photo)
    tiled = Denoiser(network, sigma=20, precision="strict", tile=112).run(depth, guide=photo)
    assert tiled.tiles > 1
    np.testing.assert_array_equal(tiled.image, large)
    batch = torch.from_numpy(np.stack([DEPTH, DEPTH[::-1]]))[:, None]
    guides = torch.from_numpy(np.stack([PHOTO, PHOTO[::-1]])).permute(0, 3, 1, 2)
    made = Denoiser(network, sigma=20, precision="strict")(batch, guide=guides)
    np.testing.assert_allclose(made[0, 0], whole, atol=1e-6)
    gray = PHOTO[..., 0]
    thrice = np.repeat(gray[..., None], 3, axis=2)
    one, three = (Denoiser(network, sigma=20)(DEPTH, guide=g) for g in (gray, thrice))
    np.testing.assert_array_equal(one, three)
    colours = np.stack([DEPTH, DEPTH[::-1], 1 - DEPTH], 2)
    made = Denoiser(network, sigma=20)(colours, guide=PHOTO)
    np.testing.assert_allclose(made[..., 0], whole, atol=1e-5)
    for turned in ("guide must", r"\(31, 43\)", r"\(43, 31\)"):
        with pytest.raises(ValueError, match=turned):
            Denoiser(network, sigma=20)(DEPTH, guide=PHOTO.transpose(1, 0, 2))
    with pytest.raises(ValueError, match="guide is required"):
        Denoiser(network, sigma=20)(DEPTH)


@pytest.mark.parametrize("model", ["network", "joint_bilateral"])
def test_uncertainty_has_a_reason(network, model):
    denoiser = Denoiser(network if model == "network" else model, sigma=20, uncertainty=2)
    result = denoiser.run(DEPTH, guide=PHOTO)
    assert result.uncertainty is None and "guide" in result.uncertainty_reason


def test_a_guided_network_is_the_default_where_it_has_weights(network, tmp_path, monkeypatch):
    from denoise_ext.tasks import guide

    with pytest.raises(ValueError, match="guide: no network with a guide has trained weights"):
        monkeypatch.setattr(guide, "pretrained_info", lambda name: None)
        Denoiser()(DEPTH, guide=PHOTO)
    save_model(network, tmp_path / "guided.safetensors", torch.float32, {})
    monkeypatch.setattr(guide, "default_guided", lambda: str(tmp_path / "guided.safetensors"))
    made = Denoiser(sigma=20)(DEPTH, guide=PHOTO)
    np.testing.assert_array_equal(made, Denoiser(network, sigma=20)(DEPTH, guide=PHOTO))


def test_a_guide_that_is_turned_is_refused(network, tmp_path):
    """A square guide of another EXIF orientation has the image's size, and does not fit."""
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    depth, photo = (DEPTH[:, :31] * 255).clip(0, 255).astype(np.uint8), PHOTO[:, :31]
    write_image(tmp_path / "plain.png", photo)
    write_picture(tmp_path / "turned.png", picture_of(photo, metadata=Metadata(exif=exif)))
    write_image(tmp_path / "depth.png", depth)
    image, denoiser = read_picture(tmp_path / "depth.png"), Denoiser(network, sigma=20)
    made = denoiser(image, guide=tmp_path / "plain.png").frames[0]
    np.testing.assert_array_equal(made, denoiser(depth, guide=photo))
    with pytest.raises(ValueError, match="guide has the EXIF orientation 6, but the image 1"):
        denoiser(image, guide=tmp_path / "turned.png")
    # a file as an array is upright
    upright = np.rot90(photo, -1)
    made = denoiser(depth, guide=tmp_path / "turned.png")
    np.testing.assert_array_equal(made, denoiser(depth, guide=upright))


def test_holes_are_kept_or_filled(network):
    rng = np.random.default_rng(4)
    depth = DEPTH + 0.2  # noise does not reach 0
    holes = rng.random(depth.shape) < 0.1
    holes[10:20, 25:35] = True
    broken = np.where(holes, 0, depth).astype(np.float32)
    broken[12, 30] = np.nan
    kept = Denoiser(network, sigma=5, holes="keep")(broken, guide=PHOTO)
    np.testing.assert_array_equal(kept[holes], broken[holes])
    deep = (np.nan_to_num(broken).clip(0, 1) * 60000).astype(
        np.uint16
    )  # PyTorch lacks much for this type
    made = Denoiser(network, sigma=5, holes="keep")(deep, guide=PHOTO)
    np.testing.assert_array_equal(made == 0, deep == 0)
    full = Denoiser(network, sigma=5, holes="fill")(broken, guide=PHOTO)
    np.testing.assert_array_equal(full[~holes], kept[~holes])
    assert np.isfinite(full).all() and (full[holes] != 0).all()
    # what is filled is that of the hole's own side of the edge, which the guide shows
    flat = np.where(np.arange(43) < 21, 0.3, 0.9).astype(np.float32) * np.ones((31, 1), np.float32)
    cut = torch.from_numpy(flat.copy())[None, None]
    lost = torch.zeros_like(cut, dtype=torch.bool)
    lost[..., 8:20, 17:25] = True
    guide = torch.from_numpy(PHOTO).permute(2, 0, 1)[None] / 255
    made = filled(torch.where(lost, 0, cut), lost, guide)
    assert (made - cut).abs().max() < 0.02
    without = filled(torch.where(lost, 0, cut), lost, None)
    assert (without - cut).abs().max() > 0.1
    # far from any value
    lost[..., 1:, :] = True
    made = filled(cut, lost, guide)
    assert made.min() >= 0.29 and made.max() <= 0.91


def test_holes_in_files_and_what_is_refused(network, tmp_path):
    depth = (DEPTH * 1000 + 600).astype(np.float32)
    depth[5:9, 7:11] = np.nan
    write_picture(tmp_path / "depth.tif", picture_of(depth))
    picture = read_picture(tmp_path / "depth.tif")
    kept = Denoiser(network, sigma=5, holes="keep")(picture, guide=PHOTO).frames[0]
    np.testing.assert_array_equal(np.isnan(kept), np.isnan(depth))
    full = Denoiser(network, sigma=5, holes="fill")(picture, guide=PHOTO).frames[0]
    assert np.isfinite(full).all()
    # the hole's neighbours have the values of either side, 0.1 and 0.7 of the range
    assert np.abs(full[5:9, 7:11] - 700).max() < 300
    nothing = np.zeros((31, 43), np.uint8)
    for options, named in (
        ({"holes": "keep"}, "holes.*guide"),
        ({"holes": "maybe", "guide": PHOTO}, "holes.*maybe"),
        ({"holes": "fill", "guide": PHOTO, "image": nothing}, "pixel is a hole"),
    ):
        image = options.pop("image", DEPTH)
        guide = options.pop("guide", None)
        with pytest.raises(ValueError, match=named):
            Denoiser(network, sigma=5, **options)(image, guide=guide)


def test_transparent_pixels_are_no_holes(network):
    alpha = np.ones_like(DEPTH)
    alpha[5:15, 5:15] = 0
    image = np.stack([DEPTH + 0.2, alpha], 2)
    plain, kept, full = (
        Denoiser(network, sigma=5, alpha="denoise", holes=holes)(image, guide=PHOTO)[..., 1]
        for holes in ("none", "keep", "fill")
    )
    np.testing.assert_array_equal(kept, plain)
    np.testing.assert_array_equal(full, plain)


def test_a_network_for_guides_of_two_channels_is_refused_at_once():
    network = create_model("dxnet_s_guided", widths=[8], blocks=[1], guide_channels=2).eval()
    with pytest.raises(ValueError, match="DXNetGuided with inputs image, noise_map, guide"):
        Denoiser(network)


def test_a_batch_whose_model_and_guide_do_not_fit_is_one_error():
    for model, guided, named in (
        ("joint_bilateral", False, "guide is required"),
        ("dxnet_s", True, "guide: this model takes none"),
        ("dxnet_s_gray", True, "guide: this model takes none"),
    ):
        with pytest.raises(ValueError, match=named):
            load_denoiser(model, RunOptions(), guided)
    load_denoiser("joint_bilateral", RunOptions(), True)
