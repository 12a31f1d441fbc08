"""denoise_ext.io: what is read is what is stored, what is written is whole, bad files say so."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from denoise_ext import io

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (7, 11), dtype=np.uint8)
RGB = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (7, 11, 4), dtype=np.uint8)
LA = RNG.integers(0, 256, (7, 11, 2), dtype=np.uint8)
GRAY16 = RNG.integers(0, 65536, (7, 11), dtype=np.uint16)


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG by hand: what Pillow cannot write (16-bit colour, headers that lie)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("name, array", [
    ("a.png", GRAY), ("a.png", RGB), ("a.png", RGBA), ("a.png", LA), ("a.png", GRAY16),
    ("a.tif", GRAY), ("a.tiff", RGB), ("a.tif", RGBA), ("a.tif", LA), ("a.tif", GRAY16),
    ("a.bmp", GRAY), ("a.bmp", RGB), ("a.webp", RGB), ("a.webp", RGBA),
    ("a.pgm", GRAY), ("a.ppm", RGB), ("a.pnm", RGB), ("a.pgm", GRAY16), ("A.PNG", RGB),
])  # fmt: skip
def test_round_trip_is_exact(tmp_path, name, array):
    io.write_image(tmp_path / name, array)
    back = io.read_image(tmp_path / name)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable
    assert leftovers(tmp_path) == [name]


def test_jpeg_is_close(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    io.write_image(tmp_path / "a.jpg", np.stack([smooth] * 3, -1))
    back = io.read_image(tmp_path / "a.jpg")
    assert back.shape == (64, 64, 3)
    assert np.abs(back[..., 0].astype(int) - smooth).max() <= 4
    io.write_image(tmp_path / "g.jpg", smooth[..., None])
    assert io.read_image(tmp_path / "g.jpg").shape == (64, 64)


def test_modes_converted_exactly(tmp_path):
    bits = GRAY > 127
    Image.fromarray(bits).save(tmp_path / "one.png")
    np.testing.assert_array_equal(io.read_image(tmp_path / "one.png"), bits * np.uint8(255))

    palette = Image.fromarray(GRAY % 4).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    palette.save(tmp_path / "palette.png")
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], np.uint8)
    np.testing.assert_array_equal(io.read_image(tmp_path / "palette.png"), colours[GRAY % 4])

    palette.save(tmp_path / "transparent.png", transparency=2)
    back = io.read_image(tmp_path / "transparent.png")
    np.testing.assert_array_equal(back[..., 3], np.where(GRAY % 4 == 2, 0, 255))
    np.testing.assert_array_equal(back[..., :3], colours[GRAY % 4])


def test_exif_orientation_applied_once_and_metadata_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated a quarter turn clockwise
    exif[0x010F] = "maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RGB).save(tmp_path / "in.png", exif=exif, icc_profile=profile)
    image = io.read_image_file(tmp_path / "in.png")
    np.testing.assert_array_equal(image.pixels, np.rot90(RGB, -1))
    assert image.icc_profile == profile
    assert image.format == "PNG"

    io.write_image(
        tmp_path / "out.png", image.pixels, icc_profile=image.icc_profile, exif=image.exif
    )
    again = io.read_image_file(tmp_path / "out.png")
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert again.icc_profile == profile
    assert Image.open(tmp_path / "out.png").getexif()[0x010F] == "maker"
    io.write_image(tmp_path / "gray.png", GRAY, icc_profile=profile)  # an RGB profile: left out
    assert io.read_image_file(tmp_path / "gray.png").icc_profile is None


def test_tiff_orientation_and_inverted_gray(tmp_path):
    for orientation, expected in ((3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1))):
        Image.fromarray(RGB).save(tmp_path / "o.tif", tiffinfo={0x0112: orientation})
        np.testing.assert_array_equal(io.read_image(tmp_path / "o.tif"), expected)
        np.testing.assert_array_equal(io.read_picture(tmp_path / "o.tif").frames[0], RGB)
    for array in (GRAY, GRAY16):
        name = tmp_path / f"{array.dtype}.tif"
        Image.fromarray(array).save(name, tiffinfo={262: 0})
        raw = name.read_bytes()
        data = array.tobytes()
        inverted = (np.iinfo(array.dtype).max - array).tobytes()
        stored = data if data in raw else inverted
        expected = np.iinfo(array.dtype).max - np.frombuffer(stored, array.dtype)
        assert Image.open(name).tag_v2[262] == 0
        np.testing.assert_array_equal(io.read_image(name), expected.reshape(array.shape))


def make_bad(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "truncated":
        io.write_image(path, RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "truncated header":
        path.write_bytes(png(4, 4, 8, 0, bytes(20))[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not an image\n" * 10)
    elif kind == "folder":
        path.mkdir()
    elif kind == "float TIFF":
        Image.fromarray(GRAY.astype(np.float32)).save(path, format="TIFF")
    elif kind == "CMYK":
        Image.fromarray(RGBA).convert("RGB").convert("CMYK").save(path, format="JPEG")
    elif kind == "animation":
        frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "pages":
        Image.fromarray(RGB).save(
            path, format="TIFF", save_all=True, append_images=[Image.fromarray(RGB)]
        )
    elif kind == "GIF":
        Image.fromarray(GRAY).save(path, format="GIF")
    elif kind == "bomb":  # states 60000 x 60000 in a file of a few bytes
        path.write_bytes(png(60_000, 60_000, 8, 0, bytes(1000)))
    return path


BAD = {
    "truncated": "truncated", "truncated header": "truncated", "empty": "empty",
    "text": "known format", "folder": "folder", "missing": "does not exist",
    "float TIFF": "float32", "CMYK": "CMYK",
    "animation": "2 frames", "pages": "2 frames", "GIF": "known format",
    "bomb": "3600000000 pixels",
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_naming_the_file(tmp_path, kind):
    path = make_bad(tmp_path, kind)
    with pytest.raises(io.ImageError, match=BAD[kind]) as caught:
        io.read_image(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


def test_every_truncation_of_a_png_is_an_image_error(tmp_path):
    io.write_image(tmp_path / "a.png", RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    cut = tmp_path / "cut.png"
    idat_end = whole.rindex(b"IEND") - 4 - 4 - 8  # the last bytes of the pixel data proper
    for length in range(0, idat_end, 37):
        cut.write_bytes(whole[:length])
        with pytest.raises(io.ImageError):
            io.read_image(cut)


def test_max_pixels(tmp_path):
    io.write_image(tmp_path / "a.png", GRAY)
    assert io.read_image(tmp_path / "a.png", max_pixels=77).shape == (7, 11)
    with pytest.raises(io.ImageError, match=r"11 x 7.*77.*76"):
        io.read_image(tmp_path / "a.png", max_pixels=76)
    with pytest.raises(ValueError, match="max_pixels"):
        io.read_image(tmp_path / "a.png", max_pixels=0)
    with pytest.raises(TypeError, match="path"):
        io.read_image(3)
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None  # Pillow's own limit is restored


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(io.ImageError, match="not a regular file"):
        io.read_image(tmp_path / "pipe.png")
    with pytest.raises(io.ImageError, match="not a regular file"):
        io.write_image(tmp_path / "pipe.png", GRAY, overwrite=True)


def test_existing_file_kept_unless_asked(tmp_path):
    path = tmp_path / "a.png"
    io.write_image(path, GRAY)
    with pytest.raises(io.ImageError, match="exists"):
        io.write_image(path, 255 - GRAY)
    np.testing.assert_array_equal(io.read_image(path), GRAY)
    io.write_image(path, 255 - GRAY, overwrite=True)
    np.testing.assert_array_equal(io.read_image(path), 255 - GRAY)
    assert leftovers(tmp_path) == ["a.png"]


def test_overwriting_a_link_keeps_the_link(tmp_path):
    io.write_image(tmp_path / "real.png", GRAY)
    (tmp_path / "link.png").symlink_to("real.png")
    io.write_image(tmp_path / "link.png", RGB, overwrite=True)
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(io.read_image(tmp_path / "real.png"), RGB)


def test_new_file_has_default_permissions(tmp_path):
    io.write_image(tmp_path / "a.png", GRAY)
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("name, array, message", [
    ("a.txt", GRAY, "suffix '.txt'"),
    ("a", GRAY, "no suffix"),
    ("a.gif", GRAY, "known formats"),
    ("a.jpg", RGBA, "alpha"),
    ("a.bmp", LA, "alpha"),
    ("a.webp", LA, "alpha"),
    ("a.jpg", GRAY16, "16-bit"),
    ("a.png", np.zeros((2, 2, 3), np.float32), "float32.*TIFF"),
    ("a.pgm", RGB, "suffix is for gray"),
    ("a.ppm", GRAY, "suffix is for RGB"),
    ("a.png", np.zeros((2, 2, 5), np.uint8), "shape"),
    ("a.png", np.zeros((0, 2), np.uint8), "empty"),
    ("missing/a.png", GRAY, "does not exist"),
    ("file/a.png", GRAY, "not a folder"),
    ("folder.png", GRAY, "is a folder"),
    ("x" * 300 + ".png", GRAY, "name too long"),
    ("broken.png", GRAY, "broken link"),
])  # fmt: skip
def test_unwritable_is_one_line_and_leaves_nothing(tmp_path, name, array, message):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere")
    before = leftovers(tmp_path)
    with pytest.raises(io.ImageError, match=message) as caught:
        io.write_image(tmp_path / name, array, overwrite=True)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == before
    with pytest.raises(TypeError, match="array"):
        io.write_image(tmp_path / "complex.png", np.zeros((2, 2), complex))


def test_failure_while_writing_leaves_nothing(tmp_path):
    def fail(stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    def interrupt(stream):
        raise KeyboardInterrupt

    with pytest.raises(io.ImageError, match="no space left"):
        io.write_atomically(tmp_path / "a.png", fail)
    with pytest.raises(KeyboardInterrupt):
        io.write_atomically(tmp_path / "a.png", interrupt)
    assert leftovers(tmp_path) == []


def test_check_can_write(tmp_path):
    io.check_can_write(tmp_path / "a.png")
    io.write_image(tmp_path / "a.png", GRAY)
    with pytest.raises(io.ImageError, match="exists"):
        io.check_can_write(tmp_path / "a.png")
    io.check_can_write(tmp_path / "a.png", overwrite=True)


def test_a_format_is_named_by_a_known_suffix():
    picture = io.picture_of(np.zeros((2, 2), np.uint8))
    assert io.format_for(picture) == "TIFF"
    assert io.format_for(picture, ".jpg") == "JPEG"
    with pytest.raises(io.ImageError, match=r"suffix .*\.png.*'\.pgn'"):
        io.format_for(picture, ".pgn")


def test_list_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.tif", "sub/.d/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()

    def names(paths, **options):
        return [str(p.relative_to(tmp_path)) for p in io.list_images(paths, **options)]

    assert names(tmp_path) == ["a.JPG", "b.png"]
    assert names(str(tmp_path), recursive=True) == ["a.JPG", "b.png", "sub/c.tif"]
    assert names(tmp_path / "notes.txt") == ["notes.txt"]
    assert names(str(tmp_path / "*.png")) == ["b.png"]
    assert names(str(tmp_path / "**" / "*")) == ["a.JPG", "b.png", "sub/c.tif"]
    assert names([tmp_path / "b.png", tmp_path]) == ["b.png", "a.JPG"]
    (tmp_path / "odd[1].png").write_bytes(b"x")
    assert names(str(tmp_path / "odd[1].png")) == ["odd[1].png"]
    for bad, message in [("none.png", "does not exist"), ("*.bmp", "matches nothing"),
                         ("*.txt", "matches no image"), ("empty", "no image")]:  # fmt: skip
        with pytest.raises(io.ImageError, match=message):
            io.list_images(tmp_path / bad)


def test_find_images_keeps_the_place_under_the_folder(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.png").write_bytes(b"x")
    for argument in (tmp_path / "in", str(tmp_path / "in" / "**" / "*.png")):
        (found,) = io.find_images(argument, recursive=True)
        assert found.relative == Path("sub/a.png")
    (found,) = io.find_images(tmp_path / "in" / "sub" / "a.png")
    assert found.relative == Path("a.png")


@pytest.mark.parametrize("name, array", [
    ("a.png", RGB), ("b.png", GRAY16), ("c.tif", RGB), ("d.tif", GRAY16), ("e.bmp", RGB),
    ("f.webp", RGB), ("g.ppm", RGB), ("h.pgm", GRAY16), ("i.jpg", RGB),
])  # fmt: skip
def test_damaged_bytes_are_an_image_error_or_an_image(tmp_path, name, array):
    io.write_image(tmp_path / name, array)
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole)
        # headers are where decoders trip
        end = len(damaged) if rng.random() < 0.4 else min(len(damaged), 120)
        for position in rng.integers(0, end, rng.integers(1, 6)):
            damaged[position] = rng.integers(0, 256)
        (tmp_path / name).write_bytes(damaged)
        try:
            image = io.read_image(tmp_path / name, max_pixels=1_000_000)
        except io.ImageError as error:
            assert "\n" not in str(error)
        else:
            assert image.dtype in (np.uint8, np.uint16) and image.ndim in (2, 3)


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "漢" * 83 + ".png"], ids=["long", "unicode"])
def test_names_as_long_as_names_can_be(tmp_path, name):
    io.write_image(tmp_path / name, RGB)  # 255 and 253 bytes of at most 255
    assert leftovers(tmp_path) == [name]
    np.testing.assert_array_equal(io.read_image(tmp_path / name), RGB)
