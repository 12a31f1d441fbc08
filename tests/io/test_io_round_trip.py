"""Read, write again, read: the same pixels, depth, range and metadata, for every format."""

from __future__ import annotations

import io as bytes_io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_files import HELD, RNG, SRGB, XMP, assert_same_pixels, exif_block, pixels, written
from PIL import Image

from denoise_ext import io
from denoise_ext.io.codecs import tiff_tags
from denoise_ext.io.orientation import orientation_of


@pytest.mark.parametrize("name, mode, dtype", HELD)
def test_every_kind_a_format_says_it_holds_comes_back_exactly(name, mode, dtype):
    array = pixels(mode, dtype)
    premultiplied = "straight" not in io.codec_named(name).alpha
    picture = io.picture_of(array, metadata=io.Metadata(premultiplied=premultiplied))
    first = io.read_picture(written(picture, format=name))
    assert first.format == name
    np.testing.assert_array_equal(first.frames[0], array)
    assert first.frames[0].dtype == array.dtype
    again = io.read_picture(written(first))
    assert_same_pixels(first, again)
    assert again.metadata == first.metadata


def test_a_picture_is_not_written_where_it_would_lose_something(tmp_path):
    float_rgb = io.picture_of(pixels("rgb", "float32"))
    with pytest.raises(io.ImageError, match=r"PNG cannot hold 32-bit RGB .*TIFF.* can$"):
        io.write_picture(tmp_path / "a.png", float_rgb)
    with pytest.raises(io.ImageError, match="format 'GIF' is not known"):
        io.write_picture(tmp_path / "a.png", float_rgb, format="GIF")
    pages = io.Picture((np.zeros((2, 2), np.uint8),) * 2, (0, 255), "gray", "TIFF")
    with pytest.raises(io.ImageError, match="PNG cannot hold 2 frames"):
        io.write_picture(tmp_path / "a.png", pages)
    with pytest.raises(ValueError, match="frames must have the shapes"):
        pages.with_frames([np.zeros((2, 2))])
    assert list(tmp_path.iterdir()) == []


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


