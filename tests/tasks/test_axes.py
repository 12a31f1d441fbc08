"""axes="TZCYX" and the like: which shapes need none, which are refused, what comes out."""

from __future__ import annotations

import itertools

import command_line
import numpy as np
import pytest
import torch
from command_line import denoise

from denoise_ext import io
from denoise_ext._loader import native_error
from denoise_ext.models import create_model
from denoise_ext.tasks import Denoiser, estimate_sigma

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")
checkpoints, folder = command_line.checkpoints, command_line.folder  # fixtures
RNG = np.random.default_rng(5)
SIZES = {"N": 2, "T": 2, "Z": 3, "C": 5, "S": 3, "Y": 9, "X": 12}


@pytest.fixture(scope="module")
def clean():
    torch.manual_seed(0)
    network = create_model("ffdnet_gray", width=4, depth=2, predicts="noise").eval()
    return Denoiser(network, sigma=20, precision="strict")


def image(axes: str, dtype=np.uint8) -> np.ndarray:
    shape = [SIZES[letter] for letter in axes]
    return RNG.integers(0, 256, shape).astype(dtype)


def expected(clean, pixels: np.ndarray, axes: str) -> np.ndarray:
    """Each picture by itself, in plain loops."""
    letters = [letter for letter in axes if letter not in "SYX"] + [c for c in "SYX" if c in axes]
    moved = pixels.transpose([axes.index(letter) for letter in letters])
    inner = 3 if "S" in axes else 2
    result = np.empty_like(moved)
    for index in itertools.product(*map(range, moved.shape[:-inner])):
        picture = moved[index].transpose(1, 2, 0) if inner == 3 else moved[index]
        done = clean(np.ascontiguousarray(picture))
        result[index] = done.transpose(2, 0, 1) if inner == 3 else done
    return result.transpose([letters.index(letter) for letter in axes])


ALL = ["YX", "XY", "ZYX", "CYX", "YXC", "YXS", "SYX", "ZYXC", "TZCYX", "TZCYXS", "YCXT"]


@pytest.mark.parametrize("axes", ALL)
def test_each_picture_by_itself(clean, axes):
    pixels = image(axes)
    result = clean(pixels, axes=axes)
    assert (result.shape, result.dtype) == (pixels.shape, pixels.dtype)
    np.testing.assert_array_equal(result, expected(clean, pixels, axes))
    tensor = clean(torch.from_numpy(pixels), axes=axes)
    np.testing.assert_array_equal(tensor, result)
    assert (result != pixels).mean() > 0.5


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<u2", "f2"])
def test_kinds_of_numbers_and_order_in_memory(clean, dtype):
    for order in ("C", "F"):
        pixels = np.asarray(
            image("YXC") / 255 if "f" in dtype else image("YXC"), dtype, order=order
        )
        result = clean(pixels, axes="YXC")
        assert (result.dtype, result.strides) == (pixels.dtype, pixels.strides)
        np.testing.assert_array_equal(result, expected(clean, pixels, "YXC"))


def test_each_picture_has_its_own_noise_level(clean):
    noise = np.random.default_rng(0).normal(0, 1, (2, 64, 64))
    stack = (0.5 + noise * np.array([5, 30])[:, None, None] / 255).astype(np.float32)
    result = Denoiser(clean._model).run(stack, axes="CYX")
    np.testing.assert_allclose(result.sigma, [5, 30], rtol=0.3)
    # the mean of the variances
    alone = [estimate_sigma(picture) for picture in stack]
    level = estimate_sigma(stack, axes="CYX")
    assert level == pytest.approx(np.sqrt(np.mean(np.square(alone))))


@pytest.mark.parametrize("shape", [(64, 64, 5), (5, 64, 64), (3, 64, 64), (2, 3, 64, 64)])
def test_arrays_that_need_axes(clean, shape):
    with pytest.raises(ValueError, match=r"image.*axes"):
        clean(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(64, 64, 3), (5, 64, 64), (2, 64, 64, 3), (1, 2, 3, 9, 9)])
