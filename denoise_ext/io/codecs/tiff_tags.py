"""The directories (IFDs) of a TIFF file: read from and written to either byte order and size.

Source of the layout: TIFF revision 6.0, section 2; BigTIFF design by the libtiff project.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

TYPE_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
    16: 8, 17: 8, 18: 8,
}  # fmt: skip
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD, LONG8 = 1, 2, 3, 4, 5, 7, 13, 16
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
EXIF_IFD, GPS_IFD, INTEROP_IFD = 34665, 34853, 40965
_SUB_DIRECTORIES = (EXIF_IFD, GPS_IFD, INTEROP_IFD)
_MAX_DEPTH = 3  # IFD0 -> EXIF -> interoperability
_MAX_VALUE = 1 << 26  # bytes of one tag: 64 MiB
_MAX_PAGES = 100_000
_MAX_TAGS = 1 << 22  # of all directories


@dataclass(frozen=True)
class Tag:
    """One entry: its value as the bytes of the file, or the tags of a directory of its own."""

    type: int
    count: int
    value: bytes | dict[int, Tag]


@dataclass(frozen=True)
class Directory:
    """A page: its tags by number."""

    tags: dict[int, Tag]
    order: str  # "<" or ">"

    def integers(self, code: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The numbers of an integer tag; the default if it is absent or of another type."""
        tag = self.tags.get(code)
        if tag is None or tag.type not in _INTEGERS or not isinstance(tag.value, bytes):
            return default
        return struct.unpack(f"{self.order}{tag.count}{_INTEGERS[tag.type]}", tag.value)

    def integer(self, code: int, default: int) -> int:
        """The first number of an integer tag."""
        return (self.integers(code) or (default,))[0]

    def text(self, code: int) -> str:
        """The text of an ASCII tag; empty if it is absent."""
        tag = self.tags.get(code)
        if tag is None or not isinstance(tag.value, bytes):
            return ""
        return tag.value.rstrip(b"\0").decode("latin1")


@dataclass(frozen=True)
class Layout:
    """Byte order and size of offsets, from the first bytes of a file."""

    order: str
    big: bool
    first: int  # offset of the first directory

    @classmethod
    def of(cls, head: bytes) -> Layout:
        """Raises ValueError if the bytes do not begin a TIFF."""
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is not None and len(head) >= 8:
            (version,) = struct.unpack_from(order + "H", head, 2)
            if version == 42:
                return cls(order, False, struct.unpack_from(order + "I", head, 4)[0])
            if version == 43 and len(head) >= 16:
                return cls(order, True, struct.unpack_from(order + "Q", head, 8)[0])
        raise ValueError("not a TIFF header")


