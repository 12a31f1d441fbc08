"""Enlarging with a guide: kinds, sizes, ranges, holes, tiles, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denoise_ext._loader import native_error
from denoise_ext.io import picture_of, read_picture, write_image, write_picture
from denoise_ext.models import create_model
from denoise_ext.resampling import imresize
from denoise_ext.restore import GuidedUpscaler, upscale

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")

RNG = np.random.default_rng(2)
DEPTH = RNG.integers(700, 2500, (9, 14), dtype=np.uint16)
PHOTO = RNG.integers(0, 256, (36, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("dxnet_s_guided", widths=[8, 16], blocks=[1, 1], guide_width=4).eval()


def by_hand(network, depth, photo, scale):
    """The network on the image that is enlarged, its range [0, 1], and no number beyond it."""
    x = torch.from_numpy(depth.astype(np.float32))[None, None]
    low, high = x.min(), x.max()
    inputs = {
        "image": imresize((x - low) / (high - low), scale),
        "guide": torch.from_numpy(photo).permute(2, 0, 1)[None] / 255,
        "noise_map": torch.zeros(1, 1, 1, 1),
    }
    with torch.no_grad():
        made = network(inputs)[0]["image"][0, 0].clamp(0, 1)
    return (made * (high - low) + low).numpy()


def test_the_network_sharpens_what_is_enlarged(network):
    expected = by_hand(network, DEPTH, PHOTO, 4)
    made = GuidedUpscaler(network).run(DEPTH, PHOTO)
    assert made.image.dtype == np.uint16 and made.scale == 4
    # the kernels round otherwise than PyTorch, and the result to whole numbers
    np.testing.assert_allclose(made.image, expected, atol=0.51)
    floats = upscale(DEPTH.astype(np.float32), model=network, guide=PHOTO)
    np.testing.assert_allclose(floats, expected, atol=0.01)
    shifted = upscale(DEPTH.astype(np.float32) - 5000, model=network, guide=PHOTO)
    np.testing.assert_allclose(shifted + 5000, expected, atol=0.02)
    batch = torch.from_numpy(np.stack([DEPTH, DEPTH]).astype(np.float32))[:, None]
    assert upscale(batch, model=network, guide=PHOTO).shape == (2, 1, 36, 56)
    large = np.tile(DEPTH, (3, 2)), np.tile(PHOTO, (3, 2, 1))
    strict = GuidedUpscaler(network, precision="strict", tile=80).run(*large)
    whole = GuidedUpscaler(network, precision="strict", tile=None).run(*large)
    assert strict.tiles > 1 == whole.tiles
    np.testing.assert_array_equal(strict.image, whole.image)


def test_files_and_pictures(network, tmp_path):
    write_picture(tmp_path / "depth.png", picture_of(DEPTH))
    write_image(tmp_path / "photo.png", PHOTO)
    expected = upscale(DEPTH, model=network, guide=PHOTO)
    np.testing.assert_array_equal(
        upscale(tmp_path / "depth.png", model=network, guide=tmp_path / "photo.png"), expected
    )
    picture = read_picture(tmp_path / "depth.png")
    made = upscale(picture, 4, model=network, guide=tmp_path / "photo.png")
    assert made.frames[0].shape == (36, 56)
    np.testing.assert_array_equal(made.frames[0], expected)


def test_noise_is_removed_first(network):
    clean, noisy = (upscale(DEPTH, sigma=s, model=network, guide=PHOTO) for s in (0, 20))
    assert (clean != noisy).mean() > 0.5


def test_holes(network):
    broken = DEPTH.copy()
    broken[3:5, 6:9] = 0
    holes = np.repeat(np.repeat(broken == 0, 4, 0), 4, 1)
    kept = upscale(broken, model=network, guide=PHOTO, holes="keep")
    np.testing.assert_array_equal(kept == 0, holes)
    full = upscale(broken, model=network, guide=PHOTO, holes="fill")
    np.testing.assert_array_equal(full[~holes], kept[~holes])
    # the range is that of the values, so that nothing is near 0
    assert full.min() > 300
    floats = np.where(broken == 0, np.nan, broken).astype(np.float32)
    assert np.isfinite(upscale(floats, model=network, guide=PHOTO, holes="fill")).all()
    for holes, count in (("none", 6), ("keep", 6), ("fill", 0)):
        upscaler = GuidedUpscaler(network, holes=holes)
        made = upscaler.run(picture_of(floats, format="NPY"), PHOTO).image
        said = "6 numbers are not finite and stay as they are"
        assert made.notes == ((said,) if count else ())
        assert np.isnan(made.frames[0]).sum() == 16 * count
    flat = np.where(broken == 0, 0, 1000).astype(np.uint16)
    assert np.ptp(upscale(flat, model=network, guide=PHOTO, holes="fill").astype(int)) <= 1


def test_the_result_has_no_number_beyond_those_of_the_image(network):
    steps = np.where(np.arange(14) < 7, 100, 1000) * np.ones((9, 1))  # bicubic overshoots at them
    for dtype in (np.uint16, np.float32):
        made = upscale(steps.astype(dtype), model=network, guide=PHOTO)
        assert made.min() >= 100 and made.max() <= 1000
    wide = upscale(steps.astype(np.float32), model=network, guide=PHOTO, value_range=(0.0, 1100.0))
    assert wide.min() < 100 and wide.max() > 1000  # a range that is given is no bound


@pytest.mark.parametrize("holes", ["keep", "fill"])
def test_a_value_never_becomes_a_hole(network, holes):
    values = np.where(np.arange(14) < 7, 1, 200).astype(np.uint8) * np.ones((9, 1), np.uint8)
    values[4, 5:9] = 0
    lost = np.repeat(np.repeat(values == 0, 4, 0), 4, 1)
    made = upscale(values, model=network, guide=PHOTO, holes=holes, value_range=(0, 255))
    np.testing.assert_array_equal(made == 0, lost if holes == "keep" else np.zeros_like(lost))
    free = upscale(values, model=network, guide=PHOTO, value_range=(0, 255))
    assert ((free == 0) & ~lost).any()  # without the option 0 is a number like others


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"guide": PHOTO[:-1]}, ValueError, r"guide must have 2 to 16 times.*14 x 9.*56 x 35"),
        ({"guide": PHOTO[:9, :14]}, ValueError, "2 to 16 times"),
        ({"guide": PHOTO.transpose(1, 0, 2)}, ValueError, "2 to 16 times"),
        ({"scale": 2}, ValueError, "scale is 2.*4 times"),
        ({"scale": 1}, ValueError, "scale must be 2 to 16.*1"),
        ({"scale": 2.5}, TypeError, "scale.*2.5"),
        ({"image": DEPTH[:7], "guide": PHOTO[:28]}, ValueError, "8 x 8.*14 x 7"),
        ({"max_pixels": 2000}, ValueError, "2016 pixels.*2000"),
        ({"holes": "some"}, ValueError, "holes.*some"),
        ({"image": DEPTH * np.uint16(0), "holes": "fill"}, ValueError, "every pixel is a hole"),
        ({"model": "dxnet_s_gray"}, ValueError, "model must take a guide.*DXNet"),
        ({"guide": 7}, TypeError, "guide: image must be"),
        ({"guide": PHOTO / np.nan}, ValueError, "guide: .*NaN"),
        ({"guide": PHOTO / np.nan, "holes": "fill"}, ValueError, "guide: .*NaN"),
        ({"image": DEPTH / np.nan}, ValueError, "image: pixels must be finite"),
        ({"sigma": -1}, ValueError, "sigma.*-1"),
    ],
)
def test_what_does_not_fit_is_named(network, change, error, named):
    options = {"image": DEPTH, "guide": PHOTO, "model": network} | change
    with pytest.raises(error, match=named):
        upscale(options.pop("image"), **options)


def test_the_image_that_was_given_stays(network):
    """One whose range is [0, 1] needs no conversion: the network reads the caller's memory."""
    depth = ((DEPTH - DEPTH.min()) / float(np.ptp(DEPTH))).astype(np.float32)
    before = depth.copy()
    made = upscale(depth, sigma=20, model=network, guide=PHOTO)
    assert (made != upscale(depth, model=network, guide=PHOTO)).any()
    np.testing.assert_array_equal(depth, before)


def test_alpha_is_enlarged_on_its_own_scale(network):
    """The range of the depth is a fiftieth of that of alpha."""
    depth = (DEPTH / 1e5).astype(np.float32)
    alpha = np.linspace(0, 1, DEPTH.size, dtype=np.float32).reshape(DEPTH.shape)
    made = upscale(np.stack([depth, alpha], 2), sigma=10, model=network, guide=PHOTO)
    alone = upscale(depth, sigma=10, model=network, guide=PHOTO)
    np.testing.assert_allclose(made[..., 0], alone, rtol=0, atol=1e-7)
    expected = imresize(torch.from_numpy(alpha).double()[None, None], 4).clamp(0, 1)
    np.testing.assert_allclose(made[..., 1], expected[0, 0], rtol=0, atol=1e-6)
    opaque = np.stack([DEPTH // 10, np.full_like(DEPTH, 255)], 2).astype(np.uint8)
    assert (upscale(opaque, model=network, guide=PHOTO)[..., 1] == 255).all()


def test_a_batch_of_none(network):
    assert upscale(torch.zeros(0, 1, 9, 14), model=network, guide=PHOTO).shape == (0, 1, 36, 56)
