"""DICOM, NIfTI, EXR and camera raw: what is kept, what is derived, what is refused."""

from __future__ import annotations

import gzip
import io as bytes_io
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from medical_files import dicom, nifti
from picture_files import RNG, assert_same_pixels, pixels, written
from shared_data import needs

from denoise_ext import io

DERIVED = {
    "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "DerivationDescription",
    "SourceImageSequence", "PixelData",
}  # fmt: skip


def tags_of(data: bytes) -> dict[str, object]:
    import pydicom

    dataset = pydicom.dcmread(bytes_io.BytesIO(data))
    return {e.keyword or str(e.tag): e.value for e in dataset if e.keyword not in DERIVED}


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "uint32"])
def test_dicom_keeps_pixels_and_tags_and_says_it_is_derived(dtype):
    import pydicom

    data = dicom(RNG.integers(0, 200, (7, 9)).astype(dtype))
    picture = io.read_picture(data)
    low, high = int(picture.frames[0].min()), int(picture.frames[0].max())
    assert picture.value_range == (low, high)
    out = written(picture)
    assert tags_of(out) == tags_of(data)
    again = io.read_picture(out)
    assert_same_pixels(picture, again)
    new = pydicom.dcmread(bytes_io.BytesIO(out))
    assert new.ImageType == ["DERIVED", "PRIMARY"]
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert new.SOPInstanceUID == new.file_meta.MediaStorageSOPInstanceUID != "1.2.3.4"
    assert new.SeriesInstanceUID != "1.2.3"
    assert "denoise_ext" in new.DerivationDescription
    assert out == written(picture)  # the same pixels, the same file
    changed = pydicom.dcmread(
        bytes_io.BytesIO(written(picture.with_frames([picture.frames[0] // 2])))
    )
    assert changed.SOPInstanceUID != new.SOPInstanceUID
    assert changed.SeriesInstanceUID == new.SeriesInstanceUID


def test_dicom_frames_colour_padding_and_stored_bits():
    stack = RNG.integers(0, 4096, (3, 7, 9)).astype(np.uint16)
    data = dicom(stack, 3, BitsStored=12, HighBit=11)
    picture = io.read_picture(data)
    np.testing.assert_array_equal(np.stack(picture.frames), stack)
    louder = picture.with_frames([frame + np.uint16(500) for frame in picture.frames])
    back = io.read_picture(written(louder))
    np.testing.assert_array_equal(np.stack(back.frames), np.minimum(stack + 500, 4095))

    ct = RNG.integers(-1000, 2000, (7, 9)).astype(np.int16)
    ct[:, :2] = -2000
    picture = io.read_picture(dicom(ct, PixelPaddingValue=-2000))
    assert picture.value_range == (ct[:, 2:].min(), ct[:, 2:].max())
    back = io.read_picture(written(picture.with_frames([picture.frames[0] + np.int16(1)])))
    np.testing.assert_array_equal(back.frames[0][:, :2], -2000)
    np.testing.assert_array_equal(back.frames[0][:, 2:], ct[:, 2:] + 1)

    rgb = pixels("rgb", "uint8")
    picture = io.read_picture(dicom(rgb))
    np.testing.assert_array_equal(picture.frames[0], rgb)
    assert_same_pixels(picture, io.read_picture(written(picture)))


@pytest.mark.parametrize("name", ["CT_small", "MR_small", "examples_jpeg2k", "examples_palette"])
def test_dicom_files_of_others(name):
    path = needs(f"medical/dicom/{name}.dcm")
    picture = io.read_picture(path)
    out = written(picture)
    assert_same_pixels(picture, io.read_picture(out))
    old, new = tags_of(path.read_bytes()), tags_of(out)
    if name[:2] in ("CT", "MR"):
        assert new == old
        return
    assert new["PhotometricInterpretation"] == "RGB"  # now without a codec, without a palette
    of_pixels = re.compile("Palette|Bits|HighBit|Photometric|Samples|Planar|PixelRep")
    kept = {tag for tag in old if not of_pixels.search(tag)}
    assert len(kept) > 10
    assert {tag: new[tag] for tag in kept} == {tag: old[tag] for tag in kept}


def test_dicom_files_need_no_suffix(tmp_path):
    scan = dicom(pixels("gray", "int16"))
    for name in ("IM0001", "1.2.840.17.4", "a.dcm", "DICOMDIR"):
        (tmp_path / name).write_bytes(scan)
    (tmp_path / "README").write_text("no scan" * 50)
    os.mkfifo(tmp_path / "pipe")
    found = io.list_images(tmp_path)
    assert [path.name for path in found] == ["1.2.840.17.4", "IM0001", "a.dcm"]
    out = tmp_path / "out"
    out.mkdir()
    for path in found:
        io.check_can_write(out / path.name)
        io.write_picture(out / path.name, io.read_picture(path))
        assert io.read_picture(out / path.name).format == "DICOM"
    with pytest.raises(io.ImageError, match="no suffix"):
        io.write_picture(out / "IM0002", io.picture_of(pixels("gray", "uint8")))


def test_dicom_refusals(tmp_path):
    with pytest.raises(io.ImageError, match="1 bits per pixel"):
        io.read_picture(needs("medical/dicom/liver_1frame.dcm"))
    bomb = dicom(pixels("gray", "uint8"), Rows=60000, Columns=60000)
    with pytest.raises(io.ImageError, match="3600000000 pixels"):
        io.read_picture(bomb)
    with pytest.raises(io.ImageError, match=r"DICOM.*from DICOM"):
        io.write_picture(tmp_path / "a.dcm", io.picture_of(pixels("gray", "uint8")))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64", ">i2"])
def test_nifti_comes_back_byte_for_byte(version, dtype):
    volume = (RNG.normal(size=(5, 6, 4, 2)) * 50).astype(dtype)
    data = nifti(volume, version, cal_max=7, scl_slope=1.0, scl_inter=0.0)
    picture = io.read_picture(data)
    assert len(picture.frames) == 8
    np.testing.assert_array_equal(picture.frames[5], volume[:, :, 1, 1].T)
    assert written(picture) == data
    packed = io.read_picture(gzip.compress(data))
    assert gzip.decompress(written(packed)) == data
    assert written(packed) == written(packed)
    assert_same_pixels(picture, packed)


def test_nifti_with_another_dtype_and_refusals():
    import nibabel

    picture = io.read_picture(nifti((RNG.normal(size=(5, 6, 4)) * 50).astype(np.int16)))
    floats = picture.with_frames([frame.astype(np.float32) + 0.5 for frame in picture.frames])
    image = nibabel.Nifti1Image.from_bytes(written(floats))
    np.testing.assert_array_equal(image.get_fdata()[:, :, 1], floats.frames[1].T)
    np.testing.assert_array_equal(image.affine, np.diag([2.0, 3, 4, 1]))
    data = nifti(np.zeros((5, 6, 4), np.int16))
    with pytest.raises(io.ImageError, match="truncated"):
        io.read_picture(data[:-10])
    with pytest.raises(io.ImageError, match="complex64"):
        io.read_picture(nifti(np.zeros((5, 6, 4), np.complex64)))
    with pytest.raises(io.ImageError, match=r"x 900 frames = 1080000000 pixels"):
        bomb = bytearray(data)
        bomb[40:56] = np.array([3, 1000, 1200, 900, 1, 1, 1, 1], "<i2").tobytes()
        io.read_picture(gzip.compress(bytes(bomb)))


@pytest.mark.parametrize("name", ["anatomical.nii", "functional.nii", "example4d.nii.gz"])
def test_nifti_files_of_others(name):
    path = needs(f"medical/mri_nifti/{name}")
    data = path.read_bytes()
    back = written(io.read_picture(path))
    if name.endswith("gz"):
        data, back = gzip.decompress(data), gzip.decompress(back)
    assert back == data


def test_exr_keeps_attributes_windows_and_parts(tmp_path):
    oiio = pytest.importorskip("OpenImageIO")
    path = str(tmp_path / "a.exr")
    specs, arrays = [], []
    for part in range(2):
        spec = oiio.ImageSpec(11, 7, 4, "half")
        spec.x, spec.y, spec.full_width, spec.full_height = 3, 2, 20, 15
        spec.attribute("owner", "someone")
        spec.attribute("isoSpeed", 400.0)
        spec.attribute("compression", "dwaa:45")
        spec.attribute("chromaticities", oiio.TypeDesc("float[8]"), tuple(np.arange(8) / 8))
        spec.attribute("oiio:subimagename", f"part{part}")
        specs.append(spec)
        arrays.append(pixels("rgba", "float16"))
    out = oiio.ImageOutput.create(path)
    assert out.open(path, tuple(specs))
    assert out.write_image(arrays[0])
    assert out.open(path, specs[1], "AppendSubimage")
    assert out.write_image(arrays[1])
    assert out.close()
    picture = io.read_picture(path)
    assert (len(picture.frames), picture.value_range) == (2, (0, 1))
    assert picture.frames[0].dtype == np.float16
    back = io.read_picture(written(picture))
    assert_same_pixels(picture, back)
    old, new = picture.metadata.native, back.metadata.native
    assert [part.attributes for part in old] == [part.attributes for part in new]
    assert [part.window for part in old] == [part.window for part in new]
    assert {"Copyright", "isoSpeed", "chromaticities"} <= {name for name, _, _ in new[0].attributes}
    assert new[0].compression == "zip"  # was lossy


def test_camera_raw_is_developed_and_read_only(tmp_path):
    pytest.importorskip("rawpy")
    import tifffile

    bayer = np.full((64, 80), 512, np.uint16)
    bayer[::2, ::2] = 800  # red
    extra = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True),
             (50706, "B", 4, (1, 4, 0, 0), True), (50714, "H", 1, 0, True),
             (50717, "H", 1, 1023, True), (50708, "s", 0, "camera", True),
             (50721, "2i", 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), True),
             (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True)]  # fmt: skip
    path = tmp_path / "a.dng"
    tifffile.imwrite(path, bayer, photometric=32803, extratags=extra, metadata=None)
    picture = io.read_picture(path)
    assert (picture.format, picture.mode) == ("RAW", "rgb")
    frame = picture.frames[0]
    assert frame.dtype == np.uint16
    assert frame.shape[2] == 3
    assert frame[20:40, 20:40, 0].mean() > frame[20:40, 20:40, 1].mean()
    with pytest.raises(io.ImageError, match="RAW is read only"):
        io.write_picture(tmp_path / "b.dng", picture)
    io.write_picture(tmp_path / "b.tif", picture)
    np.testing.assert_array_equal(io.read_picture(tmp_path / "b.tif").frames[0], frame)
    with pytest.raises(io.ImageError, match="max_pixels"):
        io.read_picture(path, max_pixels=1000)


@pytest.mark.parametrize(("format", "module"), [("DICOM", "pydicom"), ("NIFTI", "nibabel")])
def test_a_picture_that_was_not_read_from_such_a_file_is_one_line(tmp_path, format, module):
    pytest.importorskip(module)
    picture = replace(io.picture_of(np.zeros((4, 4), np.uint8)), format=format)
    path = tmp_path / {"DICOM": "x.dcm", "NIFTI": "x.nii"}[format]
    with pytest.raises(io.ImageError, match=r"cannot write .*header of such") as error:
        io.write_picture(path, picture)
    assert "\n" not in str(error.value)
    assert not path.exists()
