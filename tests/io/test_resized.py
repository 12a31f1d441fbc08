"""Pictures at another size: resolution, EXIF, arrays of several axes, what is left out."""

from __future__ import annotations

import io as streams
import struct

import numpy as np
import pytest
from PIL import Image

from denoise_ext import io
from denoise_ext.io.codecs import tiff_tags

PIXELS = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)


def larger(frame: np.ndarray, rows: int = 2, columns: int = 2) -> np.ndarray:
    return frame.repeat(rows, 0).repeat(columns, 1)


def exif(order: str) -> bytes:
    """Sizes as SHORT and LONG, a resolution, a maker, and a ratio without a value."""
    tag, form = tiff_tags.Tag, order + "I"
    sizes = {
        40962: tag(tiff_tags.SHORT, 1, struct.pack(order + "H", 4)),
        40963: tag(tiff_tags.LONG, 1, struct.pack(form, 6)),
    }
    return tiff_tags.exif_block(
        {
            271: tag(tiff_tags.ASCII, 6, b"Maker\0"),
            282: tag(tiff_tags.RATIONAL, 1, struct.pack(order + "II", 601, 2)),
            283: tag(tiff_tags.RATIONAL, 1, struct.pack(order + "II", 72, 0)),
            tiff_tags.EXIF_IFD: tag(tiff_tags.LONG, 1, sizes),
        },
        order,
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_resolution_and_exif(order):
    metadata = io.Metadata(b"icc", exif(order), b"xmp", (100.0, 50.0), native=object())
    picture = io.picture_of(PIXELS, format="PNG", metadata=metadata)
    made = io.resized(picture, [larger(PIXELS, 3, 2)])
    assert made.metadata.pixels_per_metre == (200.0, 150.0)
    assert (made.metadata.icc_profile, made.metadata.xmp) == (b"icc", b"xmp")
    assert made.metadata.native is None and made.format == "PNG"
    tags, found = tiff_tags.exif_tags(made.metadata.exif)
    assert found == order
    inner = tiff_tags.Directory(tags[tiff_tags.EXIF_IFD].value, order)
    assert (inner.integer(40962, 0), inner.integer(40963, 0)) == (8, 18)
    assert struct.unpack(order + "II", tags[282].value) == (601, 1)
    assert struct.unpack(order + "II", tags[283].value) == (72, 0)
    assert tags[271].value == b"Maker\0"


def test_damaged_exif_and_the_same_size_stay():
    metadata = io.Metadata(exif=b"no tiff", native=object())
    picture = io.picture_of(PIXELS, metadata=metadata)
    assert io.resized(picture, [larger(PIXELS)]).metadata.exif == b"no tiff"
    assert io.resized(picture, [PIXELS + 1]).metadata is metadata


def test_numbers_that_have_no_room_stay():
    order = "<"
    big = struct.pack("<II", 2**32 - 1, 1)
    block = tiff_tags.exif_block(
        {
            256: tiff_tags.Tag(tiff_tags.LONG, 1, struct.pack("<I", 2**31)),
            282: tiff_tags.Tag(tiff_tags.RATIONAL, 1, big),
            283: tiff_tags.Tag(tiff_tags.RATIONAL, 2, big * 2),
        },
        order,
    )
    picture = io.picture_of(PIXELS, metadata=io.Metadata(exif=block))
    assert io.resized(picture, [larger(PIXELS)]).metadata.exif == block


def test_wrong_frames():
    picture = io.Picture((PIXELS, PIXELS[:3]), (0, 255), "rgb", "TIFF")
    with pytest.raises(ValueError, match="scaled alike"):
        io.resized(picture, [larger(PIXELS), larger(PIXELS[:3], 3)])
    with pytest.raises(ValueError):
        io.resized(picture, [larger(PIXELS)])


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((6, 4), (12, 8)), ((1, 6, 5), (1, 12, 10)), ((5, 6, 5), (5, 12, 10)),
     ((2, 6, 5, 3), (2, 12, 10, 3)), ((6, 5, 1), (12, 10, 1))],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_keep_their_axes(tmp_path, shape, wanted, suffix):
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    path = tmp_path / f"a{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, array)
    picture = io.read_picture(path)
    made = io.resized(picture, [larger(frame) for frame in picture.frames])
    assert made.shapes == (wanted,)
    io.write_picture(tmp_path / f"b{suffix}", made)
    found = np.load(tmp_path / f"b{suffix}")
    found = found if suffix == ".npy" else found[found.files[0]]
    assert found.shape == wanted and found.dtype == np.float32
    assert [frame.shape for frame in io.read_picture(tmp_path / f"b{suffix}").frames] == [
        frame.shape for frame in made.frames
    ]


def test_arrays_of_several_sizes(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", rng.random((6, 5)), rng.random((2, 8, 9)))
    picture = io.read_picture(tmp_path / "a.npz")
    made = io.resized(picture, [larger(frame) for frame in picture.frames])
    io.write_picture(tmp_path / "b.npz", made)
    found = np.load(tmp_path / "b.npz")
    assert [found[name].shape for name in found.files] == [(12, 10), (2, 16, 18)]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "PNM"])
def test_written_and_read_again(format):
    stream = streams.BytesIO()
    Image.fromarray(PIXELS).save(stream, format={"PNM": "PPM"}.get(format, format), dpi=(300, 300))
    picture = io.read_picture(streams.BytesIO(stream.getvalue()))
    made = io.resized(picture, [larger(frame) for frame in picture.frames])
    out = streams.BytesIO()
    io.write_picture(out, made, format=format)
    again = io.read_picture(streams.BytesIO(out.getvalue()))
    assert again.frames[0].shape == (12, 8, 3)
    old, new = picture.metadata.pixels_per_metre, again.metadata.pixels_per_metre
    if old and new:
        assert new[0] == pytest.approx(2 * old[0], rel=0.01)
    assert bool(old) == (format in ("PNG", "JPEG", "TIFF", "BMP")) and bool(old) == bool(new)
