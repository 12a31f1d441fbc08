"""`Codec`, and `Source`: the file that a codec reads."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from denoise_ext.io.errors import ImageError, optional
from denoise_ext.io.picture import Picture

ALL_MODES = ("gray", "gray+alpha", "rgb", "rgba")
_CHANNELS = {"gray": "gray", "gray+alpha": "gray and alpha", "rgb": "RGB", "rgba": "RGB and alpha"}


_BLOCK = 1 << 24  # bytes read at once: 16 MiB


def read_up_to(stream: IO[bytes], size: int) -> bytearray:
    """Up to `size` bytes of a stream, in memory for those that are there and not for `size`."""
    data = bytearray()
    while len(data) < size and (block := stream.read(min(size - len(data), _BLOCK))):
        data += block
    return data


class Source:
    """A seekable stream of a file's bytes, the name it has in messages, and the pixel limit.

    `path` is that of a file on disk, None of bytes and streams.
    """

    def __init__(self, stream: IO[bytes], name: str, max_pixels: int, path: str | None = None):
        self.stream = stream
        self.name = name
        self.max_pixels = max_pixels
        self.size: int = stream.seek(0, io.SEEK_END)
        self.path = path
        stream.seek(0)

    def head(self, size: int) -> bytes:
        """The first bytes; the position is at the start afterwards."""
        self.stream.seek(0)
        start = self.stream.read(size)
        self.stream.seek(0)
        return start

    def error(self, text: str) -> ImageError:
        """Return the error; `text` is the reason, which follows the name: "has CMYK pixels"."""
        return ImageError(f"{self.name} {text}")

    def optional(self, module: str, extra: str, what: str) -> Any:
        """Import what reading this file needs; `what` it holds begins the message if missing."""
        return optional(module, extra, f"{self.name} {what}, which")

    def check_pixels(self, width: int, height: int, frames: int = 1, others: int = 0) -> int:
        """Refuse more pixels than allowed; `others` were counted before. Gives the sum."""
        if width < 1 or height < 1 or frames < 1:
            raise self.error(f"states {frames} frames of {width} x {height}: there is no pixel")
        total = width * height * frames + others
        if total > self.max_pixels:
            several = f" x {frames} frames" if frames > 1 else ""
            more = f" + {others} on other pages" if others else ""
            raise self.error(
                f"states {width} x {height}{several}{more} = {total} pixels, more than the"
                f" limit of {self.max_pixels} (max_pixels)"
            )
        return total

    @contextlib.contextmanager
    def as_file(self, suffix: str) -> Iterator[str]:
        """A path for libraries that open files only; a stream is copied to a temporary file."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.NamedTemporaryFile(suffix=suffix) as copy:
            self.stream.seek(0)
            shutil.copyfileobj(self.stream, copy)
            copy.flush()
            yield copy.name


@dataclass(frozen=True)
class Codec:
    """A file format: how it is recognised, read and written, and what it can hold."""

    name: str
    suffixes: tuple[str, ...]
    """Lower case, the one to write first."""
    sniff: Callable[[bytes], bool]
    """Whether the first 1024 bytes of a file are of this format."""
    read: Callable[[Source], Picture]
    write: Callable[[IO[bytes], Picture], object] | None
    """None: read only."""
    holds: Mapping[str, tuple[str, ...]]
    """Mode -> names of the dtypes that are written exactly."""
    many_frames: bool = False
    keeps: tuple[str, ...] = ()
    """Of the metadata that can go from one format to another: "icc", "exif", "xmp",
    "resolution"."""
    alpha: tuple[str, ...] = ("straight",)
    """"straight" and/or "premultiplied"."""
    only_from: tuple[str, ...] = ()
    """Formats whose pictures can be written in it; empty: all. (A scan needs its patient.)"""
    refuse_suffix: Callable[[str, Picture], str | None] = lambda suffix, picture: None
    """Why this picture must not have this suffix of the format."""
    write_lossy: Callable[[IO[bytes], Picture, int], object] | None = None
    """Writes at a quality from 0 to 100; None: the format is written without a loss alone."""
    exact: bool = True
    """Whether ``write`` keeps every pixel as it is."""

    def why_not(self, picture: Picture, suffix: str = "") -> str | None:
        """Why the picture cannot be written in this format; None if it can."""
        if self.write is None:
            return f"{self.name} is read only"
        if self.only_from and picture.format not in self.only_from:
            return f"{self.name} is written only from {' and '.join(self.only_from)} files"
        if self.only_from and picture.metadata.native is None:
            return (
                f"{self.name} cannot hold a picture at another size, or without the header of such"
                " a file: the header has the size"
            )
        if len(picture.frames) > 1 and not self.many_frames:
            return f"{self.name} cannot hold {len(picture.frames)} frames"
        dtypes = self.holds.get(picture.mode, ())
        if not dtypes:
            return f"{self.name} cannot hold {_CHANNELS[picture.mode]}"
        alpha = "premultiplied" if picture.metadata.premultiplied else "straight"
        if picture.mode in ("gray+alpha", "rgba") and alpha not in self.alpha:
            return f"{self.name} cannot hold {alpha} alpha"
        for frame in picture.frames:
            if frame.dtype.name not in dtypes:
                depth = f"{frame.dtype.itemsize * 8}-bit " if frame.dtype != bool else ""
                return (
                    f"{self.name} cannot hold {depth}{_CHANNELS[picture.mode]}"
                    f" ({frame.dtype.name}), only {', '.join(dtypes)}"
                )
        lost = [part for part in picture.metadata.required if part not in self.keeps]
        if lost:
            return f"{self.name} has no place for {lost[0].upper()}, which states how it was made"
        return self.refuse_suffix(suffix, picture)


def holds(modes: tuple[str, ...], *dtypes: str) -> dict[str, tuple[str, ...]]:
    """The same dtypes for several modes, in the form of `Codec.holds`."""
    return dict.fromkeys(modes, dtypes)
