"""Without model and sigma, the noise decides what is done."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from noisy_images import SIDE, coloured_noise, eight_bits, gaussian, impulses, scene

from denoise_ext import Denoiser, denoise, io
from denoise_ext.metrics import psnr
from denoise_ext.tasks.impulses import margins_of, without_impulses
from denoise_ext.tasks.noise_analysis import profile_of
from denoise_ext.tasks.treatment import PHOTO, sigma_map, treatment_for


def white(channels: int = 3, sigma: float = 15.0, seed: int = 0) -> np.ndarray:
    return eight_bits(scene(channels) + gaussian((SIDE, SIDE, channels), seed) * sigma / 255)


def quality(image: np.ndarray, clean: np.ndarray) -> float:
    x, y = (torch.from_numpy(np.ascontiguousarray(v))[None].float() for v in (image, clean))
    return float(psnr(x, y, 255))


CASES = {
    "white": (white, "dxnet_s_color"),
    "gray": (lambda: white(1), "dxnet_s_gray"),
    "gray stored as RGB": (lambda: np.repeat(white(1), 3, axis=2), "dxnet_s_gray"),
    "clean": (lambda: eight_bits(scene()), PHOTO),
    "clean gray": (lambda: eight_bits(scene(1)), "dxnet_s_gray"),
    "bayer": (lambda: coloured_noise("bayer"), PHOTO),
    "luma": (lambda: coloured_noise("luma"), "dxnet_s_color"),
    "jpeg": (lambda: coloured_noise("jpeg"), "dxnet_s_color"),
    "mixed": (lambda: impulses(white(), 0.05), "dxnet_s_color"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_done(case, caplog):
    make, model = CASES[case]
    noisy = make()
    with caplog.at_level(logging.INFO, "denoise_ext.tasks"):
        result = Denoiser().run(noisy)
    (profile,) = result.noise
    assert result.image.shape == noisy.shape and result.image.dtype == np.uint8
    assert model in result.treatment and result.treatment in caplog.text
    assert "\n" not in result.treatment
    assert (result.sigma is None) == (model == PHOTO)
    assert profile.gray_stored_as_rgb == (case == "gray stored as RGB")
    clean = scene(noisy.shape[2]) if "RGB" not in case else np.repeat(scene(1), 3, axis=2)
    clean = eight_bits(clean)
    if "clean" in case:
        assert quality(result.image, clean) > 45
    elif case != "bayer":  # the scene is no photograph
        gain = 3 if case == "jpeg" else 7
        assert quality(result.image, clean) > quality(noisy, clean) + gain


def test_white_is_as_with_the_network_and_that_level():
    noisy = white()
    result = Denoiser().run(noisy)
    assert result.sigma_estimated and result.sigma == result.noise[0].level
    expected = denoise(noisy, "dxnet_s_color", result.sigma)
    np.testing.assert_array_equal(result.image, expected)


def test_gray_stored_as_rgb_is_that_of_the_gray_picture():
    gray = white(1)
    stored = Denoiser().run(np.repeat(gray, 3, axis=2)).image
    np.testing.assert_array_equal(stored, np.repeat(Denoiser()(gray), 3, axis=2))


def test_a_given_model_or_level_is_not_second_guessed():
    stored = np.repeat(white(1), 3, axis=2)
    for result in (
        Denoiser("dxnet_s").run(stored),
        Denoiser(sigma=10.0).run(stored),
        Denoiser().run(stored, 10.0),
    ):
        assert (result.noise, result.treatment) == ((), "")
        assert result.sigma is not None


def test_a_map_gains_where_noise_grows_with_brightness():
    clean = scene()
    deviation = np.sqrt(0.02 * clean + (4 / 255) ** 2)
    noisy = eight_bits(clean + gaussian(clean.shape) * deviation)
    result = Denoiser().run(noisy)
    assert result.noise[0].kind == "signal-dependent" and "map" in result.treatment
    one_level = denoise(noisy, "dxnet_s_color")
    clean = eight_bits(clean)
    assert quality(result.image, clean) > quality(one_level, clean) + 0.5


def test_tiles_have_the_map_of_the_whole_image():
    clean = np.tile(scene(), (2, 2, 1))
    deviation = np.sqrt(0.02 * clean + (4 / 255) ** 2)
    noisy = eight_bits(clean + gaussian(clean.shape) * deviation)
    whole, tiles = (Denoiser(precision="strict", tile=tile).run(noisy) for tile in (None, 250))
    assert whole.tiles == 1 < tiles.tiles and "map" in whole.treatment
    np.testing.assert_array_equal(whole.image, tiles.image)


def test_map_of_a_part():
    image = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    whole = (slice(None), slice(None))
    level = sigma_map(image, whole, (0.02, 0.001), None)
    assert level.shape == (1, 1, 40, 50)
    flat = sigma_map(torch.full((1, 3, 20, 20), 0.5), whole, (0.02, 0.001), None)
    torch.testing.assert_close(flat, torch.full_like(flat, 255 * 0.011**0.5))
    for place in ((slice(8, 24), slice(0, 16)), (slice(24, 40), slice(30, 50))):
        part = sigma_map(image, place, (0.02, 0.001), None)
        assert torch.equal(part, level[(..., *place)])


def test_batches_of_several_kinds():
    kinds = (white(), eight_bits(scene()), impulses(white(), 0.05), white(seed=1))
    batch = torch.stack([torch.from_numpy(v).permute(2, 0, 1) for v in kinds])
    result = Denoiser().run(batch)
    assert [profile.kind for profile in result.noise] == ["white", "none", "mixed", "white"]
    assert torch.isfinite(result.sigma).tolist() == [True, False, True, True]
    for image, alone in zip(result.image, batch, strict=True):
        assert torch.equal(image, Denoiser()(alone))
    alike = Denoiser().run(batch[[0, 3]])  # one call of the network
    assert alike.sigma.shape == (2,) and alike.treatment.count(";") <= 1
    close = (alike.image.int() - result.image[[0, 3]].int()).abs()
    assert int(close.max()) <= 1  # rounding of sums, then to 8 bits


def test_strength_blends_with_the_image_as_given():
    noisy = impulses(white(), 0.05).astype(np.float32) / 255
    full, half = (Denoiser(strength=s)(noisy) for s in (1.0, 0.5))
    np.testing.assert_allclose(half, (full + noisy) / 2, atol=1e-6)


def test_images_too_small_for_an_analysis_are_taken_as_white():
    small = white()[:20, :24]
    result = Denoiser().run(small)
    assert result.noise == () and "too small" in result.treatment and result.sigma_estimated
    np.testing.assert_array_equal(result.image, denoise(small, "dxnet_s_color"))


def test_impulses_are_replaced_and_all_else_is_kept():
    clean = torch.from_numpy(scene()).permute(2, 0, 1)[None].float()
    places = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) < 0.1
    spoilt = torch.where(places, (clean < 0.5).float(), clean)  # far from what was there
    repaired = without_impulses(spoilt, margins_of([spoilt.transpose(0, 1)]))
    kept = ~places.expand_as(spoilt)
    assert (repaired == spoilt)[kept].float().mean() > 0.998
    found = (repaired != spoilt) & ~kept
    assert found.sum() > 0.97 * (~kept).sum()
    assert float((repaired - clean)[found].abs().quantile(0.99)) < 0.11  # the steps of the scene


def test_treatment_of_correlated_gray_noise():
    noisy = coloured_noise("bayer")[..., 1]
    profile = profile_of(torch.from_numpy(np.ascontiguousarray(noisy))[None])
    treatment = treatment_for(profile, 1)
    assert profile.kind == "correlated" and treatment.model == "dxnet_s_gray"
    assert treatment.sigma == pytest.approx(profile.level * profile.scale_ratio)


def test_noise_that_is_the_same_in_all_channels():
    """In their mean it is sqrt(3) times as strong as independent noise of that level."""
    noisy = coloured_noise("luma")
    result = Denoiser().run(noisy)
    (profile,) = result.noise
    expected = profile.level * (1 + 2 * profile.channel_correlation) ** 0.5 * profile.scale_ratio
    assert result.sigma == pytest.approx(expected) == pytest.approx(15 * 3**0.5, rel=0.15)
    clean = eight_bits(scene())
    assert quality(result.image, clean) > quality(denoise(noisy, PHOTO), clean) + 3
    assert quality(result.image, clean) > quality(denoise(noisy, "dxnet_s_color"), clean) + 3


def test_pictures_of_several_frames():
    frames = (white(), eight_bits(scene()), white())
    result = Denoiser().run(io.Picture(frames, (0, 255), "rgb", "TIFF"))
    assert [profile.kind for profile in result.noise] == ["white", "none", "white"]
    assert result.treatment.count("; ") == 1  # each line once
    assert result.sigma_estimated and result.sigma == pytest.approx(15, rel=0.1)