def test_tensors_that_need_axes(clean, shape):
    with pytest.raises(ValueError, match=r"image.*axes"):
        clean(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    "axes, error",
    [("Z", ValueError), ("ZYYX", ValueError), ("zyx", ValueError), ("QYX", ValueError),
     ("", ValueError), ("YX", ValueError), ("TZCYX", ValueError), (3, TypeError),
     (["Z", "Y", "X"], TypeError)],
)  # fmt: skip
def test_axes_that_do_not_fit(clean, axes, error):
    with pytest.raises(error, match=r"^axes"):
        clean(image("ZYX"), axes=axes)
    with pytest.raises(ValueError, match=r"image.*9, 12, 5"):
        clean(image("YXC"), axes="YXS")


# --- files ---------------------------------------------------------------------------------------


def test_files_of_bare_arrays(clean, tmp_path):
    """An NPY file says nothing of its axes: what could be slices and channels is refused."""
    pixels = RNG.integers(0, 256, (16, 12, 5), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    picture = io.read_picture(tmp_path / "a.npy")
    for given in (picture, tmp_path / "a.npy"):
        with pytest.raises(ValueError, match="axes"):
            clean(given)
    channels = clean(pixels, axes="YXC")
    np.testing.assert_array_equal(clean(tmp_path / "a.npy", axes="YXC"), channels)
    result = clean(picture, axes="YXC")
    io.write_picture(tmp_path / "b.npy", result)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), channels)
    slices = np.stack(clean(picture, axes="ZYX").frames)
    np.testing.assert_array_equal(slices, clean(pixels, axes="ZYX"))


def test_several_arrays_in_one_file(clean, tmp_path):
    arrays = {"one": image("YXC"), "two": image("YXC")[:, :4]}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(io.ImageError, match=r"a\.npz.*2 arrays"):
        clean(tmp_path / "a.npz", axes="YXC")
    io.write_picture(tmp_path / "b.npz", clean(io.read_picture(tmp_path / "a.npz"), axes="YXC"))
    for name, array in np.load(tmp_path / "b.npz").items():
        np.testing.assert_array_equal(array, clean(arrays[name], axes="YXC"))


def test_stacks_stay_stacks(clean, tmp_path):
    for shape in ((5, 12, 16), (2, 12, 16, 3), (12, 16, 3), (12, 16)):
        pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
        np.save(tmp_path / "a.npy", pixels)
        frames = clean(io.read_picture(tmp_path / "a.npy")).frames
        parts = pixels if len(shape) > len(frames[0].shape) else pixels[None]
        for frame, part in zip(frames, parts, strict=True):
            np.testing.assert_array_equal(frame, clean(part))


def test_pages_of_a_tiff(clean, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = image("TZCYX").astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=False, photometric="minisblack")
    picture = io.read_picture(tmp_path / "a.tif")
    named = clean(picture, axes="TZCYX").frames
    for frame, plain in zip(named, clean(picture).frames, strict=True):
        np.testing.assert_array_equal(frame, plain)


def test_on_the_command_line(folder, checkpoints, capsys):
    pixels = RNG.integers(0, 256, (16, 12, 5), dtype=np.uint8)
    np.save("a.npy", pixels)
    options = ["a.npy", "-o", "b.npy", "--sigma", "20", "--model", checkpoints["gray"]]
    code, _, err = denoise(capsys, *options)
    assert code == 3 and "--axes YXC" in err and "(16, 12, 5)" in err
    assert denoise(capsys, *options, "--axes", "YXC")[0] == 0
    clean = Denoiser(checkpoints["gray"], sigma=20, backend=command_line.BACKEND[1])
    np.testing.assert_array_equal(np.load("b.npy"), clean(pixels, axes="YXC"))
    code, _, err = denoise(capsys, *options, "--axes", "YXQ")
    assert code == 2 and "--axes" in err and "YXQ" in err
    # part of what a result depends on
    again = ["a.npy", "-o", "out/", *options[3:], "--resume"]
    codes = [denoise(capsys, *again, "--axes", axes)[0] for axes in ("YXC", "YXC", "ZYX")]
    assert codes == [0, 0, 3]
