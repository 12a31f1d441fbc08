"""`Upscaler` and `upscale`: kinds of images, tiles, levels of noise, limits, metadata."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_upscaler import tiny_upscaler, upscaler_file

from denoise_ext import Denoiser, io
from denoise_ext._loader import native_error
from denoise_ext.models import build_model, create_model
from denoise_ext.nn import to_torch
from denoise_ext.resampling import imresize
from denoise_ext.restore import Upscaler, restorer, upscale
from denoise_ext.restore.operators import Blur
from denoise_ext.tasks import estimate_sigma

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
RNG = np.random.default_rng(0)
FLOAT = RNG.random((24, 31, 3), dtype=np.float32)


def whole(x: np.ndarray, sigma: float, scale: int = 2) -> np.ndarray:
    """What the network makes of (H, W, 3) in [0, 1]."""
    with torch.inference_mode():
        made = to_torch(tiny_upscaler(scale))(torch.from_numpy(x).permute(2, 0, 1)[None], sigma)
    return made[0].permute(1, 2, 0).numpy()


def test_kinds_of_images():
    upscaler = Upscaler(tiny_upscaler(), precision="strict")
    # one rounding of float32 for each of a few hundred products of numbers of size 1
    expected = whole(FLOAT, 5)
    close = {"rtol": 0, "atol": 300 * 2.0**-24}
    np.testing.assert_allclose(upscaler(FLOAT, 5), expected, **close)
    tensor = torch.from_numpy(FLOAT).permute(2, 0, 1)
    made = upscaler(tensor[None], 5)
    np.testing.assert_allclose(made[0].permute(1, 2, 0), expected, **close)
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535)):
        image = (FLOAT * white).round().astype(dtype)
        made = upscaler(image, 5)
        assert made.dtype == dtype and made.shape == (48, 62, 3)
        exact = (whole((image / white).astype(np.float32), 5) * white).clip(0, white)
        assert np.abs(made - exact).max() <= 0.5 + white * close["atol"]
    eight = (FLOAT * 255).astype(np.uint8)
    pillow = Image.fromarray(eight)
    pillow.info["dpi"] = (300, 150)
    made = upscaler(pillow, 5)
    assert made.size == (62, 48) and made.info["dpi"] == (600, 300)
    assert np.array_equal(np.asarray(made), upscaler(eight, 5))


def test_gray_images_and_alpha():
    upscaler = Upscaler(tiny_upscaler(3), precision="strict")
    gray = FLOAT[..., 0]
    made = upscaler(gray, 4)
    three = whole(np.repeat(gray[..., None], 3, 2), 4 * 3**0.5, 3)
    np.testing.assert_allclose(made, three.mean(2), rtol=0, atol=300 * 2.0**-24)
    alpha = (FLOAT[..., :1] * 255).astype(np.uint8)
    image = np.concatenate([(FLOAT * 255).astype(np.uint8), alpha], 2)
    made = upscaler(image, 4)
    assert np.array_equal(made[..., :3], upscaler(image[..., :3], 4))
    unit = torch.from_numpy(alpha[None, None, ..., 0] / 255.0)
    exact = (imresize(unit, 3).clamp(0, 1) * 255)[0, 0].numpy()
    assert np.abs(made[..., 3] - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("scale", [2, 3])
def test_tiles_are_the_whole_image(scale):
    image = RNG.random((150, 97, 3), dtype=np.float32)
    whole_image = Upscaler(tiny_upscaler(scale), precision="strict", tile=None).run(image, 5)
    tiles = Upscaler(tiny_upscaler(scale), precision="strict", tile=64).run(image, 5)
    assert whole_image.tiles == 1 and tiles.tiles > 3
    assert np.array_equal(whole_image.image, tiles.image)
    few = Upscaler(tiny_upscaler(scale), precision="strict", max_memory=3 << 20).run(image, 5)
    assert few.tiles > 1 and np.array_equal(whole_image.image, few.image)


@pytest.mark.parametrize(
    ("config", "tile"),
    [
        ({"family": "srvgg", "scale": 4, "width": 8, "depth": 3}, 60),
        ({"family": "span", "scale": 2, "width": 8}, 60),
        ({"family": "rrdb", "unshuffle": 2, "width": 8, "growth": 4, "blocks": 1}, 100),
    ],
)  # fmt: skip
def test_tiles_of_published_networks(config, tile):
    network = build_model(config).eval()
    network.initialise(torch.Generator().manual_seed(0))
    image = RNG.random((120, 91, 3), dtype=np.float32)
    whole_image = Upscaler(network, precision="strict", tile=None).run(image)
    tiles = Upscaler(network, precision="strict", tile=tile).run(image)
    assert tiles.tiles > 1 and tiles.sigma is None
    assert whole_image.image.shape == (120 * network.scale, 91 * network.scale, 3)
    # SPAN: PyTorch's silu and sigmoid of a vector and of a single number differ in the last bit.
    # There are 24 of them in a row, of which a result of this size may keep all.
    bound = 24 * 2.0**-23 * np.abs(tiles.image).max() if config["family"] == "span" else 0
    np.testing.assert_allclose(tiles.image, whole_image.image, rtol=0, atol=bound)


def test_the_level_is_estimated_given_or_zero():
    noisy = (FLOAT * 30 + 100).astype(np.uint8)
    upscaler = Upscaler(tiny_upscaler(), precision="strict")
    found = upscaler.run(noisy)
    assert found.sigma_estimated and found.sigma == pytest.approx(float(estimate_sigma(noisy)))
    assert np.array_equal(found.image, upscaler(noisy, found.sigma))
    given = upscaler.run(noisy, 0)
    assert given.sigma == 0 and not given.sigma_estimated and given.scale == 2
    assert not np.array_equal(given.image, found.image)


def test_pictures_keep_their_physical_size(tmp_path):
    image = (FLOAT * 255).astype(np.uint8)
    metadata = io.Metadata(icc_profile=b"x" * 40, pixels_per_metre=(4000.0, 2000.0))
    picture = io.picture_of(image, format="PNG", metadata=metadata)
    made = Upscaler(tiny_upscaler()).run(picture, 0).image
    assert made.frames[0].shape == (48, 62, 3) and made.format == "PNG"
    assert made.metadata.pixels_per_metre == (8000.0, 4000.0)
    assert made.metadata.icc_profile == b"x" * 40
    pages = io.Picture((image, image[::-1].copy()), (0, 255), "rgb", "TIFF")
    result = Upscaler(tiny_upscaler()).run(pages)
    assert [frame.shape for frame in result.image.frames] == [(48, 62, 3)] * 2
    io.write_picture(tmp_path / "a.tif", result.image)
    again = io.read_picture(tmp_path / "a.tif")
    assert all(map(np.array_equal, again.frames, result.image.frames))


def test_two_levels_and_missing_numbers(tmp_path):
    black = io.picture_of(FLOAT[..., 0] > 0.5, format="PNG")
    made = Upscaler(tiny_upscaler()).run(black, 0).image
    assert made.frames[0].dtype == np.bool_ and made.frames[0].shape == (48, 62)
    holes = FLOAT[..., 0].copy()
    holes[3, 4] = np.nan
    made = Upscaler(tiny_upscaler()).run(io.picture_of(holes, format="NPY"), 0).image
    places = np.argwhere(np.isnan(made.frames[0])).tolist()
    assert places == [[6, 8], [6, 9], [7, 8], [7, 9]]
    assert made.notes == ("1 numbers are not finite and stay as they are",)


def test_checkpoints_and_names(tmp_path):
    path = upscaler_file(tmp_path, 3)
    assert upscale(FLOAT, sigma=0, model=path).shape == (72, 93, 3)
    assert upscale(FLOAT, 3, 0, model=str(path)).shape == (72, 93, 3)
    for scale in (2, 3, 4):
        shipped = create_model(f"srnet_s_x{scale}", pretrained=True)
        expected = upscale(FLOAT, sigma=5, model=shipped)
        assert np.array_equal(upscale(FLOAT, scale, 5), expected)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"scale": 1}, "scale.*1"), ({"scale": 5}, "scale.*5"), ({"scale": 2.0}, "scale.*2.0"),
        ({"scale": True}, "scale.*True"), ({"model": "dxnet_s_gray"}, "dxnet_s_gray"),
        ({"model": "dxnet_s"}, "DXNet"), ({"model": "no_such_net"}, "no_such_net"),
        ({"model": "DENOISER"}, "DXNet"), ({"model": "X2", "scale": 3}, "scale is 3"),
        ({"model": "X2", "scale": 1}, "scale.*1"), ({"model": "X2", "sigma": -1}, "sigma"),
        ({"model": "X2", "max_pixels": 0}, "max_pixels.*0"),
        ({"model": "X2", "max_pixels": 2975}, "2976 pixels.*2975"),
        ({"model": "X2", "tile": 8}, "tile of 8"), ({"model": 3}, "int"),
    ],
)  # fmt: skip
def test_bad_arguments(how, named):
    networks = {"X2": tiny_upscaler, "DENOISER": lambda: create_model("dxnet_s_color").eval()}
    how = {**how, "model": networks.get(how.get("model"), lambda: how.get("model"))()}
    with pytest.raises((TypeError, ValueError), match=named):
        upscale(FLOAT, **how)


def test_batches_maps_and_axes():
    upscaler = Upscaler(tiny_upscaler(), precision="strict")
    batch = torch.from_numpy(np.stack([FLOAT, FLOAT[::-1]])).permute(0, 3, 1, 2)
    made = upscaler.run(batch, torch.tensor([3.0, 9.0]))
    assert torch.equal(made.image[1], upscaler(batch[1], 9))
    assert upscaler(batch[:0], 3).shape == (0, 3, 48, 62)
    level = np.full((24, 31), 9, np.float32)
    np.testing.assert_allclose(upscaler(FLOAT, level), upscaler(FLOAT, 9), rtol=0, atol=1e-5)
    stack = np.moveaxis(FLOAT, 2, 0).copy()
    made = upscaler(stack, 3, axes="ZYX")
    assert made.shape == (3, 48, 62) and np.array_equal(made[1], upscaler(stack[1], 3))
    picture = io.Picture(tuple(stack), (0, 1), "gray", "NPY", shapes=((3, 24, 31),))
    assert upscaler.run(picture, 3, axes="ZYX").image.shapes == ((3, 48, 62),)


def test_small_images_and_other_kinds():
    upscaler = Upscaler(tiny_upscaler())
    for shape in ((7, 20), (20, 7, 3), (1, 1)):
        with pytest.raises(ValueError, match="at least 8 x 8"):
            upscaler(np.zeros(shape, np.float32))
    assert upscaler(np.zeros((8, 8), np.float32), 0).shape == (16, 16)
    for wrong in (np.zeros((9, 9, 5), np.float32), "nothing.png", None):
        with pytest.raises((TypeError, ValueError)):
            upscaler(wrong)


def test_others_refuse_upscalers(tmp_path):
    """A denoiser's result has the size of its image: it must not become larger unnoticed."""
    for model in (tiny_upscaler(), upscaler_file(tmp_path)):
        with pytest.raises(TypeError, match=r"image denoiser.*restore\.Upscaler"):
            Denoiser(model)(FLOAT, 5)
        with pytest.raises(TypeError, match="image denoiser"):
            restorer.Restorer(Blur("disk:1"), model, sigma=5)(FLOAT)


@pytest.mark.parametrize("precision", ["strict", "bfloat16"])
def test_copies(precision):
    upscaler = Upscaler(create_model("srnet_s_x2").eval(), sigma=5, precision=precision)
    expected = upscaler(FLOAT)  # makes plans, which no copy has
    for copied in (copy.deepcopy(upscaler), pickle.loads(pickle.dumps(upscaler))):
        assert copied.scale == 2
        np.testing.assert_array_equal(copied(FLOAT), expected)
