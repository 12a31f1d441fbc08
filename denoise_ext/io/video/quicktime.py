"""QuickTime files with a compressed header, which FFmpeg inflates without a limit of its own."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

# In bytes. The index of a film of ten hours takes a few MiB.
LARGEST_HEADER = 64 << 20
_CHUNK = 1 << 20
_MARK = b"cmvd"  # the type of the box; 4 bytes with the inflated size follow
_SKIPPED = {b"mdat", b"free", b"skip"}  # pixels, sound and padding: FFmpeg reads no box in there


def inflated_header_bytes(path: str | os.PathLike[str]) -> int:
    """The largest inflated size that a compressed header states; 0 without one.

    Follows the boxes at the top of an ISO base media or QuickTime file, and ends at what is no box.
    Source: QuickTime File Format, "Compressed Movie Resources".
    """
    largest = 0
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        start = 0
        while start + 8 <= end:
            file.seek(start)
            size, kind = struct.unpack(">I4s", file.read(8))
            if size == 1:
                size = int.from_bytes(file.read(8), "big")
            elif size == 0:
                size = end - start
            if size < 8:
                break
            if kind not in _SKIPPED:
                largest = max(largest, _stated(file, start, min(start + size, end)))
            start += size
    return largest


def _stated(file: BinaryIO, start: int, end: int) -> int:
    """The largest size after a mark between two offsets of a file."""
    file.seek(start)
    largest, kept = 0, b""
    while start < end and (chunk := file.read(min(_CHUNK, end - start))):
        start += len(chunk)
        data = kept + chunk
        at = data.find(_MARK)
        while 0 <= at <= len(data) - 8:
            largest = max(largest, int.from_bytes(data[at + 4 : at + 8], "big"))
            at = data.find(_MARK, at + 4)
        kept = data[-7:]  # a mark that this chunk has in part
    return largest