PNG_EXTRAS = [
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", bytes(range(32))),
    (b"iCCP", b"my profile\0\0" + zlib.compress(SRGB)),
    (b"pHYs", struct.pack(">IIB", 2835, 5669, 1)),
    (b"tIME", bytes([7, 208, 1, 2, 3, 4, 5])),
    (b"tEXt", b"Title\0caf\xe9"),
    (b"zTXt", b"Comment\0\0" + zlib.compress(b"long " * 50)),
    (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    (b"eXIf", exif_block()),
    (b"prVt", b"a private chunk"),
]


@pytest.mark.parametrize("mode, dtype", [("gray", "bool"), ("rgb", "uint8"), ("rgba", "uint16")])
def test_png_keeps_every_chunk(mode, dtype):
    plain = written(io.picture_of(pixels(mode, dtype)), format="PNG")
    header_end = 8 + 25
    extras = b"".join(png_chunk(*chunk) for chunk in PNG_EXTRAS)
    late = png_chunk(b"tEXt", b"Late\0after the pixels")
    data = plain[:header_end] + extras + plain[header_end:-12] + late + plain[-12:]
    picture = io.read_picture(data)
    back = written(picture)
    names = {b"IHDR", b"IDAT", b"IEND"}
    assert [c for c in chunks_of(back) if c[0] not in names] == [
        *PNG_EXTRAS, (b"tEXt", b"Late\0after the pixels"),
    ]  # fmt: skip
    assert_same_pixels(picture, io.read_picture(back))
    assert picture.metadata.icc_profile == SRGB
    assert picture.metadata.xmp == XMP
    assert picture.metadata.pixels_per_metre == (2835, 5669)


def test_png_wide_pixels_agree_with_opencv():
    import cv2

    rgb = pixels("rgb", "uint16")
    ours = np.frombuffer(written(io.picture_of(rgb), format="PNG"), np.uint8)
    theirs = cv2.imdecode(ours, cv2.IMREAD_UNCHANGED)[:, :, ::-1]  # it is in BGR order
    np.testing.assert_array_equal(theirs, rgb)
    data = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(io.read_picture(data).frames[0], rgb)


def test_png_transparent_colours():
    gray16 = pixels("gray", "uint16")
    plain = written(io.picture_of(gray16), format="PNG")
    key = png_chunk(b"tRNS", struct.pack(">H", gray16[2, 3]))
    frame = io.read_picture(plain[:33] + key + plain[33:]).frames[0]
    np.testing.assert_array_equal(frame[..., 0], gray16)
    np.testing.assert_array_equal(frame[..., 1], np.where(gray16 == gray16[2, 3], 0, 65535))
    for dtype in ("uint8", "uint16"):
        rgb = pixels("rgb", dtype)
        plain = written(io.picture_of(rgb), format="PNG")
        key = png_chunk(b"tRNS", struct.pack(">HHH", *rgb[2, 3].tolist()))
        frame = io.read_picture(plain[:33] + key + plain[33:]).frames[0]
        np.testing.assert_array_equal(frame[..., :3], rgb)
        assert (frame[..., 3] == 0).sum() == 1
        assert frame[2, 3, 3] == 0


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 2
    while data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return [segment for segment in found if segment[0] >= 0xE0]


def test_jpeg_keeps_every_segment_and_stays_close():
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    buffer = bytes_io.BytesIO()
    Image.fromarray(np.stack([smooth, smooth[:, ::-1], smooth // 2], -1)).save(
        buffer, format="JPEG", quality=80, exif=b"Exif\0\0" + exif_block(),
        icc_profile=SRGB * 200, xmp=XMP, comment=b"a comment", dpi=(300, 200),
    )  # fmt: skip
    data = buffer.getvalue()
    iptc = b"\xff\xed\x00\x10Photoshop 3.0\0"
    data = data[:2] + iptc + data[2:]
    picture = io.read_picture(data)
    back = written(picture)
    assert jpeg_segments(back) == jpeg_segments(data)
    assert picture.metadata.icc_profile == SRGB * 200  # over several segments
    assert picture.metadata.exif == exif_block()
    again = io.read_picture(back)
    # Quality 95 divides by at most 10 (T.81 Annex K scaled by 1/10; chroma 99/10), so a
    # coefficient is off by 5; smooth blocks have few of them, and colour conversion rounds.
    difference = again.frames[0].astype(int) - picture.frames[0]
    assert np.abs(difference).max() <= 5
    assert np.sqrt(np.mean(difference.astype(float) ** 2)) < 1


def test_webp_keeps_its_metadata():
    buffer = bytes_io.BytesIO()
    Image.fromarray(pixels("rgba", "uint8")).save(
        buffer, format="WEBP", quality=50, exif=exif_block(), icc_profile=SRGB, xmp=XMP
    )
    picture = io.read_picture(buffer.getvalue())
    again = io.read_picture(written(picture))
    assert_same_pixels(picture, again)
    assert again.metadata == picture.metadata == io.Metadata(SRGB, exif_block(), XMP)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_keeps_tags_pages_order_and_size(tmp_path, big, order):
    import tifffile

    path = tmp_path / "stack.tif"
    stack = RNG.integers(0, 65536, (3, 4, 7, 11), dtype=np.uint16)
    tifffile.imwrite(
        path, stack, imagej=not big and order == ">", bigtiff=big, byteorder=order,
        photometric="minisblack", resolution=(0.25, 0.5), resolutionunit="CENTIMETER",
        metadata={"axes": "ZCYX", "spacing": 3.5, "unit": "um"},
        extratags=[(65000, "s", 0, "private", True), (33550, "d", 3, (1.5, 2.5, 0.0), True)],
    )  # fmt: skip
    picture = io.read_picture(path)
    assert len(picture.frames) == 12
    np.testing.assert_array_equal(np.stack(picture.frames), stack.reshape(12, 7, 11))
    out = tmp_path / "out.tif"
    io.write_picture(out, picture)
    layout = {"StripOffsets", "StripByteCounts", "Compression", "RowsPerStrip", "Predictor",
              "SampleFormat", "PlanarConfiguration", "SamplesPerPixel"}  # fmt: skip
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(out) as new:
        assert (new.byteorder, new.is_bigtiff) == (old.byteorder, old.is_bigtiff) == (order, big)
        assert new.series[0].axes == old.series[0].axes == "ZCYX"
        for a, b in zip(old.pages, new.pages, strict=True):
            assert_tags = [
                {t.name: t.value for t in p.tags if t.name not in layout} for p in (a, b)
            ]
            assert assert_tags[0] == assert_tags[1]
        assert old.pages[0].tags["XResolution"].value == (1, 4)
    back = tifffile.imread(out, is_shaped=False)
    np.testing.assert_array_equal(back.reshape(stack.shape), stack)


@pytest.mark.parametrize("options", [
    {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}, {"planarconfig": "separate"},
    {"extrasamples": ["unspecified"]}, {"extrasamples": ["assocalpha"]},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_layouts(tmp_path, options, dtype):
    import tifffile

    array = pixels("rgba" if "extrasamples" in options else "rgb", dtype)
    if "predictor" in options and dtype == "float32":
        options = {"compression": "zlib"}  # tifffile needs another package for that predictor
    stored = np.moveaxis(array, -1, 0) if "planarconfig" in options else array
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    picture = io.read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.frames[0], array)
    again = io.read_picture(written(picture))
    assert_same_pixels(picture, again)
    assert again.metadata == picture.metadata
    if options.get("extrasamples") == ["assocalpha"] and dtype == "uint8":
        with pytest.raises(io.ImageError, match="premultiplied"):
            io.write_picture(tmp_path / "a.png", picture)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_pixels_are_not_turned(tmp_path, orientation, dtype):
    import tifffile

    array = pixels("rgb", dtype)
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extratags=tags)
    picture = io.read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.frames[0], array)
    assert orientation_of(picture.metadata.exif) == orientation
    again = io.read_picture(written(picture))
    assert_same_pixels(picture, again)
    assert again.metadata == picture.metadata
    turned = io.read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(turned, np.rot90(array, {1: 0, 3: 2, 6: -1, 8: 1}[orientation]))


def test_exif_goes_from_format_to_format():
    block = exif_block()
    rgb = pixels("rgb", "uint8")
    metadata = io.Metadata(SRGB, block, XMP, (11811.0, 5906.0))
    picture = io.picture_of(rgb, metadata=metadata)
    for name in ("PNG", "TIFF", "JPEG", "WEBP"):
        back = io.read_picture(written(picture, format=name)).metadata
        assert back.icc_profile == SRGB
        assert back.xmp == XMP
        tags, order = tiff_tags.exif_tags(back.exif)
        wanted = dict(tiff_tags.walk(tiff_tags.exif_tags(block)[0]))  # big-endian
        found = dict(tiff_tags.walk(tiff_tags.swapped(tags, order, ">")))
        assert wanted == {code: found[code] for code in wanted}
        if name != "WEBP":
            np.testing.assert_allclose(back.pixels_per_metre, (11811, 5906), rtol=2e-3)
    # where there is no EXIF, the pixels are turned as it said
    upright = io.read_picture(written(picture, format="PNM")).frames[0]
    np.testing.assert_array_equal(upright, np.rot90(rgb, -1))
    np.testing.assert_array_equal(io.read_picture(written(picture, format="PNG")).frames[0], rgb)


def test_pnm_keeps_maximum_and_comments():
    data = b"P5\n# a comment\n3 1\n1023\n" + np.array([0, 512, 1023], ">u2").tobytes()
    picture = io.read_picture(data)
    assert picture.value_range == (0, 1023)
    assert written(picture) == data
    png = io.read_picture(written(picture, format="PNG"))
    np.testing.assert_array_equal(png.frames[0], [[0, 32800, 65535]])  # 512 * 65535 / 1023
    text = io.read_picture(b"P3 # c\n2 1 255\n1 2 3 # d\n4 5 6")
    np.testing.assert_array_equal(text.frames[0], [[[1, 2, 3], [4, 5, 6]]])
    behind = io.read_picture(b"P2 2 1 255\n1 2\n" + b"x" * 40)
    np.testing.assert_array_equal(behind.frames[0], [[1, 2]])
    for short in (b"1 2\n", b"1 2  \n", b"1 2 x", b"1 2x 3"):
        with pytest.raises(ValueError, match=r"truncated|digits"):
            io.read_picture(b"P2 3 1 255\n" + short)
    bits = io.read_picture(b"P1\n3 2\n101010")
    np.testing.assert_array_equal(bits.frames[0], [[False, True, False], [True, False, True]])


def test_npy_and_npz_keep_shape_order_and_names(tmp_path):
    stack = RNG.normal(size=(2, 7, 11, 3)).astype(">f4")
    np.save(tmp_path / "a.npy", np.asfortranarray(stack))
    before = (tmp_path / "a.npy").read_bytes()
    picture = io.read_picture(before)
    assert len(picture.frames) == 2
    assert picture.mode == "rgb"
    assert written(picture) == before
    gray = RNG.integers(0, 9, (4, 7, 11), dtype=np.int16)
    np.savez_compressed(tmp_path / "a.npz", left=gray, right=gray[0, :, :, None])
    picture = io.read_picture(tmp_path / "a.npz")
    assert len(picture.frames) == 5
    assert picture.value_range == (0, 8)
    back = np.load(bytes_io.BytesIO(written(picture)))
    assert sorted(back.files) == ["left", "right"]
    np.testing.assert_array_equal(back["left"], gray)
    np.testing.assert_array_equal(back["right"], gray[0, :, :, None])


def test_streams_and_names(tmp_path):
    rgb = pixels("rgb", "uint8")
    data = written(io.picture_of(rgb), format="PNG")
    for source in (data, memoryview(data), bytes_io.BytesIO(data)):
        np.testing.assert_array_equal(io.read_picture(source).frames[0], rgb)
    (tmp_path / "a.jpg").write_bytes(data)
    picture = io.read_picture(tmp_path / "a.jpg")
    assert picture.format == "PNG"
    assert picture.notes == ("its content is PNG, although its name ends in .jpg",)
    with pytest.raises(io.ImageError, match="the stream is empty"):
        io.read_picture(bytes_io.BytesIO())
    with pytest.raises(TypeError, match="binary"):
        io.read_picture(bytes_io.StringIO("text"))


@pytest.mark.parametrize("name", ["PNG", "TIFF", "NPZ", "EXR"])
def test_files_as_streams(tmp_path, name):
    premultiplied = io.Metadata(premultiplied=name == "EXR")
    dtype = "float32" if name == "EXR" else "uint8"
    picture = io.picture_of(pixels("rgb", dtype), metadata=premultiplied)
    for mode in ("wb", "ab"):  # what is appended to cannot be gone back in
        with open(tmp_path / mode, mode) as stream:
            io.write_picture(stream, picture, format=name)
        np.testing.assert_array_equal(io.read_picture(tmp_path / mode).frames[0], picture.frames[0])


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    data = written(io.picture_of(pixels("rgb", "uint16")), format="PNG")
    path = Path(tmp_path / "a.png")
    path.write_bytes(data)
    monkeypatch.setitem(__import__("sys").modules, "OpenImageIO", None)
    with pytest.raises(io.ImageError, match=r"a.png.*16-bit.*pip install denoise-ext\[io\]$"):
        io.read_picture(path)
