"""YUV4MPEG2 (y4m): raw frames behind a line of text, the format of pipes between video programs.

Source: the manual page yuv4mpeg(5) of mjpegtools. Names of formats with more than 8 bits, such as
``420p10``, and of the colour range are those of FFmpeg.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from denoise_ext.io.errors import ImageError, reason_of, shown
from denoise_ext.io.read import DEFAULT_MAX_PIXELS, check_max_pixels
from denoise_ext.io.video.frames import Colour, VideoFrame
from denoise_ext.io.video.source import USUAL_RATE, Video, VideoInfo, check_frame_size

MAGIC = b"YUV4MPEG2"
_FRAME = b"FRAME"
LONGEST_LINE = 1024  # bytes of a header; those of other programs have about 100
_MOST_DIGITS = 9
# subsampling of chroma -> how many columns and rows share a number
_SHARED = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1), "440": (1, 2)}
_DEPTHS = (9, 10, 12, 14, 16)
_TAG = re.compile(r"(mono|420|422|444|411|440)(?:(?:jpeg|mpeg2|paldv)|p?(\d+))?")
_RANGE = "XCOLORRANGE="
_LATE = 0.5  # of a frame's time, from which on a frame counts as not being on time


class Y4MVideo(Video):
    """A y4m stream being read. Nothing is sought in it: a pipe will do.

    Args:
        stream: read, not closed.
        path: its name in messages.
        max_pixels: refuse frames with more.

    Raises:
        ImageError: no y4m, or pixels of a kind that is not read.
    """

    def __init__(
        self, stream: BinaryIO, path: str = "-", max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> None:
        super().__init__(path)
        check_max_pixels(max_pixels)
        self._stream = stream
        try:
            line = stream.readline(LONGEST_LINE)
        except OSError as error:
            raise ImageError(f"{shown(path)} cannot be read: {reason_of(error)}") from error
        words = line[:-1].decode("ascii", "replace").split(" ")
        if not line.endswith(b"\n") or words[0] != MAGIC.decode():
            found = repr(line[:16])
            what = "is empty" if not line else f"is no y4m stream: it begins with {found}"
            raise ImageError(f"{shown(path)} {what}")
        tags = {word[0]: word[1:] for word in words[1:] if word and word[0] != "X"}
        width, height = (self._size(tags, letter) for letter in "WH")
        check_frame_size(path, width, height, max_pixels)
        rate = self._ratio(tags, "F")
        self.pixel_shape: Fraction | None = self._ratio(tags, "A")
        self.time_base: Fraction = 1 / (rate or USUAL_RATE)
        name, bits, shared = _format_of(tags.get("C", "420jpeg"), path)
        self.info: VideoInfo = VideoInfo(width, height, None, rate, name, "rawvideo")
        comments = [word for word in words[1:] if word.startswith("X")]
        full = f"{_RANGE}FULL" in comments
        if full or f"{_RANGE}LIMITED" in comments:
            self.colour: dict[str, int] = {"color_range": 2 if full else 1}
        kind = "gray" if shared is None else "ycbcr"
        self._colour = Colour(kind, bits, full or (kind == "gray" and not self.colour))
        self._shapes = [(height, width)]
        if shared is not None:
            self._shapes += [(-(-height // shared[1]), -(-width // shared[0]))] * 2
        self.tags: list[str] = [f"I{tags['I']}"] if tags.get("I") else []
        self.tags += [f"C{tags['C']}"] if tags.get("C") else []
        self.tags += comments
        if tags.get("I", "p") in ("t", "b", "m"):
            self._note_interlaced(0)

    def close(self) -> None:
        """The stream stays open: the caller has opened it."""

    def __iter__(self) -> Iterator[VideoFrame]:
        """See `Video`. A stream that breaks off in a frame ends before it; `broken` has why."""
        number = 0
        while (planes := self._planes(number)) is not None:
            yield VideoFrame(planes, self._colour, number, self.time_base)
            number += 1
        if not number:
            why = self.broken or "no frame"
            raise ImageError(f"{shown(self.path)} holds no frame that can be read: {why}")

    def _planes(self, number: int) -> tuple[np.ndarray, ...] | None:
        """The next frame; None at the end of the stream, and where it is damaged."""
        try:
            line = self._stream.readline(LONGEST_LINE)
            if not line:
                return None
            if not (line.startswith(_FRAME) and line[len(_FRAME) :][:1] in (b"\n", b" ")):
                self.broken: str = (
                    f"frame {number} does not begin with FRAME but with {line[:16]!r}"
                )
                return None
            if not line.endswith(b"\n"):
                self.broken = f"frame {number} has a header without end"
                return None
            kind = np.dtype("u1" if self._colour.bits == 8 else "<u2")
            planes = [np.empty(shape, kind) for shape in self._shapes]
            missing = sum(plane.nbytes - _fill(self._stream, plane) for plane in planes)
        except OSError as error:
            self.broken = f"frame {number} cannot be read: {reason_of(error)}"
            return None
        if missing:
            size = sum(plane.nbytes for plane in planes)
            self.broken = f"frame {number} breaks off after {size - missing} of {size} bytes"
            return None
        most = (1 << self._colour.bits) - 1
        if self._colour.bits in (9, 10, 12, 14):  # bits above those of a pixel
            planes = [np.minimum(plane, most, out=plane) for plane in planes]
        return tuple(planes)

    def _size(self, tags: dict[str, str], letter: str) -> int:
        text = tags.get(letter, "")
        if not re.fullmatch(rf"0*[1-9]\d{{0,{_MOST_DIGITS - 1}}}", text, re.ASCII):
            raise ImageError(
                f"{shown(self.path)} must state {letter} (pixels) as a number from 1 on,"
                f" got {text[:32]!r}"
            )
        return int(text)

    def _ratio(self, tags: dict[str, str], letter: str) -> Fraction | None:
        """A tag such as F30000:1001; None where it is not there, or 0:0."""
        text = tags.get(letter, "0:0")
        match = re.fullmatch(rf"(\d{{1,{_MOST_DIGITS}}}):(\d{{1,{_MOST_DIGITS}}})", text, re.ASCII)
        if match is None:
            raise ImageError(
                f"{shown(self.path)} must state {letter} as two numbers, such as 25:1,"
                f" got {text[:32]!r}"
            )
        above, below = int(match[1]), int(match[2])
        return Fraction(above, below) if above and below else None


def _format_of(tag: str, path: str) -> tuple[str, int, tuple[int, int] | None]:
    """FFmpeg's name, bits, and how chroma is subsampled (None: gray)."""
    match = _TAG.fullmatch(tag)
    bits = int(match[2] or 8) if match else 0
    if match is None or bits not in (8, *_DEPTHS) or (match[1] in ("411", "440") and bits > 8):
        raise ImageError(
            f"{shown(path)} has pixels of format C{tag[:32]!r}; mono, 420, 422 and 444 with 8 to"
            " 16 bits, 411 and 440 with 8 are read"
        )
    name = "gray" if match[1] == "mono" else f"yuv{match[1]}p"
    return name + (f"{bits}le" if bits > 8 else ""), bits, _SHARED.get(match[1])


