"""JPEG: 8-bit gray and RGB; all APPn and COM segments are kept as they are.

Written with quality 95 and full-resolution colour, or with the wanted quality. It is not exact.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import (
    JpegImagePlugin,  # noqa: F401  Image.open(formats=...) does not load it itself
)

from denoise_ext.io.codecs.base import Codec, Source, holds
from denoise_ext.io.codecs.pillow import image_of, load, open_image
from denoise_ext.io.picture import Metadata, Picture, mode_of

_APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_START_OF_SCAN = 0xDA
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_MULTI_PICTURE = b"MPF\0"  # an index of further pictures in the file, which are not kept
_MAX_SEGMENT = 65533
_FULL_COLOUR = 90  # from this quality on colours keep their resolution


@dataclass(frozen=True)
class _Segments:
    kept: tuple[tuple[int, bytes], ...]  # (marker, body)


def _read(source: Source) -> Picture:
    with open_image(source, "JPEG") as image:
        if image.mode not in ("L", "RGB"):
            raise source.error(
                f"has pixels of mode {image.mode}; JPEGs in gray and RGB are read. Convert it first"
            )
        load(image)
        frame = np.array(image)
    segments = _segments(source)
    bodies = [body for marker, body in segments if marker == _APP1]
    exif = next((b[len(_EXIF) :] for b in bodies if b.startswith(_EXIF)), None)
    xmp = _xmp(segments)
    kept = tuple(s for s in segments if not s[1].startswith(_MULTI_PICTURE))
    notes = ("only the first of its pictures is read",) if kept != tuple(segments) else ()
    metadata = Metadata(
        icc_profile=_icc_profile(segments),
        exif=exif,
        xmp=xmp,
        pixels_per_metre=_resolution(segments),
        native=_Segments(kept),
    )
    return Picture((frame,), (0.0, 255.0), mode_of(frame), "JPEG", metadata, notes)


def _segments(source: Source) -> list[tuple[int, bytes]]:
    """The APPn and COM segments ahead of the picture (ITU-T T.81, B.1.1)."""
    return _walk(source.stream, lambda marker: _APP0 <= marker <= _APP15 or marker == _COM)[0]


def _walk(stream: IO[bytes], wanted: Callable[[int], bool]) -> tuple[list[tuple[int, bytes]], int]:
    """The wanted segments, and where the first one begins that is none of APPn and COM."""
    stream.seek(2)
    found = []
    first_other = 0
    while (byte := stream.read(1)) == b"\xff":
        while (byte := stream.read(1)) == b"\xff":  # fill bytes
            pass
        if len(byte) != 1 or byte[0] == _START_OF_SCAN:
            break
        at = stream.tell() - 2
        length = int.from_bytes(stream.read(2))
        body = stream.read(max(0, length - 2))
        if length < 2 or len(body) != length - 2:
            break
        if wanted(byte[0]):
            found.append((byte[0], body))
        if not first_other and not (_APP0 <= byte[0] <= _APP15 or byte[0] == _COM):
            first_other = at
    return found, first_other


def _icc_profile(segments: list[tuple[int, bytes]]) -> bytes | None:
    # ICC.1:2022 B.4: number of this part, number of parts, then the data
    parts = [b[len(_ICC) :] for m, b in segments if m == _APP2 and b.startswith(_ICC)]
    parts = sorted(part for part in parts if len(part) > 2)
    return b"".join(part[2:] for part in parts) or None


def _resolution(segments: list[tuple[int, bytes]]) -> tuple[float, float] | None:
    for marker, body in segments:
        if marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            per_metre = {1: 1 / 0.0254, 2: 100.0}.get(body[7])
            x, y = int.from_bytes(body[8:10]), int.from_bytes(body[10:12])
            return (x * per_metre, y * per_metre) if per_metre and x and y else None
    return None


def _write(stream: IO[bytes], picture: Picture) -> None:
    _save(stream, picture, 95, "4:4:4")


def _write_lossy(stream: IO[bytes], picture: Picture, quality: int) -> None:
    _save(stream, picture, quality, "4:4:4" if quality >= _FULL_COLOUR else "4:2:0")


def _save(stream: IO[bytes], picture: Picture, quality: int, subsampling: str) -> None:
    (frame,) = picture.frames
    encoded = io.BytesIO()
    # Not optimize=True: Pillow's buffer for it is too small for noise at high qualities.
    image_of(frame).save(encoded, format="JPEG", quality=quality, subsampling=subsampling)
    _, picture_at = _walk(encoded, lambda marker: False)
    native = picture.metadata.native
    if isinstance(native, _Segments):
        segments = _with_xmp(native.kept, picture.metadata.xmp)
    else:
        segments = _new_segments(picture.metadata)
    if "xmp" in picture.metadata.required and not _xmp(segments):
        assert picture.metadata.xmp is not None
        raise ValueError(f"its XMP packet has {len(picture.metadata.xmp)} bytes, too many for JPEG")
    stream.write(b"\xff\xd8")
    for marker, body in segments:
        if marker != _APP14:  # Adobe's: how the colours of the old picture were coded
            stream.write(bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body)
    stream.write(encoded.getbuffer()[picture_at:])


def _xmp(segments: Iterable[tuple[int, bytes]]) -> bytes | None:
    return next((b[len(_XMP) :] for m, b in segments if m == _APP1 and b.startswith(_XMP)), None)


def _with_xmp(
    segments: tuple[tuple[int, bytes], ...], xmp: bytes | None
) -> list[tuple[int, bytes]]:
    """A picture's own segments; where its XMP is another, that one, after the first segments."""
    if xmp == _xmp(segments):
        return list(segments)
    kept = [s for s in segments if not (s[0] == _APP1 and s[1].startswith(_XMP))]
    if not xmp or len(_XMP) + len(xmp) > _MAX_SEGMENT:
        return kept
    place = next(
        (i for i, (m, b) in enumerate(kept) if not (m == _APP0 or b.startswith(_EXIF))), len(kept)
    )
    return [*kept[:place], (_APP1, _XMP + xmp), *kept[place:]]


def _new_segments(metadata: Metadata) -> list[tuple[int, bytes]]:
    unit, x, y = 0, 1, 1  # no unit, square pixels
    if metadata.pixels_per_metre:
        per_inch = [round(n * 0.0254) for n in metadata.pixels_per_metre]
        if all(1 <= n <= 65535 for n in per_inch):
            unit, (x, y) = 1, per_inch
    jfif = b"JFIF\0\1\1" + bytes([unit]) + x.to_bytes(2) + y.to_bytes(2) + b"\0\0"
    segments = [(_APP0, jfif)]
    for start, body in ((_EXIF, metadata.exif), (_XMP, metadata.xmp)):
        if body and len(start) + len(body) <= _MAX_SEGMENT:
            segments.append((_APP1, start + body))
    if metadata.icc_profile:
        size = _MAX_SEGMENT - len(_ICC) - 2
        profile = metadata.icc_profile
        parts = [profile[i : i + size] for i in range(0, len(profile), size)]
        if len(parts) <= 255:
            for number, part in enumerate(parts, 1):
                segments.append((_APP2, _ICC + bytes([number, len(parts)]) + part))
    return segments


CODEC = Codec(
    name="JPEG",
    suffixes=(".jpg", ".jpeg", ".jpe"),
    sniff=lambda head: head.startswith(b"\xff\xd8\xff"),
    read=_read,
    write=_write,
    holds=holds(("gray", "rgb"), "uint8"),
    keeps=("icc", "exif", "xmp", "resolution"),
    write_lossy=_write_lossy,
    exact=False,
)
