"""denoise_ext.tasks: every kind of image in, the same kind out, and the protocol of figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denoise_ext import metrics, runtime, tasks
from denoise_ext._loader import native_error
from denoise_ext.models import create_model, save_model
from denoise_ext.nn import to_torch

SIGMA = 20.0


@pytest.fixture(scope="module", params=["native", "torch"])
def backend(request):
    if request.param == "native" and native_error() is not None:
        pytest.skip(f"native library: {native_error()}")
    return request.param


def tiny(channels: int, backend: str = "torch", family: str = "ffdnet"):
    """A small network with weights that do something visible but keep the image recognisable."""
    torch.manual_seed(channels)
    name = f"{family}_{'gray' if channels == 1 else 'color'}"
    options = {"predicts": "noise"} if family == "ffdnet" else {}
    model = create_model(name, width=8, depth=3, **options).eval()
    return to_torch(model) if backend == "torch" else model


@pytest.fixture(scope="module")
def gray(backend):
    return tiny(1, backend)


@pytest.fixture(scope="module")
def colour(backend):
    return tiny(3, backend)


def expected(model, image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) through the network by hand."""
    x = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        y = model(x, SIGMA)[0].permute(1, 2, 0).numpy()
    return np.rint(np.clip(y * np.float32(255), 0, 255)).astype(np.uint8)


RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (13, 18, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (13, 18), dtype=np.uint8)


def test_colour_image(colour):
    result = tasks.denoise(RGB, colour, SIGMA)
    assert result.dtype == np.uint8 and result.shape == RGB.shape
    assert np.abs(result.astype(int) - expected(colour, RGB)).max() <= 1  # summation order
    assert (result != RGB).mean() > 0.5
    assert result.flags.writeable and result.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(13, 18), (13, 18, 1)])
def test_dtype_and_shape_are_kept(gray, dtype, shape):
    kind = np.dtype(dtype)
    scale = np.iinfo(kind).max if kind.kind == "u" else 1
    image = (GRAY.reshape(shape) / 255 * scale).astype(kind)
    result = tasks.denoise(image, gray, SIGMA)
    assert result.dtype == kind and result.shape == shape
    reference = expected(gray, GRAY[..., None]).reshape(shape)
    unclipped = np.clip(result.astype(np.float64) / scale, 0, 1)
    assert np.abs(unclipped * 255 - reference).max() <= 1.0


def test_sixteen_bits_are_not_cut_to_eight(gray):
    image = RNG.integers(0, 65536, (16, 16), dtype=np.uint16)
    result = tasks.denoise(image, gray, 0.0)
    assert len(np.unique(result % 257)) > 100
    big_endian = image.astype(">u2")
    np.testing.assert_array_equal(tasks.denoise(big_endian, gray, 0.0), result)
    assert tasks.denoise(big_endian, gray, 0.0).dtype == np.dtype(">u2")


def test_alpha_passes_through(gray, colour):
    for model, image in ((colour, RGB), (gray, GRAY[..., None])):
        alpha = RNG.integers(0, 256, (13, 18, 1), dtype=np.uint8)
        result = tasks.denoise(np.concatenate([image, alpha], -1), model, SIGMA)
        np.testing.assert_array_equal(result[..., -1:], alpha)
        np.testing.assert_array_equal(result[..., :-1], tasks.denoise(image, model, SIGMA))


def test_tensors(gray, colour):
    x = torch.rand(2, 3, 9, 10)
    batch = tasks.denoise(x, colour, SIGMA)
    assert batch.shape == x.shape and batch.dtype == x.dtype
    for image, one in zip(x, batch, strict=True):
        torch.testing.assert_close(tasks.denoise(image, colour, SIGMA), one)
    assert tasks.denoise(x[0, 0], gray, SIGMA).shape == (9, 10)
    assert tasks.denoise(x[:0], colour, SIGMA).shape == (0, 3, 9, 10)
    eight = (x * 255).to(torch.uint8)
    assert tasks.denoise(eight, colour, SIGMA).dtype == torch.uint8
    weight = torch.ones((), requires_grad=True)
    (batch * weight).sum().backward()  # the result is no inference tensor


def test_gray_model_on_colour_is_by_channel(gray):
    result = tasks.denoise(RGB, gray, SIGMA)
    for channel in range(3):
        alone = tasks.denoise(np.ascontiguousarray(RGB[..., channel]), gray, SIGMA)
        assert np.abs(result[..., channel].astype(int) - alone).max() <= 1


