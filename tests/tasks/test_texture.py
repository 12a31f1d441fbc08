"""`texture`: between two networks, stated by the result and its file, refused where it misleads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import denoise_ext
from denoise_ext import Denoiser, io
from denoise_ext._loader import native_error
from denoise_ext.models import create_model, interpolate, pretrained_info
from denoise_ext.tasks.processor import Processor

needs_native = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
PHOTOGRAPH = f"{denoise_ext.__path__[0]}/assets/kodim21.png"
SIGMA = 25.0


def noisy(gray: bool = False) -> np.ndarray:
    clean = io.read_image(PHOTOGRAPH)[200:264, 250:314] / 255.0
    clean = clean.mean(axis=-1) if gray else clean
    noise = np.random.default_rng(0).normal(0, SIGMA / 255, clean.shape)
    return (clean + noise).astype(np.float32)


def test_the_shipped_partner_is_of_the_same_configuration():
    shipped = pretrained_info("dxnet_s_color")
    assert shipped.textured == "dxnet_s_texture"
    assert pretrained_info(shipped.textured).config == shipped.config


@needs_native
@pytest.mark.parametrize("gray", [False, True])
def test_it_is_the_network_between_both(gray):
    y = noisy(gray)
    ends = [create_model(name, pretrained=True) for name in ("dxnet_s_color", "dxnet_s_texture")]
    found = []
    for texture in (0.5, 1.0):
        result = Denoiser(sigma=SIGMA, texture=texture, precision="strict").run(y)
        expected = Denoiser(interpolate(*ends, texture), sigma=SIGMA, precision="strict")(y)
        np.testing.assert_allclose(result.image, expected, atol=1e-5)
        assert result.texture == texture
        found.append(result.image)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    plain = Denoiser(sigma=SIGMA).run(y)
    assert plain.texture == 0
    assert np.array_equal(plain.image, denoise_ext.denoise(y, sigma=SIGMA, texture=0))
    np.testing.assert_array_equal(denoise_ext.denoise(y, sigma=SIGMA, texture=1),
                                  Denoiser(sigma=SIGMA, texture=1)(y))  # fmt: skip


@needs_native
def test_the_partners_own_name_is_texture_1():
    y = noisy()
    named = Denoiser("dxnet_s_texture", sigma=SIGMA).run(y)
    assert named.texture == 1
    assert np.array_equal(named.image, Denoiser("dxnet_s_color", sigma=SIGMA, texture=1)(y))


@needs_native
def test_white_noise_is_treated_with_texture_and_the_line_states_it():
    y = np.tile(noisy(), (2, 2, 1))
    result = Denoiser(texture=0.5).run(y)
    assert result.noise[0].kind == "white"
    assert "texture 0.5" in result.treatment


@needs_native
def test_noise_of_a_camera_is_an_error_that_names_the_way_out():
    clean = np.tile(io.read_image(PHOTOGRAPH)[200:264, 250:314] / 255.0, (2, 2, 1))
    grain = np.random.default_rng(0).normal(0, 12 / 255, clean.shape)
    y = clean + (grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1)) / 2
    assert "dxnet_s_photo" in Denoiser().run(y.astype(np.float32)).treatment
    with pytest.raises(ValueError, match=r"texture.*sigma"):
        Denoiser(texture=0.5)(y.astype(np.float32))


@needs_native
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_file_states_it_and_others_do_not(suffix, tmp_path):
    y = (noisy().clip(0, 1) * 255).astype(np.uint8)
    io.write_image(tmp_path / f"in.{suffix}", y)
    picture = io.read_picture(tmp_path / f"in.{suffix}")
    with_texture = Denoiser(sigma=SIGMA, texture=0.5)(picture)
    io.write_picture(tmp_path / f"out.{suffix}", with_texture)
    written = io.read_picture(tmp_path / f"out.{suffix}").metadata.xmp
    assert b'denoise_ext:texture="0.5 of 1' in written
    assert Denoiser(sigma=SIGMA)(picture).metadata.xmp is None
    # nothing is made up where nothing is computed
    assert Denoiser(sigma=SIGMA, texture=0.5, strength=0)(picture).metadata.xmp is None
    with pytest.raises(io.ImageError, match="XMP"):
        io.write_picture(tmp_path / "out.bmp", with_texture)
    part = Denoiser(sigma=SIGMA, texture=0.5).run_part(picture, (slice(0, 8), slice(0, 8)))
    assert b"texture" in part.image.metadata.xmp


@pytest.mark.parametrize(
    "options, words",
    [
        ({"texture": 1.5}, ["texture", "1.5"]),
        ({"texture": float("nan")}, ["texture", "nan"]),
        ({"texture": 0.5, "model": "dxnet_s_photo"}, ["texture", "dxnet_s_photo", "dxnet_s_color"]),
        ({"texture": 0.5, "model": "dxnet_s_gray"}, ["texture", "dxnet_s_gray"]),
        ({"texture": 0.5, "model": torch.nn.Identity().eval(), "channels": 1}, ["texture"]),
        ({"texture": 0.5, "uncertainty": 2}, ["uncertainty", "texture"]),
        ({"model": "dxnet_s_texture", "uncertainty": 2}, ["uncertainty", "texture"]),
        ({"model": "dxnet_s_texture", "texture": 0.5}, ["texture", "0.5", "dxnet_s_color"]),
        ({"texture": 0.5, "alpha": "denoise"}, ["texture", "alpha"]),
    ],
)
def test_what_does_not_fit_is_an_error(options, words):
    with pytest.raises(ValueError) as error:
        Denoiser(**options)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("texture", ["1", None, True])
def test_another_type_is_an_error(texture):
    with pytest.raises(TypeError, match="texture"):
        Denoiser(texture=texture)


def test_a_batch_with_texture_has_another_fingerprint():
    plain = Processor().fingerprint()
    half, whole = (Processor(texture=texture).fingerprint() for texture in (0.5, 1.0))
    assert len({str(one) for one in (plain, half, whole)}) == 3
    assert "texture" not in plain  # runs from before it existed continue
    named = Processor("dxnet_s_texture").fingerprint()
    assert named != Processor("dxnet_s_color").fingerprint()


@needs_native
def test_a_batch_states_it_even_where_the_network_is_given():
    """As the actors of a cluster do, which get the weights."""
    picture = io.picture_of((noisy().clip(0, 1) * 255).astype(np.uint8), format="PNG")
    for processor in (
        Processor(sigma=SIGMA, texture=1.0),
        Processor("dxnet_s_texture", sigma=SIGMA),
    ):
        network = create_model("dxnet_s_texture", pretrained=True)
        images = [
            processor.load(given)(dataclasses.replace(picture)).image for given in (None, network)
        ]
        assert np.array_equal(images[0].frames[0], images[1].frames[0])
        assert all(b"texture" in image.metadata.xmp for image in images)
