"""Small files that state or hold much: memory stays within what their pixels may need."""

from __future__ import annotations

import io as bytes_io
import threading
import zlib

import numpy as np
import pytest
from bounded import error_and_growth
from PIL import Image
from test_io_round_trip import written

from denoise_ext import io
from denoise_ext.io.codecs import tiff_tags

MIB = 1 << 20
PILLOWS_LIMIT = 2 * 89_478_485  # pixels above which Pillow refuses an image by itself


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
    error, growth = error_and_growth(read)
    assert error is None
    # Pillow's image, its bytes, the array and a copy of a channel
    assert growth < 4 * width * height + 64 * MIB
    error, growth = error_and_growth(read.replace("')", "', max_pixels=180_000_000)"))
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
