"""What is accepted with one warning, and which options fail as soon as they are given."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import denoise_ext
from denoise_ext._loader import native_error
from denoise_ext.models import create_model
from denoise_ext.tasks import Denoiser, estimate_sigma
from denoise_ext.tasks.doubts import _SHARE, _SHARE_OF_PIXELS, warn_of_range

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")
RNG = np.random.default_rng(4)
# dark to bright, as a photograph
CLEAN = np.linspace(0, 1, 48)[:, None] * np.linspace(0.5, 1, 40)[None]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("ffdnet_gray", width=4, depth=2, predicts="noise").eval()


def caught(function) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    return [str(w.message) for w in found]


SCALES = {
    "-1 to 1": CLEAN * 2 - 1, "normalised": (CLEAN - 0.449) / 0.226, "0 to 10": CLEAN * 10,
    "around zero": RNG.uniform(-1, 1, CLEAN.shape), "deviation 1": RNG.normal(0, 1, CLEAN.shape),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", SCALES)
def test_floats_on_another_scale(network, name, dtype):
    image = SCALES[name].astype(dtype)
    low, high = float(image.min()), float(image.max())
    denoiser = Denoiser(network, sigma=10)
    for given in (image, torch.from_numpy(image)):
        [text] = caught(lambda given=given: denoiser(given))
        assert "value_range" in text
        assert caught(lambda given=given: denoiser(given, value_range=(low, high))) == []
    [text] = caught(lambda: estimate_sigma(image))
    assert "value_range" in text
    assert caught(lambda: estimate_sigma(image, value_range=(low, high))) == []


@pytest.mark.parametrize("place", ["blocks", "pixels"])
@pytest.mark.parametrize("size", [(400, 408), (1100, 1300)])
@pytest.mark.parametrize("share", [0.5, 1.5])
def test_share_of_pixels_that_are_outside(share, size, place):
    """An image in [0, 1] but for a share of blocks, or of pixels: below the limit and above it."""
    image = np.random.default_rng(5).uniform(0.2, 0.8, size)
    if place == "blocks":
        blocks = image.reshape(size[0] // 4, 4, size[1] // 4, 4)[::2, :, ::2]  # a quarter of each
        chosen = np.random.default_rng(6).random(blocks.shape[::2]) < share * _SHARE
        blocks[np.broadcast_to(chosen[:, None, :, None], blocks.shape)] = 9  # mean: above 2.4
    else:  # beside what is as far above, so that the means of blocks are in [0, 1]
        image += 0.5
        chosen = np.random.default_rng(6).random(size) < share * _SHARE_OF_PIXELS
        image[chosen] = -0.3
    warned = caught(lambda: warn_of_range(torch.from_numpy(image)))
    assert len(warned) == (share > 1)


def test_numbers_that_are_not_finite_are_no_doubt():
    image = torch.full((64, 64), 0.5)
    image[3, 5] = torch.nan
    assert caught(lambda: warn_of_range(image)) == []
    assert caught(lambda: warn_of_range(torch.full((7, 900), -9.0))) == []  # not one block


@pytest.mark.parametrize("sigma", [5, 50, 100])
def test_noise_beyond_the_range_is_no_other_scale(network, sigma):
    denoiser = Denoiser(network, sigma=sigma)
    for clean in (CLEAN, np.zeros((48, 40)), np.ones((48, 40))):
        noisy = (clean + RNG.normal(0, sigma / 255, clean.shape)).astype(np.float32)
        assert caught(lambda noisy=noisy: denoiser(noisy)) == []
    assert caught(lambda: denoiser(np.uint8(CLEAN * 255))) == []


def test_once_for_each_line(network):
    image = (CLEAN * 2 - 1).astype(np.float32)
    denoiser = Denoiser(network, sigma=10)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            denoiser(image)
    assert [w.filename for w in found] == [__file__]


def test_threads_name_the_line_that_called(network):
    image = (CLEAN * 2 - 1).astype(np.float32)
    denoiser = Denoiser(network, sigma=10)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            list(denoiser.denoise_many([image, image]))
    assert [w.filename for w in found] == [__file__]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        many = denoiser.denoise_many([image, image])
        next(many)
        denoiser(image)  # another line, while the threads run
        list(many)
    assert len({w.lineno for w in found}) == len(found) == 2
    assert {w.filename for w in found} == {__file__}


def test_sigma_of_the_scale_from_0_to_1(network):
    eight = np.uint8(CLEAN * 255)
    [text] = caught(lambda: denoise_ext.denoise(eight, network, 0.1))
    assert "sigma=0.1" in text and "0-255" in text and "25.5" in text
    [text] = caught(lambda: Denoiser(network, sigma=0.1)(CLEAN.astype(np.float32)))
    assert "0-255" in text
    for sigma in (0, 1, 25):
        assert caught(lambda sigma=sigma: denoise_ext.denoise(eight, network, sigma)) == []
    # half a level is something in 16 bits
    sixteen = np.uint16(CLEAN * 65535)
    assert caught(lambda: denoise_ext.denoise(sixteen, network, 0.5)) == []


@pytest.mark.parametrize(
    "options, error, words",
    [({"device": "gpu"}, ValueError, ("device", "'gpu'", "cpu", "cuda")),
     ({"device": 7.5}, ValueError, ("device", "7.5", "cpu")),
     ({"device": "mps"}, ValueError, ("device", "'mps'", "cpu")),
     ({"model": "dnxet_s"}, ValueError, ("model", "'dnxet_s'", "did you mean dxnet_s ")),
     ({"model": "missing.safetensors"}, ValueError, ("model", "missing.safetensors")),
     ({"model": "dncnn_gray"}, ValueError, ("model", "'dncnn_gray'", "weights")),
     ({"sigma": -1}, ValueError, ("sigma", "-1")),
     ({"sigma": float("nan")}, ValueError, ("sigma", "nan")),
     ({"sigma": "25"}, TypeError, ("sigma", "str")),
     ({"sigma": True}, TypeError, ("sigma", "bool"))],
)  # fmt: skip
def test_options_fail_at_once(options, error, words):
    """Not with the first image."""
    with pytest.raises(error) as caught:
        Denoiser(**options)
    for word in words:
        assert word in str(caught.value)


def test_a_device_fails_at_once_beside_a_network(network):
    with pytest.raises(ValueError, match=r"device must be .*cpu.*'gpu'"):
        Denoiser(network, device="gpu")


@pytest.mark.rotates()
@pytest.mark.parametrize("model", [None, "dxnet_s"])
def test_tiles_that_are_nothing_but_overlap(model):
    """dxnet_s needs tiles of 157 pixels for colour; for gray fewer, and 128 are mostly overlap."""
    image = np.uint8((128 + RNG.normal(0, 20, (300, 300, 3))).clip(0, 255))
    with pytest.raises(ValueError, match=r"tile of 128 pixels.*157"):
        Denoiser(model, tile=128)(image)
    [text] = caught(lambda: Denoiser(model, tile=128)(image[..., 0]))
    assert "tile=128" in text and "overlap" in text
    assert caught(lambda: Denoiser(model, tile=240)(image[..., 0])) == []