def test_colour_model_on_gray_knows_that_the_noise_is_copied(colour):
    result = tasks.denoise(GRAY / np.float32(255), colour, SIGMA)
    copies = np.repeat(GRAY[..., None] / np.float32(255), 3, axis=2)
    mean = tasks.denoise(copies, colour, SIGMA * 3**0.5).mean(axis=2)
    np.testing.assert_allclose(result, mean, atol=1e-5)
    level = np.full(GRAY.shape, SIGMA)
    np.testing.assert_allclose(
        tasks.denoise(GRAY / np.float32(255), colour, level), result, atol=1e-5
    )


def test_sigma_as_number_map_and_per_image(gray, colour):
    one = tasks.denoise(RGB / np.float32(255), colour, SIGMA)
    level = np.full(RGB.shape[:2], SIGMA)
    for sigma in (np.float32(SIGMA), int(SIGMA), level, torch.from_numpy(level)):
        result = tasks.denoise(RGB / np.float32(255), colour, sigma)
        np.testing.assert_allclose(result, one, atol=1e-5)
    x = torch.rand(2, 3, 8, 8)
    levels = torch.tensor([5.0, 50.0])
    for model in (gray, colour):
        both = tasks.denoise(x, model, levels)
        for i in range(2):
            alone = tasks.denoise(x[i], model, float(levels[i]))
            torch.testing.assert_close(both[i], alone)


def test_blind_model_needs_no_sigma(backend):
    model = tiny(1, backend, "dncnn")
    assert tasks.denoise(GRAY, model).shape == GRAY.shape


def test_one_pixel(gray, colour):
    assert tasks.denoise(RGB[:1, :1], colour, SIGMA).shape == (1, 1, 3)
    assert tasks.denoise(GRAY[:1], gray, SIGMA).shape == (1, 18)


def test_checkpoint_file_and_path(tmp_path, backend):
    model = tiny(3)
    save_model(model, tmp_path / "m.safetensors", dtype=torch.float32)
    for path in (tmp_path / "m.safetensors", str(tmp_path / "m.safetensors")):
        result = tasks.denoise(RGB, path, SIGMA, device="cpu", backend=backend)
        assert np.abs(result.astype(int) - expected(model, RGB)).max() <= 1


def test_default_model():
    assert runtime.default_model(1) == "dxnet_s_gray"
    assert runtime.default_model(3) == "dxnet_s_color"
    with pytest.raises(ValueError, match="channels"):
        runtime.default_model(2)


BAD_CALLS = [
    ({"image": [[1]]}, TypeError, "image must be"),
    ({"image": np.zeros((2, 2), np.int32)}, TypeError, "image must be"),
    ({"image": np.zeros((2, 2), bool)}, TypeError, "image must be"),
    ({"image": np.zeros((2, 2, 5), np.uint8)}, ValueError, "1 to 4 channels"),
    ({"image": np.zeros((2,), np.uint8)}, ValueError, "image must be"),
    ({"image": np.zeros((0, 2), np.uint8)}, ValueError, "empty"),
    ({"image": torch.zeros(2, 2, dtype=torch.int64)}, TypeError, "image must be"),
    ({"image": torch.zeros(1, 1, 1, 2, 2)}, ValueError, "image must be"),
    ({"image": np.full((4, 4), 200.0, np.float32)}, ValueError, "200.*value_range"),
    ({"image": np.full((4, 4), np.nan, np.float32)}, ValueError, "got NaN or infinity"),
    ({"sigma": -1.0}, ValueError, "sigma"),
    ({"sigma": float("nan")}, ValueError, "sigma"),
    ({"sigma": "strong"}, TypeError, "sigma"),
    ({"sigma": np.zeros((3, 4))}, ValueError, "sigma"),
    ({"sigma": np.array(["a"])}, TypeError, "sigma"),
    ({"model": "no_such_model"}, ValueError, "'no_such_model'"),
    ({"model": torch.nn.Identity()}, ValueError, "channels is required"),
    ({"model": 7}, TypeError, "model"),
    ({"model": tiny(1).train()}, ValueError, "training mode"),
    ({"model": tiny(3, family="dncnn")}, ValueError, "blind one for colour.*gray model"),
    ({"model": tiny(1), "device": "cuda"}, (RuntimeError, ValueError), "device|cuda"),
    ({"device": "tpu"}, ValueError, "device"),
    ({"device": "meta"}, ValueError, "device"),
    ({"backend": "fast"}, ValueError, "backend"),
]


