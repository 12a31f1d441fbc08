"""PBM, PGM, PPM, PAM and PFM: 1- to 16-bit with any maximum, and 32-bit float; comments are kept.

Read and written here, since Pillow cuts 16-bit colour to 8 bits and scales by the maximum.
Source of the layout: the manual pages pbm(5), pgm(5), ppm(5), pam(5) and pfm(5) of Netpbm.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from typing import IO

import numpy as np

from denoise_ext.io.codecs.base import ALL_MODES, Codec, Source, holds
from denoise_ext.io.picture import Metadata, Picture, mode_of, value_range_of

_CHANNELS = {"1": 1, "2": 1, "3": 3, "4": 1, "5": 1, "6": 3, "F": 3, "f": 1}
_TUPLE_TYPES = {
    1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"
}  # fmt: skip
_MAX_HEADER = 1 << 16
_MAX_DIGITS = 16  # of a number in a text file, leading zeros included


@dataclass(frozen=True)
class _Header:
    kind: str  # the character after "P"
    comments: tuple[bytes, ...]
    scale: float  # PFM only: its sign is the byte order, negative for little-endian


def _read(source: Source) -> Picture:
    head = source.head(_MAX_HEADER)
    kind = chr(head[1])
    if kind == "7":
        width, height, channels, maximum, at, comments = _pam_header(source, head)
        scale = 1.0
    else:
        words, at, comments = _header_words(source, head, 2 if kind in "14" else 3)
        width, height = int(words[0]), int(words[1])
        channels = _CHANNELS[kind]
        maximum = 1 if kind in "14" or kind in "Ff" else int(words[2])
        scale = float(words[2]) if kind in "Ff" else 1.0
    source.check_pixels(width, height)
    if not (1 <= channels <= 4 and 1 <= maximum <= 65535 and math.isfinite(scale) and scale):
        raise source.error(f"has {channels} channels up to {maximum}; 1..4 up to 65535 are read")
    source.stream.seek(at)
    shape = (height, width, channels)
    frame = _pixels(source, kind, shape, maximum, scale)
    frame = frame[:, :, 0] if channels == 1 else frame
    if frame.dtype.kind == "u":
        if frame.max() > maximum:
            raise ValueError(f"a number is above the stated maximum of {maximum}")
        value_range = (0.0, float(maximum))
    else:
        value_range = value_range_of([frame])
    metadata = Metadata(native=_Header(kind, comments, scale))
    return Picture((frame,), value_range, mode_of(frame), "PNM", metadata)


def _header_words(
    source: Source, head: bytes, count: int
) -> tuple[list[bytes], int, tuple[bytes, ...]]:
    """The numbers after the magic, where the pixels begin, and the comments between."""
    words: list[bytes] = []
    comments, at = [], 2
    while len(words) < count:
        while at < len(head) and (head[at : at + 1].isspace() or head[at] == ord("#")):
            if head[at] == ord("#"):
                end = head.find(b"\n", at)
                if end < 0:
                    raise source.error("is a PNM file with a damaged header")
                comments.append(head[at:end])
                at = end
            at += 1
        start = at
        while at < len(head) and not head[at : at + 1].isspace():
            at += 1
        if start == at:
            raise source.error("is a PNM file with a damaged or truncated header")
        words.append(head[start:at])
    return words, at + 1, tuple(comments)


def _pam_header(source: Source, head: bytes) -> tuple[int, int, int, int, int, tuple[bytes, ...]]:
    fields, comments, at = {}, [], 3
    while True:
        end = head.find(b"\n", at)
        if end < 0:
            raise source.error("is a PAM file with a damaged or truncated header")
        line, at = head[at:end].strip(), end + 1
        if line == b"ENDHDR":
            break
        if line.startswith(b"#"):
            comments.append(line)
        elif line:
            name, _, value = line.partition(b" ")
            fields[name.decode("latin1")] = value.strip()
    names = ("WIDTH", "HEIGHT", "DEPTH", "MAXVAL")
    width, height, depth, maximum = (int(fields[name]) for name in names)
    return width, height, depth, maximum, at, tuple(comments)


def _pixels(
    source: Source, kind: str, shape: tuple[int, int, int], maximum: int, scale: float
) -> np.ndarray:
    height, width, channels = shape
    if kind in "123":
        return _text_pixels(source, kind, shape, maximum)
    if kind == "4":
        packed = _raw(source, np.uint8, (height, (width + 7) // 8))
        return ~np.unpackbits(packed, axis=1, count=width).astype(bool)[:, :, None]  # 1 is black
    if kind in "Ff":
        pixels = _raw(source, "<f4" if scale < 0 else ">f4", shape)[::-1]  # bottom row first
    else:
        pixels = _raw(source, np.uint8 if maximum < 256 else ">u2", shape)
        if kind == "7" and maximum == 1 and channels == 1:
            return pixels != 0
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))


def _raw(source: Source, kind: type[np.generic] | str, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(kind)
    size = math.prod(shape) * dtype.itemsize
    if source.size - source.stream.tell() < size:
        raise source.error("is truncated: it has fewer pixels than its header states")
    return np.frombuffer(bytearray(source.stream.read(size)), dtype).reshape(shape)


def _text_pixels(
    source: Source, kind: str, shape: tuple[int, int, int], maximum: int
) -> np.ndarray:
    count = math.prod(shape)
    if source.size - source.stream.tell() < count:  # at least a character each
        raise source.error("is truncated: it has fewer pixels than its header states")
    text = source.stream.read(count * 16 + _MAX_HEADER)  # generous: numbers have up to 5 digits
    text = re.sub(rb"#[^\n]*", b"", text)
    if kind == "1":  # digits need no space between them
        digits = np.frombuffer(text, np.uint8)
        numbers = digits[(digits == ord("0")) | (digits == ord("1"))][:count] == ord("0")
    else:
        space = np.isin(np.frombuffer(b" " + text, np.uint8), list(b" \t\n\v\f\r"))
        starts = np.flatnonzero(space[:-1] & ~space[1:])  # of the words
        if len(starts) < count:  # np.fromstring would make up the rest
            raise source.error("is truncated: it has fewer pixels than its header states")
        text = text[: starts[count]] if len(starts) > count else text
        if re.search(rb"[^\s]{%d}" % _MAX_DIGITS, text):
            raise ValueError(f"a number of {_MAX_DIGITS} digits or more")
        if odd := re.search(rb"[^0-9\s]", text):
            raise ValueError(f"a pixel is not a number of digits: it has {odd[0]!r}")
        numbers = np.fromstring(text, np.int64, count, sep=" ")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= maximum:
            raise ValueError(f"a number is outside 0..{maximum}")
        numbers = numbers.astype(np.uint8 if maximum < 256 else np.uint16)
    if len(numbers) != count:
        raise source.error("is truncated: it has fewer pixels than its header states")
    return numbers.reshape(shape)


def _write(stream: IO[bytes], picture: Picture) -> None:
    (frame,) = picture.frames
    native = picture.metadata.native
    header = native if isinstance(native, _Header) else _Header("", (), -1.0)
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    height, width = frame.shape[:2]
    if frame.dtype == np.float32:
        scale = math.copysign(header.scale, -1 if sys.byteorder == "little" else 1)
        kind, last, pixels = "f" if channels == 1 else "F", f"{scale:g}\n", frame[::-1]
    elif frame.dtype == np.bool_ and header.kind != "7":
        kind, last, pixels = "4", "", np.packbits(~frame, axis=1)
    else:
        maximum = _maximum(picture, frame)
        kind = "7" if header.kind == "7" or channels in (2, 4) else "5" if channels == 1 else "6"
        last, pixels = f"{maximum}\n", frame.astype(np.uint8 if maximum < 256 else ">u2")
    comments = b"".join(comment + b"\n" for comment in header.comments)
    if kind == "7":
        tuple_type = "BLACKANDWHITE" if frame.dtype == np.bool_ else _TUPLE_TYPES[channels]
        size = f"WIDTH {width}\nHEIGHT {height}\nDEPTH {channels}\nMAXVAL {last}"
        stream.write(b"P7\n" + comments)
        stream.write(f"{size}TUPLTYPE {tuple_type}\nENDHDR\n".encode())
    else:
        stream.write(f"P{kind}\n".encode() + comments + f"{width} {height}\n{last}".encode())
    stream.write(np.ascontiguousarray(pixels).data)


def _maximum(picture: Picture, frame: np.ndarray) -> int:
    """The file's own maximum, if all numbers are at most that."""
    if frame.dtype == np.bool_:
        return 1
    largest = int(frame.max())
    stated = picture.value_range[1]
    full = int(np.iinfo(frame.dtype).max)
    return int(stated) if stated == int(stated) and largest <= stated <= full else full


