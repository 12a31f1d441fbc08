"""WebP: 8-bit RGB and RGBA, with its ICC profile, EXIF and XMP; without a loss unless wanted."""

from __future__ import annotations

from typing import IO

from PIL import WebPImagePlugin  # noqa: F401  Image.open(formats=...) does not load it itself

from denoise_ext.io.codecs.base import Codec, Source, holds
from denoise_ext.io.codecs.pillow import image_of, load, open_image, pixels_of
from denoise_ext.io.picture import Metadata, Picture, mode_of

_EXIF = b"Exif\0\0"
_SLOWEST = 6  # method: fewest bytes


def _size(head: bytes) -> tuple[int, int]:
    """Width and height in the first chunk, as RFC 9649 has them; (1, 1) if there are none."""
    kind, body = head[12:16], head[20:]
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(body) >= 10:
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        return max(1, width), max(1, height)
    return 1, 1


def _read(source: Source) -> Picture:
    # its decoder takes memory for the whole picture when it is opened
    source.check_pixels(*_size(source.head(30)))
    with open_image(source, "WEBP") as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise source.error(f"is an animation of {frames} frames; single images are read")
        load(image)
        frame = pixels_of(image, "RGBA" if "A" in image.getbands() else "RGB")
        info = image.info
    metadata = Metadata(info.get("icc_profile"), _bare(info.get("exif")), info.get("xmp"))
    return Picture((frame,), (0.0, 255.0), mode_of(frame), "WEBP", metadata)


def _bare(exif: bytes | None) -> bytes | None:
    return exif.removeprefix(_EXIF) if exif else None


def _write(stream: IO[bytes], picture: Picture) -> None:
    # exact: colours under full transparency, too
    _save(stream, picture, lossless=True, exact=True)


def _write_lossy(stream: IO[bytes], picture: Picture, quality: int) -> None:
    _save(stream, picture, quality=quality, method=_SLOWEST)


def _save(stream: IO[bytes], picture: Picture, **options: int) -> None:
    (frame,) = picture.frames
    image = image_of(frame)
    if picture.mode == "gray":  # WebP has colour only: three equal channels
        image = image.convert("RGB")
    metadata = picture.metadata
    blocks = {
        "icc_profile": metadata.icc_profile,
        "exif": metadata.exif,
        "xmp": metadata.xmp,
    }
    blocks = {name: block for name, block in blocks.items() if block}
    image.save(stream, format="WEBP", **options, **blocks)


CODEC = Codec(
    name="WEBP",
    suffixes=(".webp",),
    sniff=lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    read=_read,
    write=_write,
    holds=holds(("gray", "rgb", "rgba"), "uint8"),
    keeps=("icc", "exif", "xmp"),
    write_lossy=_write_lossy,
)
