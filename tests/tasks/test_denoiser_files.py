"""tasks.Denoiser on files and pictures: every format, depth and range, pages, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medical_files import dicom, nifti
from picture_files import HELD, exif_block, pixels, written
from zoo import tiny_for

from denoise_ext import io, tasks
from denoise_ext._loader import native_error
from denoise_ext.nn import JointBilateralBlur
from denoise_ext.tasks import Denoiser

pytestmark = pytest.mark.skipif(native_error() is not None, reason="native library missing")
RNG = np.random.default_rng(8)


@pytest.fixture(scope="module")
def gray():
    return Denoiser(tiny_for(1), sigma=20.0)


def range_of(array: np.ndarray, name: str) -> tuple[float, float] | None:
    """As docs/formats.md has it."""
    if array.dtype in (np.uint8, np.uint16) or name == "EXR":
        return None
    low, high = float(array.min()), float(array.max())
    return (0.0, 1.0) if array.dtype.kind == "f" and low >= 0 and high <= 1 else (low, high)


def numbers_for(mode: str, dtype: str) -> np.ndarray:
    """Over the whole range of the type, or as much of it as float64 holds exactly."""
    array = pixels(mode, dtype)
    return array >> 12 if "int64" in dtype else array


def saved(folder, name: str, array: np.ndarray) -> str:
    premultiplied = "straight" not in io.codec_named(name).alpha
    picture = io.picture_of(array, metadata=io.Metadata(premultiplied=premultiplied))
    path = str(folder / f"image{io.codec_named(name).suffixes[0]}")
    io.write_picture(path, picture, overwrite=True)
    return path


@pytest.mark.parametrize("name", sorted({case[0] for case in HELD}))
def test_every_format(tmp_path, name):
    """As the array that is in it: the result of a name is an array, of a picture a picture."""
    gray = Denoiser(tiny_for(1), sigma=20.0, backend="torch")  # makes no plan for each shape
    for _, mode, dtype in (case for case in HELD if case[0] == name):
        array = numbers_for(mode, dtype)
        path = saved(tmp_path, name, array)
        numbers = array * np.uint8(255) if array.dtype == bool else array
        expected = gray(numbers, value_range=range_of(numbers, name))
        assert (expected != numbers).any()
        result = gray(path)
        assert isinstance(result, np.ndarray) and result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected, str((mode, dtype)))
        picture = io.read_picture(path)
        again = gray(picture)
        assert (again.metadata, again.mode) == (picture.metadata, picture.mode)
        expected = expected >= 128 if array.dtype == bool else expected
        np.testing.assert_array_equal(again.frames[0], expected)
        assert again.frames[0].dtype == array.dtype


@pytest.mark.parametrize("name", [*sorted({case[0] for case in HELD}), "DICOM", "NIFTI"])
def test_strength_zero_gives_the_file_back(tmp_path, name):
    """Every pixel and byte that the format holds; only DICOM says that it is derived."""
    if name in ("DICOM", "NIFTI"):
        scan = RNG.integers(-1024, 3071, (3, 13, 18)).astype(np.int16)
        contents = [dicom(scan, 3) if name == "DICOM" else nifti(scan.T)]
    else:
        contents = [
            Path(saved(tmp_path, name, numbers_for(mode, dtype))).read_bytes()
            for _, mode, dtype in (case for case in HELD if case[0] == name)
        ]
    for content in contents:
        picture = io.read_picture(content)
        same = Denoiser(strength=0)(picture)
        assert (same.metadata, same.value_range) == (picture.metadata, picture.value_range)
        for before, after in zip(picture.frames, same.frames, strict=True):
            assert before.dtype == after.dtype and before.tobytes() == after.tobytes()
        assert written(same) == written(picture)


def test_scans(gray, tmp_path):
    scan = RNG.integers(-1024, 3071, (13, 18)).astype(np.int16)
    expected = gray(scan, value_range=(int(scan.min()), int(scan.max())))
    (tmp_path / "ct.dcm").write_bytes(dicom(scan))
    (tmp_path / "slice.nii").write_bytes(nifti(scan.T[:, :, None]))
    for name in ("ct.dcm", "slice.nii"):
        result = gray(tmp_path / name)
        assert result.dtype == np.int16
        np.testing.assert_array_equal(result, expected)
        picture = gray(io.read_picture(tmp_path / name))
        np.testing.assert_array_equal(io.read_picture(written(picture)).frames[0], expected)
    wider = gray(tmp_path / "ct.dcm", value_range=(-2000, 4000))  # goes before the file's own
    np.testing.assert_array_equal(wider, gray(scan, value_range=(-2000, 4000)))
    mask = (scan > 0).astype(np.int16)  # 0 and 1 are no full scale
    np.testing.assert_array_equal(
        gray(io.picture_of(mask)).frames[0], gray(mask, value_range=(0, 1))
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_are_not_finite_stay(gray, tmp_path, dtype):
    volume = (np.random.default_rng(3).normal(500, 20, (64, 48, 2))).astype(dtype)
    volume[:20], volume[30, 30, 1] = np.nan, -np.inf
    (tmp_path / "map.nii").write_bytes(nifti(volume))
    picture = io.read_picture(tmp_path / "map.nii")
    low, high = (f(volume[np.isfinite(volume)]) for f in (np.min, np.max))
    result = gray.run(picture)
    for index, frame in enumerate(result.image.frames):
        slice_ = volume[:, :, index].T
        finite = np.isfinite(slice_)
        expected = gray(np.where(finite, slice_, low), value_range=(low, high))
        np.testing.assert_array_equal(frame[finite], expected[finite])
        assert frame[~finite].tobytes() == slice_[~finite].tobytes() and not finite.all()
    assert written(Denoiser(strength=0)(picture)) == written(picture)
    found = tasks.estimate_sigma(replace(picture, frames=picture.frames[:1]))
    assert found == pytest.approx(20 * 255 / (high - low), rel=0.15)
    assert result.image.notes == (f"{20 * 48 * 2 + 1} numbers are not finite and stay as they are",)
    np.save(tmp_path / "a.npy", volume[..., 1])
    expected = gray(tmp_path / "a.npy")
    np.testing.assert_array_equal(np.isfinite(expected), np.isfinite(volume[..., 1]))
    with pytest.raises(ValueError, match=r"image.*NaN"):  # an array says nothing of it
        gray(volume[..., 1])


def test_two_level_pictures_have_no_other_range(gray):
    picture = io.picture_of(np.random.default_rng(3).random((24, 32)) > 0.5)
    result = gray.run(picture, value_range=(0, 4095)).image
    np.testing.assert_array_equal(result.frames[0], gray(picture).frames[0])
    assert result.frames[0].dtype == bool and result.frames[0].any()


def test_a_photograph_that_lies_on_its_side(gray, tmp_path):
    array = pixels("gray", "uint8")
    picture = io.picture_of(array, metadata=io.Metadata(exif=exif_block()))
    io.write_picture(tmp_path / "a.png", picture)
    upright = io.read_image(tmp_path / "a.png")
    assert upright.shape == array.shape[::-1]
    np.testing.assert_array_equal(gray(tmp_path / "a.png"), gray(upright))
    lying = gray(io.read_picture(tmp_path / "a.png"))  # turned as it was: its EXIF says so
    np.testing.assert_array_equal(lying.frames[0], gray(array))


def test_pages(gray, tmp_path):
    pages = tuple(RNG.integers(0, 65536, (13, 18), dtype=np.uint16) for _ in range(3))
    io.write_picture(tmp_path / "s.tif", io.Picture(pages, (0.0, 65535.0), "gray", "TIFF"))
    with pytest.raises(io.ImageError, match=r"s\.tif' holds 3 frames.*give axes.*io\.read_picture"):
        gray(tmp_path / "s.tif")
    picture = io.read_picture(tmp_path / "s.tif")
    result = Denoiser(tiny_for(1)).run(picture)
    levels = [tasks.estimate_sigma(page) for page in pages]
    assert (result.tiles, result.recomputed, result.sigma_estimated) == (3, 0, True)
    assert result.sigma == pytest.approx(sum(levels) / 3) and result.seconds > 0
    for page, level, clean in zip(pages, levels, result.image.frames, strict=True):
        np.testing.assert_array_equal(clean, tasks.denoise(page, tiny_for(1), level))
    assert result.image.metadata == picture.metadata
    np.testing.assert_array_equal(
        np.stack(gray(replace(picture, value_range=(0, 40000))).frames),
        np.stack([gray(page, value_range=(0, 40000)) for page in pages]),
    )
    same = tasks.denoise(picture, tiny_for(1), strength=0)
    np.testing.assert_array_equal(np.stack(same.frames), np.stack(pages))
    [first] = gray.denoise_many([picture])
    np.testing.assert_array_equal(first.frames[2], gray(pages[2]))


def test_levels_and_guides_from_files(tmp_path):
    scan = (RNG.normal(1000, 30, (64, 64))).astype(np.int16)
    low, high = int(scan.min()), int(scan.max())
    (tmp_path / "a.dcm").write_bytes(dicom(scan))
    expected = tasks.estimate_sigma(scan, value_range=(low, high))
    assert expected == pytest.approx(30 * 255 / (high - low), rel=0.1)
    for image in (tmp_path / "a.dcm", io.read_picture(tmp_path / "a.dcm")):
        assert tasks.estimate_sigma(image) == expected
        unit = ((scan - np.float32(low)) / np.float32(high - low)).astype(np.float32)
        image_2 = RNG.random((64, 64), np.float32)
        layer = JointBilateralBlur(5, sigma_color=0.1, sigma_space=2.0)
        guided = Denoiser(layer)
        np.testing.assert_allclose(
            guided(image_2, guide=image), guided(image_2, guide=unit), atol=1e-6
        )


@pytest.mark.parametrize("dtype, low, high", [("int64", -(2**53), 2**53), ("uint64", 0, 2**40)])
def test_64_bits(gray, dtype, low, high):
    unit = RNG.random((13, 18))
    image = (unit * (float(high) - low) + low).astype(dtype)
    result = gray(image, value_range=(low, high))
    assert result.dtype == image.dtype
    exact = (result.astype(np.float64) - low) / (float(high) - low)
    expected = gray(unit).clip(0 if low == 0 else None)  # unsigned ones are clipped
    assert np.abs(exact - expected).max() <= 1e-5  # the network's own arithmetic is float32


def test_refusals_name_the_file(gray, tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 2**60]]))
    for image in (tmp_path / "a.npy", io.read_picture(tmp_path / "a.npy")):
        with pytest.raises(ValueError, match=r"within -2\^53 and 2\^53, where float64 is exact"):
            gray(image)
    with pytest.raises(TypeError, match=r"got torch\.int64; other integers need value_range"):
        gray(np.zeros((5, 6), np.int64))
    np.save(tmp_path / "s.npy", np.zeros((2, 5, 6), np.uint8))
    with pytest.raises(io.ImageError, match=r"guide: .*s\.npy' holds 2 frames"):
        tasks.denoise(torch.zeros(5, 6), "joint_bilateral", guide=tmp_path / "s.npy")
    with pytest.raises(ValueError, match=r"image.*got 2"):
        tasks.estimate_sigma(io.read_picture(tmp_path / "s.npy"))
