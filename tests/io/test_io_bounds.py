"""Small files that state or hold much: memory stays within what their pixels may need."""

from __future__ import annotations

import gzip
import io as bytes_io
import struct
import threading
import zipfile
import zlib

import numpy as np
import pytest
from bounded import error_and_growth
from medical_files import dicom, nifti
from picture_files import written
from PIL import Image

from denoise_ext import io
from denoise_ext.io.codecs import tiff_tags

MIB = 1 << 20
PLAIN = written(io.picture_of(np.zeros((4, 5), np.uint8)), format="PNG")
WARM = f"from denoise_ext import io; import zipfile, pydicom, nibabel; io.read_picture({PLAIN!r})"
PILLOWS_LIMIT = 2 * 89_478_485  # pixels above which Pillow refuses an image by itself


def test_the_measure_counts_every_statement_anew():
    for _ in range(2):
        error, growth = error_and_growth(f"data = b'1' * {100 * MIB}; del data", WARM)
        assert error is None and 98 * MIB <= growth < 110 * MIB
        # in small parts, which malloc keeps for the next
        code = f"data = [bytes(600) for n in range({100 * MIB} // 640)]; del data"
        error, growth = error_and_growth(code, WARM)
        assert error is None and 90 * MIB <= growth < 130 * MIB
        error, growth = error_and_growth("raise ValueError('small')", WARM)
        assert error == "small" and growth < MIB
    with pytest.raises(AssertionError, match="ended with 7"):
        error_and_growth("import os; os._exit(7)", WARM)
    assert error_and_growth("pass", WARM)[0] is None


def large_tiff(width: int, height: int) -> bytes:
    """8-bit gray zeros, Deflate, a strip of 64 rows repeated."""
    stream = bytes_io.BytesIO()
    writer = tiff_tags.Writer(stream, "<", False)
    strip = zlib.compress(bytes(width * 64), 9)
    assert height % 64 == 0
    offsets, lengths = writer.data([strip])
    count = height // 64
    longs = {256: [width], 257: [height], 278: [64],
             273: offsets * count, 279: lengths * count}  # fmt: skip
    shorts = {258: [8], 259: [8], 262: [1], 277: [1]}
    tags = {code: writer.integers(values) for code, values in longs.items()}
    tags |= {code: writer.integers(values, tiff_tags.SHORT) for code, values in shorts.items()}
    writer.page(tags)
    return stream.getvalue()


