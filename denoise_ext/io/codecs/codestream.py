"""Sizes that a JPEG, JPEG-LS or JPEG 2000 stream states, read without decoding it."""

from __future__ import annotations

import struct

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"  # start of image; codestream and its SIZ
_JP2 = b"\0\0\0\x0cjP  "  # first box of a JPEG 2000 file
# Start of frame: baseline to lossless, and JPEG-LS. C4, C8 and CC are other markers.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_END = {0xD9, 0xDA}  # of the image, and the start of its coded samples


def stated_size(data: bytes) -> tuple[int, int, int] | None:
    """Width, height and number of channels; None if the stream states none.

    Sources: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 and I.4 (JPEG 2000, also in
    a file with boxes).
    """
    if data[:2] == _JPEG:
        return _of_jpeg(data)
    start = _of_codestream(data) if data.startswith(_JP2) else 0
    if data[start : start + 4] != _JPEG_2000 or len(data) < start + 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    return max(right - left, 0), max(bottom - top, 0), channels


def _of_codestream(data: bytes) -> int:
    """Where the codestream of a JPEG 2000 file begins; its end if there is none.

    A box shorter than its own header ends the search. pydicom's search would not end.
    """
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"jp2c":
            return at + 8
        if length < 8:
            break
        at += length
    return len(data)


def _of_jpeg(data: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in _ALONE:
            at += 1 if data[at] != 0xFF else 2
        elif marker == 0xFF:  # any number of these may stand before a marker
            at += 1
        elif marker in _FRAMES:
            if at + 10 > len(data):
                return None
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            return width, height, channels
        elif marker in _END:
            return None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
