"""Compressed QuickTime headers: their stated size is found, and bounded."""

from __future__ import annotations

import struct
import zlib

import pytest
from bounded import error_and_growth

from denoise_ext.io.video.quicktime import inflated_header_bytes

MIB = 1 << 20


def box(kind: bytes, content: bytes, wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def compressed_header(size: int, data: bytes) -> bytes:
    stated = box(b"cmvd", size.to_bytes(4, "big") + data)
    return box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + stated))


FTYP = box(b"ftyp", b"qt  \0\0\0\0qt  ")
HEADER = compressed_header(12345, b"...")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (FTYP + HEADER, 12345),
        (FTYP + box(b"mdat", bytes(99), wide=True) + HEADER, 12345),
        (FTYP + HEADER + compressed_header(54321, b""), 54321),
        (FTYP + box(b"wide", HEADER), 12345),
        (FTYP + b"\0\0\0\0" + HEADER[4:], 12345),  # to the end of the file
        (FTYP + HEADER[:30], 0),
        (FTYP + box(b"mdat", HEADER), 0),
        (FTYP + box(b"moov", b""), 0),
        (FTYP + b"\0\0\0\7" + HEADER, 0),
        (b"", 0),
        (b"\0\0\0\1moov", 0),
    ],
)
def test_stated_size(tmp_path, data, size):
    (tmp_path / "x.mov").write_bytes(data)
    assert inflated_header_bytes(tmp_path / "x.mov") == size


@pytest.mark.parametrize("before", range(-8, 1))
def test_a_mark_across_two_chunks(tmp_path, before):
    """However far before the end of a chunk the mark begins."""
    padding = box(b"udta", bytes(MIB + before - 8 - 8 - 4))
    header = box(b"moov", padding + box(b"cmvd", (777).to_bytes(4, "big")))
    assert header.index(b"cmvd") == MIB + before
    (tmp_path / "x.mov").write_bytes(header)
    assert inflated_header_bytes(tmp_path / "x.mov") == 777


def test_a_small_film_takes_little_memory(tmp_path):
    pytest.importorskip("av")
    deflate = zlib.compressobj(9)
    data = b"".join(deflate.compress(bytes(MIB)) for _ in range(500)) + deflate.flush()
    path = tmp_path / "x.mov"
    path.write_bytes(FTYP + compressed_header(500 * MIB, data) + box(b"mdat", bytes(99)))
    error, growth = error_and_growth(
        f"read_video({str(path)!r})", "import av; from denoise_ext.io.video import read_video"
    )
    assert error.count("\n") == 0 and str(500 * MIB) in error
    assert growth < 8 * MIB