def test_max_pixels_is_the_only_limit(tmp_path):
    """Pillow checks again on decoding, against a limit of its own."""
    width, height = 13_440, 13_440
    assert width * height > PILLOWS_LIMIT
    path = tmp_path / "large.tif"
    path.write_bytes(large_tiff(width, height))
    assert path.stat().st_size < MIB
    read = f"assert io.read_picture({str(path)!r}).frames[0].shape == {(height, width)}"
    error, growth = error_and_growth(read, WARM)
    assert error is None
    # Pillow's image, its bytes, the array and a copy of a channel
    assert growth < 4 * width * height + 64 * MIB
    error, growth = error_and_growth(read.replace("')", "', max_pixels=180_000_000)"), WARM)
    assert "180633600 pixels, more than the limit of 180000000 (max_pixels)" in error
    assert growth < 64 * MIB


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_pillows_limit_does_not_matter_and_stays(monkeypatch, name):
    picture = io.picture_of(np.zeros((40, 50, 3), np.uint8))
    data = written(picture, format=name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # of 2000 pixels: refused above 1000
    assert io.read_picture(data).frames[0].shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 500
    with pytest.raises(io.ImageError, match="limit of 1999"):
        io.read_picture(data, max_pixels=1999)
    assert Image.MAX_IMAGE_PIXELS == 500


def test_pillows_limit_stays_whatever_threads_do(monkeypatch):
    data = written(io.picture_of(np.zeros((40, 50, 3), np.uint8)), format="TIFF")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    failures = []

    def read():
        for _ in range(30):
            try:
                io.read_picture(data)
            except io.ImageError as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Image.MAX_IMAGE_PIXELS == 500


def deflated_dicom(comment: bytes, frames: int = 1, behind: int = 0) -> bytes:
    """Deflated DICOM of 7 x 9 pixels; `behind`: megabytes of zeros after them."""
    pydicom = pytest.importorskip("pydicom")
    plain = dicom(np.zeros((7, 9), np.uint16), NumberOfFrames=frames)
    dataset = pydicom.dcmread(bytes_io.BytesIO(plain))
    dataset.add_new(0x00091002, "UN", comment)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    if behind:
        dataset.add_new(0x7FE10010, "LO", "private")
        dataset.add_new(0x7FE11001, "UN", bytes(behind * MIB))
    out = bytes_io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def npy_header(size: int, shape: str = "(4, 5)") -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\2\0" + struct.pack("<I", size) + text.ljust(size, b" ")


def npz(content: bytes) -> bytes:
    stream = bytes_io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", content)
    return stream.getvalue()


def overlapping_tags() -> bytes:
    """A page of 4000 tags whose values are a megabyte each, nearly the same one."""
    entries = [struct.pack("<HHII", 50_000 + n, 7, MIB, 8 + n) for n in range(4000)]
    at = 8 + MIB + 4000
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", at) + bytes(MIB + 4000) + directory


def overlapping_directories() -> bytes:
    """Directories within directories, 4000 x 4000 of them."""
    inner, outer = 8, 8 + 2 + 4000 * 12 + 4
    inside = [struct.pack("<HHII", 34853, 4, 1, inner)] * 4000
    outside = [struct.pack("<HHII", 34665, 4, 1, inner)] * 4000
    directories = [struct.pack("<H", 4000) + b"".join(e) + bytes(4) for e in (inside, outside)]
    return b"II*\0" + struct.pack("<I", outer) + b"".join(directories)


def webp_header(width: int, height: int) -> bytes:
    body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + body


def png_with_text(chunks: int) -> bytes:
    """Compressed texts of 16 MiB each, and an ICC profile of 128."""
    text = zlib.compress(bytes(16 * MIB), 9)
    icc = zlib.compress(bytes(128 * MIB), 9)
    extra = [(b"zTXt", b"a\0\0" + text)] * chunks + [(b"iCCP", b"a\0\0" + icc)]
    extra = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
             for name, body in extra]  # fmt: skip
    return PLAIN[:33] + b"".join(extra) + PLAIN[33:]


# name -> (content, part of the message or None: it is read, bytes it may take beside its own)
SMALL = {
    "deflated DICOM": (lambda: deflated_dicom(b"", behind=300), "inflates to", 3 * 64 * MIB),
    "deflated tags": (lambda: deflated_dicom(bytes(300 * MIB)), "no pixel", 3 * 64 * MIB),
    "NPY header": (lambda: npy_header(128 * MIB)[:MIB], "header of 134217728 bytes", MIB),
    "NPZ header": (lambda: npz(npy_header(128 * MIB)), "header of 134217728 bytes", MIB),
    "NPZ lies": (lambda: npz(npy_header(200, "(4, 5, -1)") + bytes(128 * MIB)), "has shape", MIB),
    "NPZ lacks": (lambda: npz(npy_header(200, "(9999, 9999)") + bytes(9)), "is truncated", MIB),
    "NPZ long": (lambda: npz(npy_header(200) + bytes(128 * MIB)), None, MIB),
    "NIFTI lacks": (lambda: gzip.compress(nifti(np.zeros((900, 900, 200), np.uint8))[:9999]),
                    "is truncated", MIB),
    "TIFF tags": (overlapping_tags, "overlaps others", 2 * MIB),
    "TIFF directories": (overlapping_directories, "", 8 * MIB),
    "WEBP canvas": (lambda: webp_header(16_383, 16_383), "more than the limit", MIB),
    "PNM text": (lambda: b"P2 400 400 255\n" + b"1" * 65_000 + b" 1" * 159_999, "digits", 2 * MIB),
    "PNG texts": (lambda: png_with_text(9), "", 64 * MIB + 128 * MIB),
}  # fmt: skip


@pytest.mark.parametrize("case", SMALL)
def test_a_small_file_takes_little_memory(tmp_path, case):
    make, message, allowed = SMALL[case]
    path = tmp_path / "small"
    path.write_bytes(make())
    size = path.stat().st_size
    assert size < 4 * MIB
    error, growth = error_and_growth(f"io.read_picture({str(path)!r})", WARM)
    if message is None:
        assert error is None
    else:
        assert error is not None and str(path) in error and message in error
    # what zlib and a reader hold of a block: 16 MiB twice
    assert growth < 4 * size + allowed + 40 * MIB