def _refuse_suffix(suffix: str, picture: Picture) -> str | None:
    kind = picture.frames[0].dtype.name
    fits = {
        ".pbm": kind == "bool",
        ".pgm": picture.mode == "gray" and kind in ("uint8", "uint16"),
        ".ppm": picture.mode == "rgb" and kind in ("uint8", "uint16"),
        ".pfm": kind == "float32",
        ".pam": kind != "float32",
    }
    if fits.get(suffix, True):
        return None
    what = {
        ".pbm": "two-level images", ".pgm": "gray images", ".ppm": "RGB images",
        ".pfm": "32-bit floating-point images", ".pam": "integer images",
    }[suffix]  # fmt: skip
    return f"this suffix is for {what}, got {picture.mode} {kind}"


CODEC = Codec(
    name="PNM",
    suffixes=(".pnm", ".pgm", ".ppm", ".pbm", ".pam", ".pfm"),
    sniff=lambda head: (
        head[:1] == b"P"
        and head[1:2] in b"1234567Ff"
        and head[2:3] in b" \t\r\n#"
        and len(head) > 2
    ),
    read=_read,
    write=_write,
    holds={
        **holds(ALL_MODES, "uint8", "uint16"),
        "gray": ("bool", "uint8", "uint16", "float32"),
        "rgb": ("uint8", "uint16", "float32"),
    },
    refuse_suffix=_refuse_suffix,
)
