"""Damaged files of every format, full disks, read-only folders: one line, and nothing left over."""

from __future__ import annotations

import builtins
import errno
import io as bytes_io
import os
import resource
import struct

import numpy as np
import pytest
from picture_files import KINDS, pixels, whole_file, written
from PIL import Image

from denoise_ext import io

CASES = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    if rng.random() < 0.3:
        return bytes(data[: rng.integers(1, len(data))])
    end = len(data) if rng.random() < 0.5 else min(len(data), 200)  # headers are where it hurts
    for position in rng.integers(0, end, rng.integers(1, 6)):
        data[position] = rng.choice([0, 0xFF, rng.integers(0, 256)])
    return bytes(data)


def test_every_written_format_is_fuzzed():
    assert set(KINDS) == {codec.name for codec in io.CODECS if codec.write is not None}


@pytest.mark.parametrize("name, kind", CASES)
def test_damaged_bytes_give_an_image_error_or_a_picture_that_can_be_written(name, kind):
    whole = whole_file(name, kind)
    rng = np.random.default_rng(7)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        try:
            picture = io.read_picture(damaged(whole, rng), max_pixels=100_000)
        except io.ImageError as error:
            assert "\n" not in str(error)
            continue
        try:
            back = io.read_picture(written(picture), max_pixels=100_000)
        except io.ImageError as error:  # tags that cannot be written again
            assert "cannot write" in str(error)
            assert name == "DICOM"
            continue
        if io.codec_named(picture.format).exact:
            for one, other in zip(picture.frames, back.frames, strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
    # a damaged size must not be believed: 100000 pixels are 3 MB at most, metadata 64 MiB
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert growth < 200 * 1024


@pytest.mark.parametrize("name, place, value", [
    ("BMP", 18, b"\0\0\1\0\0\0\1\0"), ("PNG", 16, b"\0\1\0\0\0\1\0\0"),
    ("NPY", None, b""), ("PNM", None, b""), ("EXR", None, b""),
])  # fmt: skip
def test_sizes_are_refused_from_the_header(name, place, value):
    """65536 x 65536 stated in a few bytes; for other formats: one pixel more than allowed."""
    data = bytearray(whole_file(name, KINDS[name][0]))
    limit = 76
    if place is not None:
        data[place : place + 8] = value
        limit = io.DEFAULT_MAX_PIXELS
    with pytest.raises(io.ImageError, match=r"= (77|4294967296) pixels, more than the limit"):
        io.read_picture(bytes(data), max_pixels=limit)


def test_tiles_larger_than_the_limit_are_refused(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", pixels("rgb", "uint16"), photometric="rgb", tile=(16, 16))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    entry = data.index(struct.pack("<HHI", 322, 4, 1) + struct.pack("<I", 16))
    data[entry + 8 : entry + 12] = struct.pack("<I", 1 << 30)
    with pytest.raises(io.ImageError, match="1073741824 x 16 = "):
        io.read_picture(bytes(data))


def test_a_damaged_raw_file(tmp_path):
    pytest.importorskip("rawpy")
    (tmp_path / "x.dng").write_bytes(b"II*\0" + b"x" * 99)
    with pytest.raises(
        io.ImageError, match=r"x\.dng' as RAW: \w[ \w/]+ \(damaged or truncated file"
    ):
        io.read_picture(tmp_path / "x.dng")


def test_animations_are_refused():
    frames = [Image.fromarray(pixels("rgb", "uint8")) for _ in range(3)]
    for name in ("PNG", "WEBP"):
        out = bytes_io.BytesIO()
        frames[0].save(out, format=name, save_all=True, append_images=frames[1:])
        with pytest.raises(io.ImageError, match="animation of 3 frames"):
            io.read_picture(out.getvalue())


def test_pixels_of_all_pages_count():
    pages = io.Picture((np.zeros((10, 10), np.uint8),) * 5, (0, 255), "gray", "TIFF")
    data = written(pages)
    assert len(io.read_picture(data, max_pixels=500).frames) == 5
    with pytest.raises(io.ImageError, match=r"400.*500"):
        io.read_picture(data, max_pixels=499)
    stack = written(pages, format="NPY")
    with pytest.raises(io.ImageError, match=r"x 5.*500"):
        io.read_picture(stack, max_pixels=499)
    endless = open("/dev/zero", "rb")  # noqa: SIM115
    with endless, pytest.raises(io.ImageError, match="the stream holds more than"):
        io.read_picture(endless, max_pixels=1000)


class FullDisk:
    """A file on a disk that is full after some bytes."""

    def __init__(self, stream, room: int):
        self._stream, self._room = stream, room

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stream.close()

    def write(self, data):
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._stream.write(data)


@pytest.mark.parametrize("name, kind", CASES)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, name, kind):
    picture = io.read_picture(whole_file(name, kind))
    really_open = builtins.open

    def full(path, mode="r", *rest, **options):
        stream = really_open(path, mode, *rest, **options)
        return FullDisk(stream, 10) if mode == "xb" else stream

    monkeypatch.setattr(builtins, "open", full)
    path = tmp_path / ("a" + io.codec_named(name).suffixes[0])
    with pytest.raises(io.ImageError, match="no space left on device") as caught:
        io.write_picture(path, picture)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for anyone but root
    with pytest.raises(io.ImageError, match="not writable"):
        io.write_picture(tmp_path / "a.png", io.picture_of(pixels("rgb", "uint8")))
    assert list(tmp_path.iterdir()) == []


def test_a_png_without_its_next_chunk_is_damaged(tmp_path):
    """Bytes of pixels where a chunk should begin are no chunk of some gigabytes."""
    path = tmp_path / "cut.png"
    io.write_picture(path, io.picture_of(pixels("rgb", "uint8")))
    data = path.read_bytes()
    start = data.index(b"IDAT") + 4
    path.write_bytes(data[:start] + b"norm\0\1\2\3" * 40 + data[start:])
    length = int.from_bytes(data[start - 8 : start - 4])
    place = start + length + 4
    with pytest.raises(
        io.ImageError, match=rf"cut\.png' is a damaged PNG file: no .* byte {place}"
    ):
        io.read_picture(path)
