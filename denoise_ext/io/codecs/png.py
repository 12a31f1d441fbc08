"""PNG: 1- to 16-bit gray and colour; every chunk that still fits the pixels is kept.

Source of the layout: Portable Network Graphics (PNG) Specification, third edition, W3C.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import (
    Image,
    PngImagePlugin,  # noqa: F401  Image.open(formats=...) does not load it itself
)

from denoise_ext.io.codecs import oiio
from denoise_ext.io.codecs.base import ALL_MODES, Codec, Source, holds
from denoise_ext.io.codecs.pillow import image_of, load, open_image, pixels_of
from denoise_ext.io.picture import Metadata, Picture, mode_of, value_range_of

# Photographs come out as large as with the usual level 6 (within 1 %), in a quarter of the time.
_LEVEL = 2
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
# Chunks that belong to the pixels as they were stored, and come anew with the new ones.
_OF_THE_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"hIST", b"acTL", b"fcTL", b"fdAT"}
# Given in the stored colour type and depth: of no use to another.
_OF_THE_COLOUR_TYPE = {b"bKGD", b"sBIT"}
_MAX_CHUNK = 1 << 26  # of metadata: 64 MiB


@dataclass(frozen=True)
class _Chunks:
    before: tuple[tuple[bytes, bytes], ...]  # (name, body) ahead of the pixels
    after: tuple[tuple[bytes, bytes], ...]
    depth: int
    colour_type: int
    transparent: bytes | None  # tRNS


def _read(source: Source) -> Picture:
    chunks, notes = _parse(source)
    wide_colour = chunks.depth == 16 and chunks.colour_type != _GRAY
    if wide_colour:
        (frame,) = oiio.decode(source, "has 16-bit colour (or alpha)", ".png", [0])
    else:
        with open_image(source, "PNG") as image:
            frame = _narrow_pixels(image, chunks)
    keyed = chunks.transparent is not None and chunks.colour_type in (_GRAY, _RGB)
    if keyed and frame.shape[2:] in ((), (3,)):  # OpenImageIO has made it alpha already
        frame = _with_alpha(frame, chunks)
    kept = dict(chunks.before + chunks.after)
    metadata = Metadata(
        icc_profile=_icc_profile(kept.get(b"iCCP")),
        exif=kept.get(b"eXIf"),
        xmp=_xmp(chunks.before + chunks.after),
        pixels_per_metre=_resolution(kept.get(b"pHYs")),
        native=chunks,
    )
    return Picture((frame,), value_range_of([frame]), mode_of(frame), "PNG", metadata, notes)


def _parse(source: Source) -> tuple[_Chunks, tuple[str, ...]]:
    stream = source.stream
    stream.seek(len(_SIGNATURE))
    before: list[tuple[bytes, bytes]] = []
    after: list[tuple[bytes, bytes]] = []
    notes = []
    depth = colour_type = transparent = None
    seen_pixels = False
    while len(start := stream.read(8)) == 8:
        (length,), name = struct.unpack(">I", start[:4]), start[4:]
        if not name.isalpha():
            place = stream.tell() - len(start)
            raise source.error(f"is a damaged PNG file: no chunk begins at byte {place}")
        if name == b"IDAT" or name in (b"fdAT", b"PLTE", b"hIST"):
            seen_pixels |= name == b"IDAT"
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        if length > _MAX_CHUNK:
            raise source.error(f"has a metadata chunk of {length} bytes; {_MAX_CHUNK} are read")
        body, checksum = stream.read(length), stream.read(4)
        if name == b"IHDR":
            width, height, depth, colour_type = struct.unpack(">IIBB", body[:10])
            source.check_pixels(width, height)
        elif name == b"IEND":
            break
        elif checksum != struct.pack(">I", zlib.crc32(name + body)):
            notes.append(f"a damaged {name.decode('latin1')!r} chunk was left out")
        elif name == b"acTL" and int.from_bytes(body[:4]) > 1:
            frames = int.from_bytes(body[:4])
            raise source.error(f"is an animation of {frames} frames; single images are read")
        elif name == b"tRNS":
            transparent = body
        elif name not in _OF_THE_PIXELS:
            (after if seen_pixels else before).append((name, body))
    if depth is None or colour_type is None:
        raise source.error("is a truncated PNG file: it ends before its header")
    return _Chunks(tuple(before), tuple(after), depth, colour_type, transparent), tuple(notes)


def _narrow_pixels(image: Image.Image, chunks: _Chunks) -> np.ndarray:
    load(image)
    if chunks.colour_type == _PALETTE:
        return pixels_of(image, "RGBA" if "transparency" in image.info else "RGB")
    if chunks.depth == 16:
        return np.asarray(image).astype(np.uint16)  # "I;16" or "I", in native byte order
    if chunks.depth == 1:
        return pixels_of(image, image.mode)
    modes = {_GRAY: "L", _RGB: "RGB", _GRAY_ALPHA: "LA", _RGBA: "RGBA"}
    return pixels_of(image, modes[chunks.colour_type])


def _with_alpha(frame: np.ndarray, chunks: _Chunks) -> np.ndarray:
    """The transparent colour of tRNS, (H, W) or (H, W, 3), made an alpha channel."""
    colour = np.frombuffer(chunks.transparent or b"", ">u2")
    if len(colour) != (1 if frame.ndim == 2 else 3):
        raise ValueError("the tRNS chunk does not fit the colour type")
    if frame.dtype == np.bool_:
        frame = frame * np.uint8(255)
    scale = 255 // ((1 << chunks.depth) - 1) if chunks.depth < 8 else 1  # as gray was widened
    planes = frame.reshape(*frame.shape[:2], -1)
    opaque = (planes != (colour.astype(np.int64) * scale)).any(axis=2, keepdims=True)
    white = np.iinfo(frame.dtype).max
    return np.concatenate([planes, (opaque * white).astype(frame.dtype)], axis=2)


def _icc_profile(body: bytes | None) -> bytes | None:
    if body is None:
        return None
    _name, _, packed = body.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(packed[1:], _MAX_CHUNK)
    except zlib.error:
        return None
    return profile if inflate.eof else None


_XMP = b"XML:com.adobe.xmp"


def _xmp(chunks: tuple[tuple[bytes, bytes], ...]) -> bytes | None:
    for name, body in chunks:
        if _is_xmp(name, body):
            return body[len(_XMP) + 5 :]
    return None


def _is_xmp(name: bytes, body: bytes) -> bool:
    return name == b"iTXt" and body.startswith(_XMP + b"\0\0\0\0\0")  # not compressed


def _xmp_chunk(xmp: bytes) -> bytes:
    return _chunk(b"iTXt", _XMP + b"\0\0\0\0\0" + xmp)


def _resolution(body: bytes | None) -> tuple[float, float] | None:
    if body is None or len(body) != 9 or body[8] != 1:  # 1: the unit is the metre
        return None
    across, down = struct.unpack(">II", body[:8])
    return float(across), float(down)


def _write(stream: IO[bytes], picture: Picture) -> None:
    (frame,) = picture.frames
    encoded = io.BytesIO()
    if frame.dtype == np.uint16 and frame.ndim == 3:
        _encode_wide(encoded, frame)
    else:
        image_of(frame).save(encoded, format="PNG", compress_level=_LEVEL)
    data = encoded.getbuffer()
    after_header = len(_SIGNATURE) + 8 + 13 + 4
    depth, colour_type = data[24], data[25]
    before, after = _chunks_to_write(picture, depth, colour_type)
    stream.write(data[:after_header])
    stream.write(before)
    stream.write(data[after_header : len(data) - 12])
    stream.write(after)
    stream.write(data[len(data) - 12 :])  # IEND


def _chunks_to_write(picture: Picture, depth: int, colour_type: int) -> tuple[bytes, bytes]:
    native = picture.metadata.native
    if isinstance(native, _Chunks):
        same_type = (depth, colour_type) == (native.depth, native.colour_type)
        left_out = set() if same_type else _OF_THE_COLOUR_TYPE
        xmp = picture.metadata.xmp
        changed = xmp != _xmp(native.before + native.after)
        before, after = (
            b"".join(
                _chunk(name, body)
                for name, body in part
                if not (name in left_out or (changed and _is_xmp(name, body)))
            )
            for part in (native.before, native.after)
        )
        return (before + _xmp_chunk(xmp) if changed and xmp else before), after
    chunks = b""
    metadata = picture.metadata
    if metadata.icc_profile:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.pixels_per_metre:
        chunks += _chunk(
            b"pHYs", struct.pack(">IIB", *(round(n) for n in metadata.pixels_per_metre), 1)
        )
    if metadata.xmp:
        chunks += _xmp_chunk(metadata.xmp)
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    return chunks, b""


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _encode_wide(stream: IO[bytes], frame: np.ndarray) -> None:
    """16-bit gray + alpha, RGB or RGBA (H, W, 2..4), which Pillow does not write."""
    height, width, channels = frame.shape
    colour_type = {2: _GRAY_ALPHA, 3: _RGB, 4: _RGBA}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    stream.write(_SIGNATURE + _chunk(b"IHDR", header))
    compress = zlib.compressobj(_LEVEL)
    above = np.zeros(width * channels * 2, np.uint8)
    rows_at_once = max(1, (1 << 20) // above.size)
    for top in range(0, height, rows_at_once):
        rows = frame[top : top + rows_at_once].astype(">u2").view(np.uint8)
        rows = rows.reshape(-1, above.size)
        packed = compress.compress(_filtered(rows, above, 2 * channels))
        above = rows[-1]
        stream.write(_chunk(b"IDAT", packed))
    stream.write(_chunk(b"IDAT", compress.flush()) + _chunk(b"IEND", b""))


def _filtered(rows: np.ndarray, above: np.ndarray, step: int) -> bytes:
    """Rows of bytes with the filter of each (Sub, Up or Paeth) that leaves the smallest numbers.

    The choice is the specification's own (12.7): the least sum of absolute differences.
    """
    a = np.zeros_like(rows)  # the pixel to the left
    a[:, step:] = rows[:, :-step]
    b = np.concatenate([above[None], rows[:-1]])
    c = np.zeros_like(rows)
    c[:, step:] = b[:, :-step]
    guess = a.astype(np.int16) + b - c
    to_a, to_b, to_c = (np.abs(guess - neighbour) for neighbour in (a, b, c))
    paeth = np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
    candidates = np.stack([rows - a, rows - b, rows - paeth])  # filter types 1, 2, 4
    cost = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = cost.argmin(axis=0)
    chosen = np.take_along_axis(candidates, best[None, :, None], axis=0)[0]
    types = np.array([1, 2, 4], np.uint8)[best]
    return np.concatenate([types[:, None], chosen], axis=1).tobytes()


CODEC = Codec(
    name="PNG",
    suffixes=(".png",),
    sniff=lambda head: head.startswith(_SIGNATURE),
    read=_read,
    write=_write,
    holds=holds(ALL_MODES, "uint8", "uint16") | {"gray": ("bool", "uint8", "uint16")},
    keeps=("icc", "exif", "xmp", "resolution"),
)
