"""AVIF: 8-bit RGB and RGBA, with its ICC profile, EXIF and XMP.

Written with quality 95 and full-resolution colour, or with the wanted quality. It is not exact.
"""

from __future__ import annotations

from typing import IO

from PIL import AvifImagePlugin, features  # noqa: F401  Image.open(formats=...) loads no plugin
from PIL.Image import Image

from denoise_ext.io.codecs.base import Codec, Source, holds
from denoise_ext.io.codecs.pillow import image_of, load, open_image, pixels_of
from denoise_ext.io.errors import ImageError
from denoise_ext.io.picture import Metadata, Picture, mode_of

_HEAD = 1 << 16  # bytes that hold the boxes before the picture
_EXIF = b"Exif\0\0"
_HIGH_DEPTH = 0x40  # in the third byte of an av1C box: 10 or 12 bits


def _check_built() -> None:
    if not features.check("avif"):
        raise ImageError("AVIF needs a Pillow with libavif (11.3 or later, from PyPI)")


def _read(source: Source) -> Picture:
    _check_built()
    head = source.head(_HEAD)
    at = head.find(b"ispe")
    if at < 0 or len(head) < at + 16:
        raise source.error("states no size of its picture")
    # the decoder takes memory for the whole picture; ispe: version, width, height
    source.check_pixels(*(int.from_bytes(head[at + i : at + i + 4]) for i in (8, 12)))
    coded = head.find(b"av1C")
    if coded >= 0 and len(head) > coded + 6 and head[coded + 6] & _HIGH_DEPTH:
        raise source.error("has more than 8 bits per channel; 8-bit AVIF is read. Convert it first")
    with open_image(source, "AVIF") as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise source.error(f"is an animation of {frames} frames; single images are read")
        load(image)
        frame = pixels_of(image, "RGBA" if "A" in image.getbands() else "RGB")
        info = image.info
    exif = info.get("exif")
    metadata = Metadata(
        info.get("icc_profile"), exif.removeprefix(_EXIF) if exif else None, info.get("xmp")
    )
    return Picture((frame,), (0.0, 255.0), mode_of(frame), "AVIF", metadata)


def _save(stream: IO[bytes], picture: Picture, quality: int, subsampling: str) -> None:
    _check_built()
    (frame,) = picture.frames
    image: Image = image_of(frame)
    if picture.mode == "gray":  # three equal channels
        image = image.convert("RGB")
    metadata = picture.metadata
    blocks = {
        "icc_profile": metadata.icc_profile,
        "exif": metadata.exif,
        "xmp": metadata.xmp,
    }
    blocks = {name: block for name, block in blocks.items() if block}
    image.save(stream, format="AVIF", quality=quality, subsampling=subsampling, **blocks)


def _write(stream: IO[bytes], picture: Picture) -> None:
    _save(stream, picture, 95, "4:4:4")


def _write_lossy(stream: IO[bytes], picture: Picture, quality: int) -> None:
    _save(stream, picture, quality, "4:2:0")


CODEC = Codec(
    name="AVIF",
    suffixes=(".avif",),
    sniff=lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"),
    read=_read,
    write=_write,
    holds=holds(("gray", "rgb", "rgba"), "uint8"),
    keeps=("icc", "exif", "xmp"),
    write_lossy=_write_lossy,
    exact=False,
)
