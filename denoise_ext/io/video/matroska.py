"""Matroska and WebM files that are shorter than they state: FFmpeg ends them without a word."""

from __future__ import annotations

import os
from typing import BinaryIO

_FILE, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # IDs of elements


def missing_bytes(path: str | os.PathLike[str]) -> int:
    """How much of the segment lies beyond the file's end; 0 for other files.

    A segment of unknown size, as of live streams, ends with the file. Source: RFC 8794, "Extensible
    Binary Meta Language", sections 4 to 6.
    """
    with open(path, "rb") as file:
        if file.read(4) != _FILE or (size := _number(file)) is None:
            return 0
        file.seek(size, os.SEEK_CUR)
        if file.read(4) != _SEGMENT or (size := _number(file)) is None:
            return 0
        return max(0, file.tell() + size - os.fstat(file.fileno()).st_size)


def _number(file: BinaryIO) -> int | None:
    """The size of an element, of 1 to 8 bytes; None: unknown, or none."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()  # zeros before the first one count the bytes that follow
    rest = file.read(more)
    unknown = (1 << 7 * (more + 1)) - 1
    value = int.from_bytes(first + rest, "big") & unknown
    return None if len(rest) < more or value == unknown else value
