"""The bytes of a ``.dxc`` file: header, metadata, table of tiles, tiles. docs/format_dxc.md."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from denoise_ext.io import ImageError

DXC = "DXC"
"""Name of the format in `denoise_ext.io`."""
MAGIC = b"\x8bDXC\r\n\x1a\n"
VERSION = 1
STRIDE = 16
"""Pixels of a side of a latent pixel."""
LARGEST_TILE = 4096
_HEADER = struct.Struct("<8s4B2I2H8sI")  # and a checksum of these bytes
_CHUNK = struct.Struct("<4s2I")
_TILE = struct.Struct("<2I")
_SUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _SUM.size
_DEPTHS: dict[int, type[np.uint8] | type[np.uint16]] = {8: np.uint8, 16: np.uint16}
ALPHA, ICC, EXIF, XMP, RESOLUTION = b"ALPH", b"ICCP", b"EXIF", b"XMP ", b"PHYS"


class DamagedError(ImageError):
    """A file whose checksums do not fit. ``tiles`` are (row, column) of the damaged tiles.

    Example:
        >>> image = denoise_ext.io.read_image("photo.png")
        >>> data = denoise_ext.codec.encode(image, model="codec.safetensors")
        >>> try:
        ...     denoise_ext.codec.decode(data[:-1], model="codec.safetensors")
        ... except denoise_ext.codec.DamagedError as error:
        ...     error.tiles
        ((0, 0),)
    """

    def __init__(self, message: str, tiles: tuple[tuple[int, int], ...] = ()) -> None:
        super().__init__(message)
        self.tiles = tiles


@dataclass(frozen=True)
class Header:
    """What a file states about its picture."""

    width: int
    height: int
    channels: int
    """1: gray, 2: gray and alpha, 3: RGB, 4: RGB and alpha."""
    depth: int
    """8 or 16 bits."""
    quality: int
    tile: int
    """Side of a tile in pixels, a multiple of `STRIDE`."""
    network: bytes
    """The first 8 bytes of the SHA-256 of the network's file."""

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Of the pixels."""
        return _DEPTHS[self.depth]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.height // self.tile), -(-self.width // self.tile)

    def places(self) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
        """Every tile, row by row: its place in the grid, and its rows and columns of latents."""
        side = self.tile // STRIDE
        height, width = (-(-length // STRIDE) for length in (self.height, self.width))
        rows, columns = self.grid
        for row in range(rows):
            for column in range(columns):
                y, x = row * side, column * side
                place = slice(y, min(y + side, height)), slice(x, min(x + side, width))
                yield (row, column), place


@dataclass(frozen=True)
class Contents:
    """A file in its parts."""

    header: Header
    chunks: dict[bytes, bytes] = field(repr=False)
    """Metadata by kind."""
    tiles: tuple[bytes | None, ...] = field(repr=False)
    """Row by row; None: damaged."""
    damaged: tuple[str, ...] = ()
    """Names of the damaged chunks."""


def write_file(header: Header, chunks: dict[bytes, bytes], tiles: list[bytes]) -> bytes:
    """The bytes of a file."""
    metadata = b"".join(
        _CHUNK.pack(kind, len(data), zlib.crc32(kind + data)) + data
        for kind, data in chunks.items()
    )
    head = _HEADER.pack(
        MAGIC, VERSION, header.channels, header.depth, header.quality, header.width,
        header.height, header.tile, len(chunks), header.network, len(metadata),
    )  # fmt: skip
    table = b"".join(_TILE.pack(len(tile), zlib.crc32(tile)) for tile in tiles)
    parts = (head, _sum(head), metadata, table, _sum(table), *tiles)
    return b"".join(parts)


def _sum(data: bytes) -> bytes:
    return _SUM.pack(zlib.crc32(data))


def read_header(data: bytes, name: str = "the file") -> Header:
    """The header of a file. ImageError: it is none; DamagedError: its checksum does not fit."""
    return _read_header(data, name)[0]


def _read_header(data: bytes, name: str) -> tuple[Header, int, int]:
    """Header, number of chunks and their bytes."""
    if not data.startswith(MAGIC):
        raise ImageError(f"{name} is not a DXC file")
    if len(data) < HEADER_BYTES:
        raise ImageError(f"{name} ends within its header")
    head, checksum = data[: _HEADER.size], data[_HEADER.size : HEADER_BYTES]
    (_, version, channels, depth, quality, width, height, tile, chunks, network,
     metadata) = _HEADER.unpack(head)  # fmt: skip
    if version != VERSION:
        raise ImageError(f"{name} has version {version} of the format; version 1 is read")
    if checksum != _sum(head):
        raise DamagedError(f"{name} has a damaged header: its checksum does not fit")
    header = Header(width, height, channels, depth, quality, tile, network)
    sound = (
        width > 0 and height > 0 and 1 <= channels <= 4 and depth in _DEPTHS and quality <= 100
        and 0 < tile <= LARGEST_TILE and tile % STRIDE == 0
    )  # fmt: skip
    if not sound:
        raise ImageError(f"{name} states what the format does not have: {header}")
    return header, chunks, metadata


def read_file(data: bytes, name: str = "the file") -> Contents:
    """The parts of a file, checked by their checksums.

    Raises:
        ImageError: not a file of this format, or one that ends too early for its table of tiles.
        DamagedError: the header or the table of tiles is damaged.
    """
    header, count, size = _read_header(data, name)
    rows, columns = header.grid
    begin = HEADER_BYTES + size
    end = begin + rows * columns * _TILE.size
    if end + _SUM.size > len(data):
        raise ImageError(f"{name} ends before its table of {rows * columns} tiles")
    table = data[begin:end]
    if data[end : end + _SUM.size] != _sum(table):
        raise DamagedError(f"{name} has a damaged table of tiles: its checksum does not fit")
    chunks, damaged = _read_chunks(data[HEADER_BYTES:begin], count)
    tiles: list[bytes | None] = []
    at = end + _SUM.size
    for length, checksum in _TILE.iter_unpack(table):
        tile = data[at : at + length]
        at += length
        tiles.append(tile if len(tile) == length and zlib.crc32(tile) == checksum else None)
    return Contents(header, chunks, tuple(tiles), damaged)


def _read_chunks(data: bytes, count: int) -> tuple[dict[bytes, bytes], tuple[str, ...]]:
    chunks: dict[bytes, bytes] = {}
    damaged: list[str] = []
    at = 0
    for _ in range(count):
        if at + _CHUNK.size > len(data):
            damaged.append("metadata")
            break
        kind, length, checksum = _CHUNK.unpack_from(data, at)
        body = data[at + _CHUNK.size : at + _CHUNK.size + length]
        at += _CHUNK.size + length
        if len(body) != length or zlib.crc32(kind + body) != checksum:
            damaged.append(f"metadata {kind.decode('ascii', 'replace').strip()!r}")
        elif kind not in chunks:
            chunks[kind] = body
    return chunks, tuple(dict.fromkeys(damaged))


def pack_alpha(alpha: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16, without a loss: differences along the rows, deflated."""
    little = alpha.astype(alpha.dtype.newbyteorder("<"), copy=False)
    difference = little.copy()
    difference[:, 1:] -= little[:, :-1]
    return zlib.compress(difference.tobytes(), 9)


def unpack_alpha(data: bytes, header: Header) -> np.ndarray:
    """The plane of `pack_alpha`. ValueError where it is not of the picture's size."""
    size = header.height * header.width * header.depth // 8
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, size)
        more = inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"alpha cannot be inflated: {error}") from None
    if len(raw) != size or more or not inflater.eof:
        raise ValueError(f"alpha must have {size} bytes")
    kind = np.dtype(header.dtype).newbyteorder("<")
    difference = np.frombuffer(raw, kind).reshape(header.height, header.width)
    return np.cumsum(difference, axis=1, dtype=header.dtype)
