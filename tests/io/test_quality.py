"""Files with a quality: fewer bytes, the same picture within what the quality leaves."""

from __future__ import annotations

import numpy as np
import pytest
from picture_files import SRGB, XMP, exif_block, written

from denoise_ext import io
from denoise_ext.io.codecs import Codec, avif, register_codec
from denoise_ext.io.codecs.base import holds

LOSSY = [codec for codec in io.CODECS if codec.write_lossy is not None]


def smooth(mode: str = "rgb") -> io.Picture:
    """A picture without edges: 64 x 96 pixels."""
    y, x = np.mgrid[:64, :96] / 96
    planes = np.stack([np.sin(3 * x + y), np.cos(2 * y), x * y], axis=-1) * 100 + 120
    array = planes.clip(0, 255).round().astype(np.uint8)
    return io.picture_of(
        array if mode == "rgb" else array[..., 0],
        metadata=io.Metadata(SRGB, exif_block(), XMP, (3000.0, 3000.0)),
    )


@pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.name)
@pytest.mark.parametrize("mode", ["rgb", "gray"])
def test_a_lower_quality_takes_fewer_bytes_and_keeps_the_metadata(codec, mode):
    picture = smooth(mode)
    files = [written(picture, format=codec.name, quality=quality) for quality in (95, 50, 5)]
    assert len(files[0]) > len(files[1]) > len(files[2])
    errors = []
    for data in files:
        back = io.read_picture(data)
        assert back.format == codec.name
        assert back.metadata.exif and back.metadata.xmp == XMP
        assert bool(back.metadata.icc_profile) == (back.mode == "rgb")
        made = back.frames[0][..., 0] if mode == "gray" and back.mode == "rgb" else back.frames[0]
        difference = made.astype(float) - picture.frames[0]
        errors.append(float(np.sqrt(np.square(difference).mean())))
    # Quality 95 leaves less than two levels in a picture this smooth, and 5 leaves a picture.
    assert errors[0] < 2 and errors[0] <= errors[2] < 40


@pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.name)
@pytest.mark.parametrize("quality", [0, 89, 90, 100])
def test_noise_can_be_written(codec, quality):
    """It takes more bytes than some buffers have."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    data = written(io.picture_of(noise), format=codec.name, quality=quality)
    assert io.read_picture(data).frames[0].shape == noise.shape


def test_wrong_qualities_name_the_argument(tmp_path):
    for format in ("PNG", "TIFF"):
        with pytest.raises(io.ImageError, match=f"quality 50.*JPEG.*{format}"):
            written(smooth(), format=format, quality=50)
    with pytest.raises(ValueError, match=r"quality.*101"):
        written(smooth(), format="JPEG", quality=101)
    with pytest.raises(TypeError, match=r"quality.*1\.5"):
        io.write_picture(tmp_path / "a.jpg", smooth(), quality=1.5)
    with pytest.raises(io.ImageError, match="quality 5"):
        io.check_can_write(tmp_path / "a.png", quality=5)
    assert list(tmp_path.iterdir()) == []


def test_avif_that_is_not_read_names_the_reason():
    data = written(smooth(), format="AVIF", quality=60)
    assert avif.CODEC.sniff(data)
    with pytest.raises(io.ImageError, match=r"96 x 64.*6143"):
        io.read_picture(data, max_pixels=96 * 64 - 1)
    at = data.index(b"av1C") + 6
    deep = data[:at] + bytes([data[at] | 0x40]) + data[at + 1 :]
    with pytest.raises(io.ImageError, match="more than 8 bits"):
        io.read_picture(deep)


def test_a_format_can_be_registered(monkeypatch, tmp_path):
    from denoise_ext.io import codecs

    monkeypatch.setattr(codecs, "_registered", {})

    def read(source):
        size = source.stream.read()[4:]
        return io.picture_of(np.full((size[0], size[1]), size[2], np.uint8), format="FLAT")

    def write(stream, picture):
        (frame,) = picture.frames
        stream.write(b"FLAT" + bytes([*frame.shape, int(frame[0, 0])]))

    flat = Codec("FLAT", (".flat",), lambda head: head[:4] == b"FLAT", read, write,
                 holds(("gray",), "uint8"))  # fmt: skip
    register_codec(flat)
    register_codec(flat)  # again: it takes its own place
    path = tmp_path / "a.flat"
    io.write_picture(path, io.picture_of(np.full((3, 4), 9, np.uint8)))
    back = io.read_picture(path)
    assert back.format == "FLAT" and back.frames[0].tolist() == [[9] * 4] * 3
    assert [found.path.name for found in io.find_images(str(tmp_path))] == ["a.flat"]
    for name, suffixes, named in (
        ("PNG", (".x",), "PNG"), ("OTHER", (".jpg",), "jpg"), ("low", (".low",), "low"),
        ("TWO", (".flat",), "flat"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            register_codec(Codec(name, suffixes, flat.sniff, read, write, flat.holds))
