"""tasks.Denoiser: kinds of images and their layouts, strength, alpha, precision, threads."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import tiny_for

import denoise_ext
from denoise_ext import io, tasks
from denoise_ext._loader import native_error
from denoise_ext.runtime import Session
from denoise_ext.tasks import Denoiser

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")

SIGMA = 20.0
RNG = np.random.default_rng(3)
RGBA = RNG.integers(0, 256, (13, 18, 4), dtype=np.uint8)
RGB, GRAY = np.ascontiguousarray(RGBA[..., :3]), np.ascontiguousarray(RGBA[..., 0])


@pytest.fixture(scope="module")
def colour():
    return Denoiser(tiny_for(3), sigma=SIGMA)


@pytest.fixture(scope="module")
def gray():
    return Denoiser(tiny_for(1), sigma=SIGMA)


# --- kinds and layouts ---------------------------------------------------------------------------


def test_the_package_names_them():
    assert denoise_ext.denoise is tasks.denoise
    assert denoise_ext.Denoiser is Denoiser


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "F"])
def test_pillow_images(gray, colour, mode):
    denoiser = gray if mode in ("L", "LA", "I;16", "F") else colour
    if mode == "I;16":
        image = Image.fromarray(GRAY.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(GRAY / np.float32(255))
    else:
        image = Image.fromarray(RGBA).convert(mode)
    image.info["icc_profile"] = b"profile"
    result = denoiser(image)
    assert isinstance(result, Image.Image)
    assert (result.mode, result.size) == (mode, image.size)
    assert result.info["icc_profile"] == b"profile"
    np.testing.assert_array_equal(np.asarray(result), denoiser(np.asarray(image)))


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "HSV"])
def test_pillow_modes_that_are_not_what_they_look_like(colour, mode):
    with pytest.raises(TypeError, match=f"got {mode}; convert"):
        colour(Image.fromarray(RGB).convert(mode))


def test_file_name(colour, tmp_path):
    path = tmp_path / "image.png"
    io.write_image(path, RGB)
    for name in (path, str(path)):
        np.testing.assert_array_equal(colour(name), colour(RGB))
    with pytest.raises(io.ImageError, match=r"none\.png"):
        colour(tmp_path / "none.png")


def test_layouts_are_kept_and_do_not_matter(colour):
    expected = colour(RGB)
    for image in (
        np.asfortranarray(RGB),
        RGB.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        RGBA[..., :3],
        RGB[::-1][::-1],
        RGB[:, ::-1].copy()[:, ::-1],
    ):
        result = colour(image)
        np.testing.assert_array_equal(result, expected)
        if image.flags.f_contiguous:
            assert result.flags.f_contiguous
    x = torch.from_numpy(RGB).permute(2, 0, 1)[None] / 255
    last = colour(x.contiguous(memory_format=torch.channels_last))
    first = colour(x.contiguous())
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    assert first.is_contiguous()
    assert torch.equal(first, last)


def test_the_image_is_not_changed(colour):
    for image in (RGB.copy(), RGBA.copy()):
        before = image.copy()
        image.setflags(write=False)
        colour(image)
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "dtype, low, high",
    [(np.int16, -1024, 3071), (np.uint16, 0, 4095), (np.uint32, 0, 2**32 - 1),
     (np.int32, -5, 9 * 10**8), (np.int8, -128, 127), (np.float32, -1.0, 300.0),
     (np.float64, 0.0, 1e-3)],
)  # fmt: skip
def test_value_range(gray, dtype, low, high):
    unit = GRAY / np.float64(255)
    image = (unit * (float(high) - low) + low).astype(dtype)
    result = gray(image, value_range=(low, high))
    assert result.dtype == image.dtype
    expected = gray(unit)
    exact = (result.astype(np.float64) - low) / (float(high) - low)
    step = 0 if np.dtype(dtype).kind == "f" else 1 / (high - low)  # one level of integers
    if step:  # integers are clipped to those of their type
        limits = np.iinfo(dtype).min, np.iinfo(dtype).max
        expected = np.clip(expected, *((x - low) / (float(high) - low) for x in limits))
    assert np.abs(exact - expected).max() <= 1.5 * step + 1e-5


BAD_RANGES = [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (0,), "ab", (0, 1, 2)]


@pytest.mark.parametrize("bad", BAD_RANGES)
def test_bad_value_range(gray, bad):
    with pytest.raises(ValueError, match="value_range"):
        gray(GRAY, value_range=bad)


def test_signed_integers_need_a_range(gray):
    with pytest.raises(TypeError, match=r"int16.*value_range"):
        gray(GRAY.astype(np.int16))
    with pytest.raises(ValueError, match=r"pixels must be finite and on the .0, 10. scale"):
        gray(GRAY.astype(np.int16) * 100, value_range=(0, 10))


# --- strength and alpha --------------------------------------------------------------------------


def test_strength_zero_is_the_image_bit_for_bit():
    odd = np.array([[np.nan, -7.5e30], [np.inf, -0.0]], np.float32)
    for image in (RGBA, GRAY, GRAY.astype(">u2"), odd):
        result = tasks.denoise(image, "ffdnet_gray_small", strength=0)
        assert result is not image and result.dtype == image.dtype
        assert result.tobytes() == image.tobytes()


def test_strength_is_linear(colour):
    image = RGB / np.float32(255)
    full = colour(image)
    for strength in (0.25, 0.5, 1.0):
        result = tasks.denoise(image, tiny_for(3), SIGMA, strength=strength)
        expected = (1 - strength) * image.astype(np.float64) + strength * full
        # two roundings of float32 numbers below 2, and one of strength itself
        np.testing.assert_allclose(result, expected, rtol=0, atol=4 * 2**-23)
    half = tasks.denoise(RGB, tiny_for(3), SIGMA, strength=0.5)
    between = np.clip((image + full) / 2 * 255, 0, 255)
    assert np.abs(half - between).max() <= 0.5 + 1e-3  # rounded once, at the end


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan, "1", True, None])
def test_bad_strength(bad):
    with pytest.raises(ValueError, match=r"strength.*0.*1"):
        Denoiser(strength=bad)


def test_alpha_is_denoised_as_a_gray_image(gray, colour):
    kept = colour(RGBA)
    both = Denoiser(tiny_for(3), sigma=SIGMA, alpha="denoise")(RGBA)
    np.testing.assert_array_equal(kept[..., 3], RGBA[..., 3])
    np.testing.assert_array_equal(both[..., :3], kept[..., :3])
    np.testing.assert_array_equal(both[..., 3], colour(np.ascontiguousarray(RGBA[..., 3])))
    opaque = np.concatenate([RGB, np.full_like(RGB[..., :1], 255)], -1)
    assert (Denoiser(tiny_for(3), alpha="denoise", sigma=SIGMA)(opaque)[..., 3] == 255).all()
    with pytest.raises(ValueError, match=r"alpha.*keep, denoise.*'drop'"):
        Denoiser(alpha="drop")


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("precision", ["strict", "default", "fast", "bfloat16", "float16"])
def test_precisions(precision, backend):
    expected = tasks.denoise(RGB, tiny_for(3), SIGMA, precision="strict")
    result = tasks.denoise(RGB, tiny_for(3), SIGMA, precision=precision, backend=backend)
    # bfloat16 has 8 bits; three layers round the image and two feature maps
    tolerance = {"bfloat16": 3, "float16": 1}.get(precision, 1)
    assert np.abs(result.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_what_leaves_float16_is_never_black(backend):
    """Features of a million: inf in float16, and nothing special in float32."""
    network = tiny_for(1)
    with torch.no_grad():
        network.body[0].weight.mul_(1e6)
        network.body[0].bias.mul_(1e6)
        network.body[-1].weight.mul_(1e-6)
    expected = tasks.denoise(GRAY, network, SIGMA)
    denoiser = Denoiser(network, sigma=SIGMA, precision="float16", backend=backend)
    result = denoiser.run(GRAY)
    assert result.recomputed == result.tiles == 1
    assert np.abs(result.image.astype(int) - expected).max() <= 1
    assert expected.max() > 100
    # and 65535, which float16 does not hold, is white
    white = np.full((8, 8), 65535, np.uint16)
    half = tiny_for(1, predicts="noise").half()
    assert np.isfinite(tasks.denoise(white / np.float32(65535), half, SIGMA)).all()
    assert tasks.denoise(white, half, SIGMA, backend=backend).min() > 32768


def test_damaged_weights_are_an_error():
    network = tiny_for(1)
    with torch.no_grad():
        network.body[1].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match=r"not finite.*weights"):
        tasks.denoise(GRAY, network, SIGMA)


@pytest.mark.parametrize("precision", ["strict", "default", "fast"])
def test_where_nothing_is_planned_the_layers_get_the_precision(precision):
    """As on a GPU; the meta device is another such place."""
    network = tiny_for(3).to("meta")
    session = Session(network, precision, run_planned=True)
    precisions = {
        part.precision for part in session._network.modules() if hasattr(part, "precision")
    }
    assert precisions == {precision}
    assert {part.precision for part in network.modules() if hasattr(part, "precision")} == {
        "default"
    }
    ours, theirs = session._network.parameters(), network.parameters()
    assert all(a is b for a, b in zip(ours, theirs, strict=True))  # no second copy of the weights


def test_an_accelerated_network_has_a_precision_of_its_own():
    fast = denoise_ext.accelerate(tiny_for(1))
    assert tasks.denoise(GRAY, fast, SIGMA).shape == GRAY.shape
    with pytest.raises(ValueError, match="precision 'fast'"):
        tasks.denoise(GRAY, fast, SIGMA, precision="fast")
    with pytest.raises(ValueError, match=r"precision.*strict, .*got 'half'"):
        Denoiser(precision="half")


# --- facts ---------------------------------------------------------------------------------------


def test_result_says_what_was_done():
    flat = np.full((64, 64), 0.5, np.float32)
    noisy = flat + RNG.normal(0, 20 / 255, flat.shape).astype(np.float32)
    estimated = Denoiser(tiny_for(1)).run(noisy)
    assert estimated.sigma_estimated and estimated.sigma == tasks.estimate_sigma(noisy)
    given = Denoiser(tiny_for(1), sigma=5).run(noisy, 20.0)
    assert (given.sigma, given.sigma_estimated) == (20.0, False)
    blind = Denoiser(tiny_for(1, "dncnn")).run(noisy)
    assert (blind.sigma, blind.sigma_estimated) == (None, False)
    assert (given.tiles, given.recomputed) == (1, 0) and given.seconds > 0
    np.testing.assert_array_equal(
        Denoiser(tiny_for(1))(noisy), tasks.denoise(noisy, tiny_for(1), estimated.sigma)
    )
    batch = torch.from_numpy(np.stack([noisy, flat]))[:, None]
    both = Denoiser(tiny_for(1)).run(batch)
    assert both.sigma[0] == pytest.approx(estimated.sigma) and both.sigma[1] == 0
    torch.testing.assert_close(both.image[0, 0], torch.from_numpy(estimated.image))


def test_one_denoiser_for_gray_and_colour():
    denoiser = Denoiser(sigma=SIGMA)
    for image, name in ((RGB, "dxnet_s_color"), (GRAY, "dxnet_s_gray")):
        for _ in range(2):
            np.testing.assert_array_equal(denoiser(image), tasks.denoise(image, name, SIGMA))


# --- threads -------------------------------------------------------------------------------------


def test_many_come_in_order_and_are_not_taken_far_ahead(gray):
    taken, done = [], 0

    def images():
        for i in range(20):
            taken.append(i)
            assert len(taken) - done <= 2 * 2 + 1
            yield np.full((9 + i % 3, 8), i * 10, np.uint8)

    for i, result in enumerate(gray.denoise_many(images(), workers=2)):
        np.testing.assert_array_equal(result, gray(np.full((9 + i % 3, 8), i * 10, np.uint8)))
        done += 1
    assert done == 20


def test_many_stops_where_an_image_fails(gray):
    results = gray.denoise_many([GRAY, GRAY, "/no/such/file.png", GRAY], workers=3)
    for _ in range(2):
        np.testing.assert_array_equal(next(results), gray(GRAY))
    with pytest.raises(io.ImageError, match=r"file.png"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    endless = gray.denoise_many(itertools.repeat(GRAY), workers=1)
    next(endless)
    endless.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("denoise")]
    with pytest.raises(ValueError, match="workers"):
        gray.denoise_many([], workers=0)


def test_threads_share_a_denoiser():
    denoiser = Denoiser(tiny_for(3), sigma=SIGMA)
    images = [RNG.integers(0, 256, (20 + i % 2, 24, 3), dtype=np.uint8) for i in range(2)]
    expected = [tasks.denoise(image, tiny_for(3), SIGMA) for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(denoiser, images * 6))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[i % 2])


def test_the_first_image_does_not_wait_for_the_compiler():
    """torch imports its compiler where it meets tensors without data: a second."""
    program = (
        "import sys, numpy, denoise_ext\n"
        "denoise_ext.denoise(numpy.zeros((16, 16), numpy.uint8), sigma=25)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "False\n"
