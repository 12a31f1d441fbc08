"""`Denoiser.run_part` gives what `run` gives there, and computes no more than it needs."""

from __future__ import annotations

import numpy as np
import pytest
from noisy_images import SIDE, eight_bits, gaussian, scene

from denoise_ext import Denoiser, io
from denoise_ext._loader import native_error
from denoise_ext.tasks.treatment import treatment_of

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")

PARTS = {
    "middle": (slice(101, 164), slice(90, 155)),
    "corner": (slice(0, 40), slice(0, 33)),
    "last": (slice(SIDE - 21, SIDE), slice(SIDE - 50, None)),
    "all": (slice(None), slice(None)),
    "pixel": (slice(130, 131), slice(7, 8)),
}


def noisy(channels: int = 3, growth: bool = False) -> np.ndarray:
    clean = scene(channels)
    level = np.sqrt(0.02 * clean + (4 / 255) ** 2) if growth else 15 / 255
    return eight_bits(clean + gaussian((SIDE, SIDE, channels), 0) * level)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_part_equals_the_whole_there(part, channels):
    """With strict sums the bits are those of the whole image: 16 bits show more than 8."""
    image = noisy(channels)[..., 0] if channels == 1 else noisy(channels)
    image = image.astype(np.uint16) * 257
    denoiser = Denoiser(precision="strict")
    whole = denoiser.run(image, 15.0).image
    result = denoiser.run_part(image, PARTS[part], 15.0)
    np.testing.assert_array_equal(result.image, whole[PARTS[part]])
    assert result.sigma == 15.0 and not result.sigma_estimated


@pytest.mark.parametrize("kind", ["white", "grows with brightness", "stored as RGB"])
def test_the_whole_image_decides_what_is_done(kind):
    image = noisy(growth=kind == "grows with brightness")
    if kind == "stored as RGB":
        image = np.repeat(image[..., :1], 3, axis=2)
    image = image.astype(np.uint16) * 257
    denoiser = Denoiser(precision="strict")
    whole = denoiser.run(image)
    profile, treatment = treatment_of(image)
    assert kind in whole.treatment and treatment.text == whole.treatment
    # Sums of the analysis may differ in the last bits, by where the image lies in memory.
    [found] = whole.noise
    assert profile.kind == found.kind and profile.level == pytest.approx(found.level, rel=1e-6)
    expected = whole.image[PARTS["middle"]].astype(int)
    for given in (treatment, None):
        result = denoiser.run_part(image, PARTS["middle"], treatment=given)
        np.testing.assert_allclose(result.image.astype(int), expected, rtol=0, atol=1)
        assert result.treatment == whole.treatment


def test_pictures_and_alpha():
    image = np.dstack([noisy(), np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 256]).astype(np.uint8)
    picture = io.picture_of(image, format="PNG")
    denoiser = Denoiser(precision="strict")
    whole = denoiser.run(picture, 15.0).image.frames[0]
    result = denoiser.run_part(picture, PARTS["middle"], 15.0).image
    np.testing.assert_array_equal(result.frames[0], whole[PARTS["middle"]])
    assert result.frames[0].shape == (63, 65, 4)


def test_no_more_than_the_surroundings_is_read():
    """Pixels farther than the overlap are not looked at: they may be anything."""
    image = noisy().astype(np.float32) / 255
    large = np.pad(image, ((0, 400), (0, 400), (0, 0)))
    other = large.copy()
    other[-200:, -200:] = 7.0
    part = (slice(0, 64), slice(0, 64))
    denoiser = Denoiser()
    results = [denoiser.run_part(x, part, 15.0, value_range=(0, 1)).image for x in (large, other)]
    np.testing.assert_array_equal(*results)


def test_strength_of_one_call():
    image, denoiser = noisy(), Denoiser(sigma=15.0)
    half = Denoiser(sigma=15.0, strength=0.5)(image)
    np.testing.assert_array_equal(denoiser.run(image, strength=0.5).image, half)
    np.testing.assert_array_equal(denoiser.run(image, strength=0).image, image)
    assert (denoiser.run(image).image != half).any()
    with pytest.raises(ValueError, match=r"strength.*1\.5"):
        denoiser.run(image, strength=1.5)


@pytest.mark.parametrize(
    "part", [(slice(0, 0), slice(0, 9)), (slice(0, 9), slice(0, SIDE + 1)),
             (slice(-5, 9), slice(0, 9)), (slice(0, 9, 2), slice(0, 9))],
)  # fmt: skip
def test_wrong_parts(part):
    with pytest.raises(ValueError, match="part"):
        Denoiser().run_part(noisy(), part, 15.0)


def test_wrong_images():
    part = (slice(0, 9), slice(0, 9))
    for wrong, error in (("a.png", TypeError), (np.zeros(9), ValueError)):
        with pytest.raises(error, match="image"):
            Denoiser().run_part(wrong, part, 15.0)
    with pytest.raises(ValueError, match="treatment"):
        Denoiser("dxnet_s").run_part(noisy(), part, treatment=treatment_of(noisy())[1])
