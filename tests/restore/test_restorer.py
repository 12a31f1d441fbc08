"""Restoration of images of every kind: quality, borders, bounds, progress, bad input."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from zoo import tiny

import denoise_ext
from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.restore import Blur, Mask, Mosaic, Operator, Restorer, deblur, demosaic, inpaint

pytestmark = pytest.mark.skipif(native_error() is not None, reason="needs the native library")
KERNEL = np.zeros((7, 7))
KERNEL[1:6, 3], KERNEL[3, 2:6] = 1.0, 2.0
SIDE = 96
ASSETS = Path(denoise_ext.__file__).parent / "assets"


def picture(channels: int = 3) -> np.ndarray:
    """A part of the bundled photograph, in [0, 1]: the prior is made for photographs."""
    photograph = io.read_image(ASSETS / "kodim21.png")[180 : 180 + SIDE, 260 : 260 + SIDE] / 255.0
    return photograph if channels == 3 else photograph.mean(axis=-1)


def blurred(image: np.ndarray, sigma: float, mode: str = "wrap") -> np.ndarray:
    kernel = (KERNEL / KERNEL.sum())[(...,) + (None,) * (image.ndim - 2)]
    noise = np.random.default_rng(0).normal(0, sigma / 255, image.shape)
    return ndimage.convolve(image, kernel, mode=mode) + noise


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((np.clip(a, 0, 1) - b) ** 2)))


def wiener(y: np.ndarray, clean: np.ndarray) -> float:
    """PSNR of the best of twelve Wiener filters, chosen with the clean image."""
    otf = np.fft.fft2(np.roll(np.pad(KERNEL / KERNEL.sum(), (0, SIDE - 7)), (-3, -3), (0, 1)))
    best = []
    for weight in np.logspace(-4, -0.5, 12):
        inverse = (otf.conj() / (np.abs(otf) ** 2 + weight))[..., None]
        best.append(
            psnr(np.fft.ifft2(np.fft.fft2(y, axes=(0, 1)) * inverse, axes=(0, 1)).real, clean)
        )
    return max(best)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [2.55, 7.65])
def test_deblurring_is_better_than_the_best_wiener_filter(channels, sigma):
    clean = picture(channels)
    y = blurred(clean, sigma)
    with_axis = y.reshape(SIDE, SIDE, -1)
    least = wiener(with_axis, clean.reshape(SIDE, SIDE, -1))
    assert psnr(deblur(y, KERNEL, sigma, "circular"), clean) > least + 2
    estimated = Restorer(Blur(KERNEL, "circular")).run(y)
    assert estimated.sigma == pytest.approx(sigma, rel=0.2) and estimated.sigma_estimated
    assert psnr(estimated.image, clean) > least + 2


def test_free_borders_do_not_ring():
    photograph = io.read_image(ASSETS / "kodim21.png")[160:296, 240:376] / 255.0
    clean = photograph[20:-20, 20:-20]
    kernel = (KERNEL / KERNEL.sum())[..., None]
    noise = np.random.default_rng(0).normal(0, 2.55 / 255, clean.shape)
    y = ndimage.convolve(photograph, kernel)[20:-20, 20:-20] + noise
    wrapped = ndimage.convolve(clean, kernel, mode="wrap") + noise
    free = deblur(y, KERNEL, 2.55)
    inside = (slice(8, -8), slice(8, -8))  # one side of the kernel away from the edge
    protocol = deblur(wrapped, KERNEL, 2.55, "circular")
    assert psnr(free[inside], clean[inside]) > psnr(protocol[inside], clean[inside]) - 0.7
    assert psnr(free, clean) > psnr(deblur(y, KERNEL, 2.55, "circular"), clean) + 5


def test_every_kind_of_image_comes_back_as_its_kind(tmp_path):
    eight = (255 * picture()).round().astype(np.uint8)
    expected = deblur(eight, KERNEL, 5.0, steps=2)
    assert expected.dtype == np.uint8 and expected.shape == eight.shape
    sixteen = deblur(eight.astype(np.uint16) * 257, KERNEL, 5.0, steps=2)
    assert sixteen.dtype == np.uint16
    # Half a level of 8 bits, and the half of 16 bits.
    assert np.abs(sixteen / 257.0 - expected).max() <= 0.51
    floats = deblur((eight / 255.0).astype(np.float32), KERNEL, 5.0, steps=2)
    assert np.abs(floats.clip(0, 1) * 255 - expected).max() <= 0.51
    tensor = deblur(torch.from_numpy(eight).permute(2, 0, 1), KERNEL, 5.0, steps=2)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), expected)
    batch = torch.from_numpy(eight).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    assert torch.equal(deblur(batch, KERNEL, 5.0, steps=2)[1], tensor)
    pillow = deblur(Image.fromarray(eight), KERNEL, 5.0, steps=2)
    assert np.array_equal(np.asarray(pillow), expected)
    io.write_image(tmp_path / "a.png", np.dstack([eight, np.full((SIDE, SIDE), 9, np.uint8)]))
    with_alpha = deblur(tmp_path / "a.png", KERNEL, 5.0, steps=2)
    assert np.array_equal(with_alpha[..., :3], expected) and (with_alpha[..., 3] == 9).all()
    pages = io.Picture((eight, eight), (0, 255), "rgb", "TIFF")
    assert np.array_equal(deblur(pages, KERNEL, 5.0, steps=2).frames[1], expected)
    missing = np.where(np.arange(SIDE) == 3, np.nan, eight[..., 0] / np.float32(255))
    made = deblur(io.picture_of(missing.astype(np.float32), format="NPY"), KERNEL, 5.0, steps=2)
    assert made.notes == (f"{SIDE} numbers are not finite and stay as they are",)
    other = (eight.astype(np.int16) * 8 - 1000,)
    signed = deblur(other[0], KERNEL, 5.0, steps=2, value_range=(-1000, 1040))
    assert np.abs(((signed + 1000.0) / 8).clip(0, 255) - expected).max() <= 0.57


def test_progress_steps_and_what_is_known_beside_the_image():
    seen = []
    restorer = Restorer(Blur(KERNEL), sigma=5, steps=3)
    result = restorer.run(picture(), progress=lambda *step: seen.append(step))
    assert seen == [(i + 1, 9) for i in range(9)]  # 6 more fill what free borders leave open
    assert (result.sigma, result.sigma_estimated, result.steps) == (5, False, 9)
    assert float(result.kernel.sum()) == pytest.approx(1)
    assert np.array_equal(restorer(picture()), result.image)
    assert restorer.run(picture(), 9).sigma == 9


@pytest.mark.rotates(turn=0, turns=2)
def test_tiles_of_the_network_change_nothing_but_rounding():
    y = np.tile(blurred(picture(), 5.0), (2, 2, 1)).astype(np.float32)
    whole = deblur(y, KERNEL, 5.0, "circular", steps=3, precision="strict", tile=None)
    for how in ({"tile": 136}, {"max_memory": 20 << 20}):
        tiles = deblur(y, KERNEL, 5.0, "circular", steps=3, precision="strict", **how)
        assert np.abs(whole - tiles).max() < 1e-5


def test_too_little_memory_is_an_error_before_the_work():
    with pytest.raises(ValueError, match="max_memory, 1 MiB"):
        deblur(picture(), KERNEL, 5.0, max_memory=1 << 20)


@pytest.mark.parametrize("make", ["free", "circular", "mask"])
def test_data_steps_take_the_memory_that_is_counted(make):
    """The live bytes of a data step, counted tensor by tensor."""
    from denoise_ext.runtime.memory import _LiveBytes

    operator = Mask(np.eye(64)) if make == "mask" else Blur(KERNEL, make)
    y = torch.rand(1, 3, 64, 64)
    v = operator.start(y)
    operator.prox(v, y, 0.1)  # the spectrum stays
    count = _LiveBytes()
    with torch.no_grad(), count:
        operator.prox(v, y, 0.1)
    # Beside the result: v and y are counted with the images that are kept.
    assert (count.most - v.nbytes) / v[0, 0].numel() <= operator.step_bytes


@pytest.mark.parametrize("sigma", [0, 0.1])
def test_no_noise_counts_as_a_thousandth(sigma):
    y = blurred(picture(), 0).astype(np.float32)
    small = deblur(y, KERNEL, sigma, "circular", steps=2)
    assert np.array_equal(small, deblur(y, KERNEL, 0.255, "circular", steps=2))
    assert np.isfinite(small).all()


def test_a_black_image_stays_black():
    black = np.zeros((40, 40), np.uint8)
    assert deblur(black, KERNEL, 5.0, steps=2).max() <= 1  # the network answers to sigma alone, too


def test_inpainting_fills_and_keeps_what_is_known():
    clean = picture().astype(np.float32)
    known = np.random.default_rng(0).random((SIDE, SIDE)) < 0.4
    holed = np.where(known[..., None], clean, 7.0).astype(np.float32)
    start = Mask(known).start(torch.from_numpy(clean * known[..., None]).permute(2, 0, 1)[None])
    result = inpaint(holed, known)
    assert psnr(result, clean) > psnr(start[0].permute(1, 2, 0).numpy(), clean) + 1
    assert np.array_equal(result[known], clean[known])


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_demosaicing_is_better_than_interpolation(pattern):
    clean = torch.from_numpy(picture()).float().permute(2, 0, 1)[None]
    raw = Mosaic(pattern).forward(clean)
    simple = psnr(Mosaic(pattern).start(raw).numpy(), clean.numpy())
    result = demosaic(raw[0, 0].numpy(), pattern, sigma=0)
    assert result.shape == (SIDE, SIDE, 3) and result.dtype == np.float32
    assert psnr(result, clean[0].permute(1, 2, 0).numpy()) > simple + 3


def test_demosaicing_gives_the_kind_a_colour_image_has(tmp_path):
    raw = (255 * picture(1)).round().astype(np.uint8)
    expected = demosaic(raw, sigma=5, steps=2)
    assert expected.shape == (SIDE, SIDE, 3) and expected.dtype == np.uint8
    tensor = demosaic(torch.from_numpy(raw), sigma=5, steps=2)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(np.asarray(demosaic(Image.fromarray(raw), sigma=5, steps=2)), expected)
    io.write_image(tmp_path / "raw.png", raw)
    assert np.array_equal(demosaic(tmp_path / "raw.png", sigma=5, steps=2), expected)
    read = io.read_picture(tmp_path / "raw.png")
    made = demosaic(read, sigma=5, steps=2)
    assert made.mode == "rgb" and np.array_equal(made.frames[0], expected)
    for bad in (expected, torch.ones(1, 2, 3), "rgb.png"):
        io.write_image(tmp_path / "rgb.png", expected, overwrite=True)
        with pytest.raises(ValueError, match=r"raw must be|rgb.png"):
            demosaic(tmp_path / bad if isinstance(bad, str) else bad, sigma=5)
    with pytest.raises(TypeError, match="raw"):
        demosaic(3)


class Halves(Operator):
    """What a user writes: forward and adjoint alone."""

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 2)

    def adjoint(self, y):
        return y.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4

    def start(self, y):
        return torch.nn.functional.interpolate(y, scale_factor=2, mode="bilinear")


def test_an_operator_of_a_users_own():
    clean = torch.from_numpy(picture()).float().permute(2, 0, 1)[None]
    y = Halves().forward(clean)
    result = Restorer(Halves()).restore(y, 0.0)
    assert psnr(result.numpy(), clean.numpy()) > psnr(Halves().start(y).numpy(), clean.numpy()) + 1


def blind() -> None:
    deblur(np.ones((9, 9)), KERNEL, 5, model=tiny("dncnn_gray_blind"))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Restorer("blur"), TypeError, ["operator", "str"]),
        (lambda: Restorer(Blur(KERNEL), steps=0), ValueError, ["steps", "0"]),
        (lambda: Restorer(Blur(KERNEL), steps=2.5), ValueError, ["steps", "2.5"]),
        (lambda: Restorer(Blur(KERNEL), sigma=-1), ValueError, ["sigma", "-1"]),
        (lambda: Restorer(Blur(KERNEL), sigma=float("nan")), ValueError, ["sigma", "nan"]),
        (lambda: Restorer(Blur(KERNEL), sigma=np.ones(3)), TypeError, ["sigma", "ndarray"]),
        (lambda: Restorer(Blur(KERNEL), "nobody"), ValueError, ["model", "nobody"]),
        (lambda: deblur(np.ones((9, 9), bool), KERNEL, 5), TypeError, ["image", "bool"]),
        (lambda: deblur(np.ones((0, 9)), KERNEL, 5), ValueError, ["image", "empty"]),
        (lambda: deblur(np.ones((9, 6)), KERNEL, 5), ValueError, ["kernel of 7 x 7", "9 x 6"]),
        (lambda: deblur(np.full((9, 9), np.nan), KERNEL, 5), ValueError, ["image", "NaN"]),
        (lambda: deblur(np.ones((7, 7)), KERNEL), ValueError, ["sigma", "too small"]),
        (lambda: inpaint(np.ones((9, 9)), np.ones((9, 8))), ValueError, ["mask", "(9, 8)"]),
        (lambda: blind(), ValueError, ["noise level", "dncnn"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(call, error, words):
    with pytest.raises(error) as raised:
        call()
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_copies_make_their_own_plans():
    restorer = Restorer(Blur("gaussian:1"), sigma=5, steps=1)
    image = picture(1).astype(np.float32)
    expected = restorer(image)  # it has a plan now
    for other in (copy.deepcopy(restorer), pickle.loads(pickle.dumps(restorer))):
        np.testing.assert_allclose(other(image), expected, rtol=0, atol=1e-5)
