"""Films that lack their end: FFmpeg reads what is there, and calls that the whole film."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

_MATROSKA = b"\x1a\x45\xdf\xa3"  # the EBML header, before the segment, which is all the rest
_SEGMENT = 0x18538067
_BOXES = {b"ftyp", b"wide", b"free", b"skip", b"moov", b"moof", b"mdat"}
_MOST_PARTS = 100_000  # at the top of a file


def missing_bytes(path: str | os.PathLike[str]) -> int:
    """How many bytes a Matroska, MP4 or QuickTime file lacks at its end, by the sizes it states.

    0 for a whole file, for one of unknown size, as a live recording, and for other containers.
    Sources: RFC 8794 (EBML), RFC 9559 (Matroska), ISO/IEC 14496-12.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        file.seek(0)
        if start[:4] == _MATROSKA:
            end = _end_of_segment(file, size)
        elif start[4:] in _BOXES:
            end = _end_of_boxes(file, size)
        else:
            return 0
    return max(0, end - size)


def _end_of_segment(file: BinaryIO, size: int) -> int:
    """Where the segment ends by its own size; 0: not known."""
    for _ in range(_MOST_PARTS):
        kind = _number(file, marked=True)
        length = _number(file, marked=False)
        if kind is None or length is None:
            return 0
        end = file.tell() + length
        if kind == _SEGMENT:
            return end
        if end > size:
            return 0
        file.seek(end)
    return 0


def _number(file: BinaryIO, marked: bool) -> int | None:
    """A number of variable length; None where it is not stated, or is none.

    ``marked``: an element's name, which the mark of its length belongs to.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    data = first + file.read(extra)
    if len(data) <= extra:
        return None
    number = int.from_bytes(data, "big")
    if marked:
        return number
    mark = 1 << 7 * (extra + 1)
    return None if number == 2 * mark - 1 else number - mark


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box ends by its own size; 0: not known."""
    start = 0
    for _ in range(_MOST_PARTS):
        if start >= size:
            return start
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return 0
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if length < 8 or (kind not in _BOXES and start + length > size):
            return 0  # to the end of the file, or no box
        start += length
    return 0
