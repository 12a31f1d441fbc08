"""Stated sizes of compressed frames, and DICOM files whose tags state another."""

from __future__ import annotations

import io as bytes_io
import struct

import numpy as np
import pytest
from bounded import error_and_growth
from PIL import Image

from denoise_ext import io
from denoise_ext.io.codecs.codestream import stated_size

MIB = 1 << 20


def compressed(width: int, height: int, format: str, mode: str = "L", **options) -> bytes:
    stream = bytes_io.BytesIO()
    Image.new(mode, (width, height)).save(stream, format, **options)
    return stream.getvalue()


def jpeg_ls(width: int, height: int) -> bytes:
    """The markers alone, with fill bytes and an application's segment."""
    frame = struct.pack(">HBHHB3B", 11, 8, height, width, 1, 1, 0x11, 0)
    return b"\xff\xd8\xff\xff\xe8\0\5abc\xff\xf7" + frame + b"\xff\xda"


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (300, 17)])
def test_size(size):
    for options in ({"no_jp2": True}, {}):
        assert stated_size(compressed(*size, "JPEG2000", **options)) == (*size, 1)
        assert stated_size(compressed(*size, "JPEG2000", "RGB", **options)) == (*size, 3)
    for progressive in (False, True):
        data = compressed(*size, "JPEG", "RGB", progressive=progressive, comment=b"\xff\xc0" * 9)
        assert stated_size(data) == (*size, 3)
    assert stated_size(jpeg_ls(*size)) == (*size, 1)


@pytest.mark.parametrize("format", ["JPEG", "JPEG2000"])
def test_cut_streams_state_a_size_or_none(format):
    data = compressed(17, 300, format)
    found = [stated_size(data[:length]) for length in range(len(data))]
    assert set(found) == {None, (17, 300, 1)}


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_box_of_no_length(length):
    """pydicom stays at a box of length 0 forever."""
    data = bytearray(compressed(12, 9, "JPEG2000"))
    data[12:16] = length.to_bytes(4, "big")
    assert stated_size(bytes(data)) is None
    with pytest.raises(io.ImageError, match="no size"):
        io.read_picture(encapsulated(bytes(data), "JPEG2000Lossless", 12, 9))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8" + b"\xff" * 99, bytes(99)])
def test_none(data):
    assert stated_size(data) is None


def test_an_offset_beyond_the_extent():
    data = bytearray(compressed(17, 300, "JPEG2000", no_jp2=True))
    struct.pack_into(">2I", data, 16, 2**32 - 1, 2**32 - 1)
    assert stated_size(bytes(data)) == (0, 0, 1)


def encapsulated(stream: bytes, syntax: str, columns: int, rows: int, samples: int = 1) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, samples
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.NumberOfFrames = 7, 0, 1
    dataset.PixelData = pydicom.encaps.encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    file = bytes_io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


SYNTAXES = {"JPEG": "JPEGBaseline8Bit", "JPEG2000": "JPEG2000Lossless"}


@pytest.mark.parametrize("format", SYNTAXES)
def test_what_agrees_is_read(format):
    data = encapsulated(compressed(12, 9, format), SYNTAXES[format], 12, 9)
    assert np.array_equal(io.read_picture(data).frames[0], np.zeros((9, 12), np.uint8))


@pytest.mark.parametrize("format", SYNTAXES)
@pytest.mark.parametrize(
    ("stream", "found"),
    [
        ((9, 12, {}), "9x12 and 1"),
        ((12, 9, {"mode": "RGB"}), "12x9 and 3"),
        (None, "no size"),
    ],
)
def test_what_differs_is_refused(format, stream, found):
    width, height, options = stream or (12, 9, {})
    data = compressed(width, height, format, **options) if stream else b"not coded"
    with pytest.raises(io.ImageError, match=f"12x9 and 1 channels, and {found}.* frame 0"):
        io.read_picture(encapsulated(data, SYNTAXES[format], 12, 9))


def test_a_small_file_takes_little_memory(tmp_path):
    """8000x8000 zeros are 600 bytes of JPEG 2000, and 256 MB in its decoder."""
    data = encapsulated(compressed(8000, 8000, "JPEG2000"), "JPEG2000Lossless", 16, 16)
    assert len(data) < MIB
    path = tmp_path / "small.dcm"
    path.write_bytes(data)
    warm = f"from denoise_ext import io; import pydicom; io.read_picture({written()!r})"
    error, growth = error_and_growth(f"io.read_picture({str(path)!r})", warm)
    assert "8000x8000" in error
    assert growth < 8 * MIB


def written() -> bytes:
    return encapsulated(compressed(12, 9, "JPEG2000"), "JPEG2000Lossless", 12, 9)
