"""DXC files: a picture, or one io.ImageError of one line; checksums are repaired in most cases."""

from __future__ import annotations

import functools
import random
import struct
import tempfile
import zlib
from pathlib import Path

from codecs_small import picture, sealed_file
from picture_files import SRGB, XMP, exif_block

from denoise_ext import codec, io
from denoise_ext.codec.container import HEADER_BYTES
from fuzz.mutate import mutated
from fuzz.target import MEBIBYTE, REFUSED, RESULT, Target, tell

MAX_PIXELS = 20_000
# 20000 pixels are 79 pixels of latents; the network's features are below 1 kB for each pixel.
MEMORY = 128 * MEBIBYTE


@functools.cache
def network() -> codec.CodedNetwork:
    """A small untrained codec, the same in every process."""
    with tempfile.TemporaryDirectory() as folder:
        return codec.load_codec(sealed_file(Path(folder, "small.safetensors")))


@functools.cache
def samples() -> list[bytes]:
    """Valid files of every kind of pixels, with metadata, of one tile and of several."""
    metadata = io.Metadata(SRGB, exif_block(), XMP, (3000.0, 3000.0))
    kinds = [(1, "uint8"), (2, "uint16"), (3, "uint8"), (4, "uint8"), (3, "uint16")]
    return [
        codec.encode_picture(
            io.picture_of(picture(40, 50, channels, dtype), metadata=metadata),
            quality, 4.0, model=network(), tile=tile,
        )
        for channels, dtype in kinds
        for quality, tile in ((90, 32), (20, 512))
    ]  # fmt: skip


def repaired(data: bytes) -> bytes:
    """With fitting checksums, as far as the file holds together: the decoder gets the damage."""
    if len(data) < HEADER_BYTES:
        return data
    head = data[: HEADER_BYTES - 4]
    width, height, tile = struct.unpack_from("<2IH", data, 12)
    count, size = struct.unpack_from("<H8xI", data, 22)
    data = head + struct.pack("<I", zlib.crc32(head)) + data[HEADER_BYTES:]
    at, begin = HEADER_BYTES, HEADER_BYTES + size
    for _ in range(count):
        if at + 12 > min(begin, len(data)):
            break
        kind, length, _ = struct.unpack_from("<4s2I", data, at)
        body = data[at + 12 : at + 12 + length]
        data = data[: at + 8] + struct.pack("<I", zlib.crc32(kind + body)) + data[at + 12 :]
        at += 12 + length
    tiles = -(-width // tile) * -(-height // tile) if tile else 0
    end = begin + 8 * tiles
    if end + 4 > len(data):
        return data
    table, body = bytearray(data[begin:end]), end + 4
    for i in range(tiles):
        (length,) = struct.unpack_from("<I", table, 8 * i)
        struct.pack_into("<I", table, 8 * i + 4, zlib.crc32(data[body : body + length]))
        body += length
    return data[:begin] + bytes(table) + struct.pack("<I", zlib.crc32(table)) + data[end + 4 :]


def case(rng: random.Random) -> str:
    """One damaged file."""
    data = rng.choice(samples())
    if rng.random() < 0.97:
        data = mutated(rng, data, samples())
        data = repaired(data) if rng.random() < 0.8 else data
    partial = rng.random() < 0.5
    tell(lambda: f"{len(data)} bytes, partial {partial}, {data[:64]!r}")
    try:
        made = codec.decode(data, model=network(), partial=partial, max_pixels=MAX_PIXELS)
    except io.ImageError as error:
        assert "\n" not in str(error), f"more than a line: {error}"
        return REFUSED
    assert made.shape[0] * made.shape[1] <= MAX_PIXELS
    return RESULT


def targets() -> list[Target]:
    """One."""
    return [Target("codec/DXC", case, seconds=10, memory=MEMORY)]