@pytest.mark.parametrize("change, error, message", BAD_CALLS)
def test_bad_arguments_are_named(change, error, message):
    call = {"image": GRAY, "model": tiny(1), "sigma": SIGMA} | change
    with pytest.raises(error, match=message):
        tasks.denoise(**call)


def test_cuda_that_is_not_there_is_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.choose_device("auto").type == "cpu"
    with pytest.raises(RuntimeError, match="'cuda' cannot be used: "):
        runtime.choose_device("cuda")


def test_integers_survive_the_way_there_and_back():
    for dtype, top in ((torch.uint8, 255), (torch.uint16, 65535)):
        levels = torch.arange(top + 1).to(torch.int32).to(dtype)
        back = tasks.from_unit(tasks.to_unit(levels), dtype)
        assert back.dtype == dtype
        assert torch.equal(back.to(torch.int32), levels.to(torch.int32))
    over = torch.tensor([-0.5, 1.5, 0.5 / 255, 1.5 / 255])  # half to even
    assert tasks.from_unit(over, torch.uint8).tolist() == [0, 255, 0, 2]


def test_evaluation_follows_its_protocol():
    from denoise_ext.data.noise import add_gaussian_noise

    class Nothing(type(tiny(1))):
        """Returns what it gets, so that every figure can be worked out by hand."""

        def denoise(self, x, noise_map):
            return x

    model = Nothing(channels=1, width=4, depth=2).eval()
    denoiser = tasks.Denoiser(model, backend="torch")
    clean = RNG.integers(0, 256, (24, 24), dtype=np.uint8)
    x = torch.from_numpy(clean / np.float32(255))[None, None]
    noisy = add_gaussian_noise(x, 30.0, torch.Generator().manual_seed(7))

    def figures(**protocol):
        return tasks.evaluate_image(denoiser, clean, 30.0, tasks.Protocol(seed=7, **protocol))

    def psnr(image, crop=0):
        inside = slice(crop, 24 - crop)
        return pytest.approx(
            float(metrics.psnr(image[..., inside, inside], x[..., inside, inside])), abs=1e-4
        )

    rounded = noisy.clamp(0, 1).mul(255).round() / 255
    assert figures().noisy_psnr == psnr(noisy)
    assert figures().psnr == psnr(rounded)
    assert figures(round_output=False).psnr == psnr(noisy.clamp(0, 1))
    assert figures(clip_noisy=True).noisy_psnr == psnr(noisy.clamp(0, 1))
    assert figures(crop=3).psnr == psnr(rounded, crop=3)
    with pytest.raises(ValueError, match="border"):
        figures(crop=12)
    assert "seed 7" in tasks.Protocol(seed=7).describe()[0]


def test_clean_pixels_gray_is_pillows_luma():
    rgba = np.concatenate([RGB, RGB[..., :1]], -1)
    gray = tasks.clean_pixels(rgba, tasks.Protocol(gray=True))
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert gray.shape == RGB.shape[:2]
    assert np.abs(gray - luma).max() <= 0.5 + 1e-2
    np.testing.assert_array_equal(tasks.clean_pixels(rgba, tasks.Protocol()), RGB)


def test_clean_pixels_gray_of_16_bits():
    rgba = np.random.default_rng(0).integers(0, 65536, (8, 9, 4), dtype=np.uint16)
    gray = tasks.clean_pixels(rgba, tasks.Protocol(gray=True))
    luma = rgba[..., :3] @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert (gray.shape, gray.dtype) == ((8, 9), np.uint16) and np.abs(gray - luma).max() < 0.5001


def test_a_family_stands_for_two_networks():
    from denoise_ext.runtime.model_names import is_family, member

    assert is_family("dxnet_s") and is_family(None)
    assert not is_family("dxnet_s_gray") and not is_family("dxnet") and not is_family(tiny(1))
    assert member("ffdnet", 3) == "ffdnet_color"
    assert member("net.pth", 3) == "net.pth"


def test_results_of_a_family_are_told_from_those_of_others():
    from denoise_ext.tasks.processor import weights_sha256

    # dxnet_l has no weights, and is no file that could be missing either
    names = ("dxnet_s", "dxnet_l", "dxnet_s_gray", "dxnet_s_color")
    assert len({weights_sha256(name) for name in names}) == len(names)
    # without a model the noise may also choose the network for photographs
    assert weights_sha256(None) not in {weights_sha256(name) for name in names}