def read_pages(stream: IO[bytes]) -> tuple[Layout, list[Directory]]:
    """All directories of the file. Raises ValueError where the structure is damaged."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    layout = Layout.of(stream.read(16))
    reader = _Reader(stream, layout, size)
    pages: list[Directory] = []
    seen, at = set(), layout.first
    while at:
        if at in seen or len(pages) >= _MAX_PAGES:
            raise ValueError("the list of its pages runs in a circle")
        seen.add(at)
        tags, at = reader.directory(at, 1)
        pages.append(Directory(tags, layout.order))
    if not pages:
        raise ValueError("it has no page")
    return layout, pages


class _Reader:
    """Reads directories; what several tags share is read and kept once.

    In a sound file nothing else overlaps: all values together fit the file's size. A small file
    in which they do not could take any amount of memory.
    """

    def __init__(self, stream: IO[bytes], layout: Layout, size: int):
        self._stream, self._layout, self._size = stream, layout, size
        self._values: dict[tuple[int, int], bytes] = {}
        self._directories: dict[tuple[int, int], dict[int, Tag]] = {}
        self._bytes = self._tags = 0  # read so far

    def directory(self, at: int, depth: int) -> tuple[dict[int, Tag], int]:
        """Its tags, and where the next one begins."""
        stream, order, count_size, entry_size, room = self._stream, self._layout.order, 2, 12, 4
        if self._layout.big:
            count_size, entry_size, room = 8, 20, 8
        stream.seek(at)
        count = _unpack(stream.read(count_size), order + ("Q" if self._layout.big else "H"))
        if count * entry_size > min(self._size, 1 << 20):
            raise ValueError(f"a directory of {count} tags")
        self._tags += count
        if self._tags > min(_MAX_TAGS, self._size // entry_size):
            raise ValueError(f"its directories overlap, or hold more than {_MAX_TAGS} tags")
        entries = stream.read(count * entry_size)
        ending = stream.read(room)
        if len(entries) != count * entry_size:
            raise ValueError("a directory is truncated")
        following = _unpack(ending, order + ("Q" if self._layout.big else "I"))
        tags = {}
        for start in range(0, len(entries), entry_size):
            entry = entries[start : start + entry_size]
            form = order + ("HHQ" if self._layout.big else "HHI")
            code, kind, number = struct.unpack(form, entry[:-room])
            if kind not in TYPE_SIZES:
                continue  # "readers should skip over fields containing an unexpected field type"
            length = number * TYPE_SIZES[kind]
            data = entry[-room:][:length]
            if length > room:
                place = _unpack(entry[-room:], order + ("Q" if self._layout.big else "I"))
                data = self._value(code, place, length)
            value: bytes | dict[int, Tag] = data
            if code in _SUB_DIRECTORIES and depth < _MAX_DEPTH and 0 < number <= 1:
                place = _unpack(data, order + _INTEGERS.get(kind, "I"))
                value = self._sub_directory(place, depth + 1)
            tags[code] = Tag(kind, number, value)
        return tags, following

    def _value(self, code: int, place: int, length: int) -> bytes:
        if length > _MAX_VALUE or place + length > self._size:
            raise ValueError(f"tag {code} lies outside of the file")
        if (place, length) not in self._values:
            self._bytes += length
            if self._bytes > self._size:
                raise ValueError(f"tag {code} overlaps others: together they exceed the file")
            self._stream.seek(place)
            self._values[place, length] = self._stream.read(length)
        return self._values[place, length]

    def _sub_directory(self, at: int, depth: int) -> dict[int, Tag]:
        if (at, depth) not in self._directories:
            self._directories[at, depth], _ = self.directory(at, depth)
        return self._directories[at, depth]


def _unpack(data: bytes, form: str) -> int:
    if len(data) != struct.calcsize(form):
        raise ValueError("it is truncated")
    return struct.unpack(form, data)[0]


class Writer:
    """Writes directories behind what they refer to, onto a stream that can seek."""

    def __init__(self, stream: IO[bytes], order: str, big: bool):
        self._stream, self._order, self._big = stream, order, big
        self._offset = order + ("Q" if big else "I")
        self._base = stream.tell()
        mark = b"II" if order == "<" else b"MM"
        stream.write(mark + struct.pack(order + "H", 43 if big else 42))
        stream.write(struct.pack(order + "HH", 8, 0) if big else b"")
        self._link = self._write_aligned(struct.pack(self._offset, 0))

    def integers(self, values: Iterable[int], kind: int = LONG) -> Tag:
        """A tag of integers; LONG becomes LONG8 in a BigTIFF."""
        values = list(values)
        kind = LONG8 if self._big and kind == LONG else kind
        data = struct.pack(f"{self._order}{len(values)}{_INTEGERS[kind]}", *values)
        return Tag(kind, len(values), data)

    def data(self, chunks: Iterable[bytes]) -> tuple[list[int], list[int]]:
        """Write pieces of pixel data; their offsets and lengths."""
        offsets, lengths = [], []
        for chunk in chunks:
            offsets.append(self._write_aligned(chunk))
            lengths.append(len(chunk))
        return offsets, lengths

    def page(self, tags: dict[int, Tag]) -> None:
        """Write a directory and hang it onto the list of pages."""
        at, link = self._directory(tags)
        self._stream.seek(self._base + self._link)
        self._stream.write(struct.pack(self._offset, at))
        self._stream.seek(0, io.SEEK_END)
        self._link = link

    def _write_aligned(self, data: bytes) -> int:
        """Append; the offset, which must be even."""
        at = self._stream.tell() - self._base
        if at % 2:
            self._stream.write(b"\0")
            at += 1
        self._stream.write(data)
        return at

    def _directory(self, tags: dict[int, Tag]) -> tuple[int, int]:
        room = 8 if self._big else 4
        entries = []
        for code, tag in sorted(tags.items()):
            value = tag.value
            if isinstance(value, dict):
                at, _ = self._directory(value)
                kind, count, value = tag.type, 1, struct.pack(self._offset, at)
                kind = {True: 18 if kind in (13, 18) else LONG8, False: LONG}[self._big]
            else:
                kind, count = tag.type, tag.count
            if len(value) > room:
                value = struct.pack(self._offset, self._write_aligned(value))
            form = self._order + ("HHQ" if self._big else "HHI")
            entries.append(struct.pack(form, code, kind, count) + value.ljust(room, b"\0"))
        head = struct.pack(self._order + ("Q" if self._big else "H"), len(entries))
        at = self._write_aligned(head + b"".join(entries))
        return at, self._write_aligned_link()

    def _write_aligned_link(self) -> int:
        at = self._stream.tell() - self._base
        self._stream.write(struct.pack(self._offset, 0))
        return at


def swapped(tags: dict[int, Tag], old: str, new: str) -> dict[int, Tag]:
    """The tags with their values in another byte order."""
    if old == new:
        return tags
    return {code: _swapped_tag(tag, old, new) for code, tag in tags.items()}


def _swapped_tag(tag: Tag, old: str, new: str) -> Tag:
    if isinstance(tag.value, dict):
        return Tag(tag.type, tag.count, swapped(tag.value, old, new))
    unit = {5: 4, 10: 4}.get(tag.type, TYPE_SIZES[tag.type])
    pieces = (tag.value[i : i + unit][::-1] for i in range(0, len(tag.value), unit))
    return Tag(tag.type, tag.count, b"".join(pieces))


def exif_tags(block: bytes) -> tuple[dict[int, Tag], str]:
    """The tags of an EXIF block's first directory, and their byte order."""
    _, pages = read_pages(io.BytesIO(block))
    return pages[0].tags, pages[0].order


def exif_block(tags: dict[int, Tag], order: str) -> bytes:
    """An EXIF block (without ``Exif\\0\\0``) holding these tags."""
    block = io.BytesIO()
    Writer(block, order, False).page(tags)
    return block.getvalue()


def walk(tags: dict[int, Tag]) -> Iterator[tuple[int, Tag]]:
    """Every tag that is no directory, those of sub-directories included."""
    for code, tag in tags.items():
        if isinstance(tag.value, dict):
            yield from walk(tag.value)
        else:
            yield code, tag
