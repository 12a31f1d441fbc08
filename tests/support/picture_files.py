"""Small pictures with random pixels, and files of every format that hold them."""

from __future__ import annotations

import gzip
import io as bytes_io

import numpy as np
from medical_files import dicom, nifti
from PIL import Image, ImageCms

from denoise_ext import io

RNG = np.random.default_rng(0)
SHAPES = {"gray": (7, 11), "gray+alpha": (7, 11, 2), "rgb": (7, 11, 3), "rgba": (7, 11, 4)}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'
# What each format that is written can hold exactly: its name, mode and dtype.
HELD = [
    (codec.name, mode, dtype)
    for codec in io.CODECS
    if codec.write is not None and codec.exact and not codec.only_from
    for mode, dtypes in codec.holds.items()
    for dtype in dtypes
    if (codec.name, mode) != ("WEBP", "gray")  # comes back as RGB
]
# Of which kinds of pixels there is a sample of each format.
KINDS = {
    "PNG": ["rgb uint8", "rgba uint16", "gray bool"], "TIFF": ["rgb uint8", "rgb uint16"],
    "JPEG": ["rgb uint8"], "AVIF": ["rgba uint8"], "WEBP": ["rgba uint8"], "BMP": ["rgb uint8"],
    "PNM": ["rgb uint16", "rgba uint8", "gray float32", "gray bool"], "NPY": ["rgb float32"],
    "NPZ": ["gray int16"], "EXR": ["rgb float16"], "DICOM": [""], "NIFTI": [""], "NIFTI.GZ": [""],
}  # fmt: skip


def pixels(mode: str, dtype: str) -> np.ndarray:
    """Random pixels over the whole range of a dtype; floats also outside of [0, 1]."""
    shape, kind = SHAPES[mode], np.dtype(dtype)
    if kind.kind == "b":
        return RNG.random(shape) < 0.5
    if kind.kind == "f":
        return RNG.normal(0.5, 2, shape).astype(kind)
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes().removeprefix(b"Exif\0\0")


def written(picture: io.Picture, **options) -> bytes:
    out = bytes_io.BytesIO()
    io.write_picture(out, picture, **options)
    return out.getvalue()


def assert_same_pixels(one: io.Picture, other: io.Picture) -> None:
    assert len(one.frames) == len(other.frames)
    for a, b in zip(one.frames, other.frames):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
        assert b.flags.writeable
        assert b.dtype.isnative
    assert one.value_range == other.value_range
    assert one.mode == other.mode


def whole_file(name: str, kind: str) -> bytes:
    """A sample of a format, with all the metadata that it holds."""
    if name == "DICOM":
        return dicom(pixels("gray", "uint16"))
    if name.startswith("NIFTI"):
        data = nifti(np.ones((5, 6, 4), np.int16))
        return gzip.compress(data) if name.endswith("GZ") else data
    mode, dtype = kind.split()
    metadata = io.Metadata(SRGB, exif_block(), XMP, (3000.0, 3000.0), premultiplied=name == "EXR")
    return written(io.picture_of(pixels(mode, dtype), metadata=metadata), format=name)