def _fill(stream: BinaryIO, plane: np.ndarray) -> int:
    """Read a plane; returns how many bytes there were."""
    view = plane.data.cast("B")
    done = 0
    while done < len(view) and (count := stream.readinto(view[done:])):  # type: ignore[attr-defined]
        done += count
    return done


def y4m_format(pixel_format: str) -> str:
    """The tag of a pixel format by FFmpeg's name, without C.

    Raises ImageError: y4m has none, as for RGB.

    Example:
        >>> denoise_ext.io.video.y4m_format("yuv420p10le")
        '420p10'
    """
    match = re.fullmatch(r"(gray|yuvj?(420|422|444|411|440)p)(?:(\d+)le)?", pixel_format)
    bits = int(match[3] or 8) if match else 0
    fits = bits == 8 or (bits in _DEPTHS and match is not None and match[2] not in ("411", "440"))
    if match is None or not fits:
        raise ImageError(f"y4m cannot hold pixels of format {pixel_format}; a file (.mkv) can")
    if match[1] == "gray":
        return "mono" + (str(bits) if bits > 8 else "")
    depth = f"p{bits}" if bits > 8 else "jpeg" if match[2] == "420" else ""
    return match[2] + depth


def y4m_header(video: Video) -> bytes:
    """The first line for frames like those of a video."""
    info, rate = video.info, video.info.frame_rate or USUAL_RATE
    shape = video.pixel_shape or Fraction(0)
    tags = video.tags
    if not tags:
        full = video.colour.get("color_range") == 2
        limited = video.colour.get("color_range") == 1
        tags = ["Ip", f"C{y4m_format(info.pixel_format)}"]
        tags += [f"{_RANGE}{'FULL' if full else 'LIMITED'}"] if full or limited else []
    interlacing = [tag for tag in tags if tag[0] == "I"]
    words = [
        MAGIC.decode(),
        f"W{info.width}",
        f"H{info.height}",
        f"F{rate.numerator}:{rate.denominator}",
        *interlacing,
        f"A{shape.numerator}:{shape.denominator if shape else 0}",
        *(tag for tag in tags if tag[0] != "I"),
    ]
    return " ".join(words).encode("ascii", "replace") + b"\n"


def write_y4m(stream: BinaryIO, frames: Iterable[VideoFrame], like: Video) -> list[str]:
    """Write frames to a stream as y4m, each at once, for the program that reads them.

    Args:
        stream: binary; not closed.
        frames: as read from `like`, changed or not; taken one at a time.
        like: the video they come from.

    Returns:
        Remarks for the user: that frames are not at equal times, which y4m cannot hold.

    Raises:
        ImageError: pixels that y4m cannot hold.
        OSError: the stream cannot be written; its `frame` is the number of the frame.

    Example:
        >>> with denoise_ext.io.video.read_video("film.y4m") as film:
        ...     with open("copy.y4m", "wb") as file:
        ...         remarks = denoise_ext.io.video.write_y4m(file, film, film)
        >>> Path("copy.y4m").read_bytes()[:9]
        b'YUV4MPEG2'
    """
    y4m_format(like.info.pixel_format)
    notes: list[str] = []
    period, number = 1 / (like.info.frame_rate or USUAL_RATE), 0
    start = None
    try:
        stream.write(y4m_header(like))
        for number, frame in enumerate(frames):
            start = frame.seconds if start is None else start
            if not notes and abs(frame.seconds - start - number * period) > _LATE * period:
                notes.append(
                    f"frame {number} is shown at {frame.seconds:.3f} s: y4m has frames at equal"
                    " times and cannot keep that"
                )
            stream.write(_FRAME + b"\n")
            for plane in frame.planes:
                kind = plane.dtype.newbyteorder("<")
                stream.write(np.ascontiguousarray(plane, kind).data.cast("B"))
            stream.flush()
    except OSError as error:
        error.frame = number  # type: ignore[attr-defined]
        raise
    return notes
