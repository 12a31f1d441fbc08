"""What every video that is read has in common, whatever it is stored as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from denoise_ext.io.errors import ImageError, shown
from denoise_ext.io.video.frames import VideoFrame

_NUMBERS_KEPT = 8  # of damaged frames
USUAL_RATE = Fraction(25)  # frames a second, where none is stated


@dataclass(frozen=True)
class VideoInfo:
    """Facts about the picture of a video.

    Example:
        >>> with denoise_ext.io.video.read_video("film.y4m") as video:
        ...     video.info.width, video.info.height, video.info.frame_rate, video.info.pixel_format
        (48, 32, Fraction(25, 1), 'yuv420p')
    """

    width: int
    height: int
    frames: int | None
    """How many there are, if the file states it or its length; else None."""
    frame_rate: Fraction | None
    """On average; None if it is not stated."""
    pixel_format: str
    """FFmpeg's name of the format frames are handed out in: "yuv420p", "yuv420p10le", "gbrp"."""
    codec: str

    @property
    def is_gray(self) -> bool:
        """Whether pictures are (H, W), not RGB."""
        return self.pixel_format.startswith("gray")


class Video(ABC):
    """A video being read: iterate over it once. Close it, or use it in a `with`.

    Example:
        >>> with denoise_ext.io.video.read_video("film.y4m") as video:
        ...     seconds = [frame.seconds for frame in video]
        >>> seconds, video.damage
        ([0.0, 0.04, 0.08], '')
    """

    info: VideoInfo
    time_base: Fraction
    """Unit of the frames' times."""
    pixel_shape: Fraction | None = None
    """Width of a pixel by its height, as shown; None if it is not stated."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.notes: list[str] = []
        """Remarks for the user; more may be added while frames are read."""
        self.corrupt: int = 0
        """How many frames so far were damaged, and handed out as the decoder made them."""
        self.corrupt_frames: list[int] = []
        """The numbers of the first of them, from 0."""
        self.lost: int = 0
        """How many packets so far gave no frame at all."""
        self.first_lost: int = 0
        """The number of the frame that was to come next at the first of them."""
        self.broken = ""
        """Why no further frame can be read, with its number; "" for a whole video."""
        self.titles: dict[str, str] = {}
        self.stream_titles: dict[str, str] = {}
        self.chapters: list[Any] = []
        self.colour: dict[str, int] = {}
        """FFmpeg's numbers of range, matrix, primaries and transfer, by the names of PyAV."""
        self.tags: list[str] = []
        """Tags of a y4m header that go with the pixels: interlacing and comments."""
        self.has_streams = False
        """Whether the file may hold sound and subtitles."""

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file, unless the caller has opened it."""

    @abstractmethod
    def __iter__(self) -> Iterator[VideoFrame]:
        """The frames in the order they are shown. Raises ImageError where none can be read."""

    @property
    def damage(self) -> str:
        """What was wrong with the video so far, in one line; "" for nothing."""
        found = []
        if self.corrupt:
            more = ", ..." if self.corrupt > len(self.corrupt_frames) else ""
            numbers = ", ".join(map(str, self.corrupt_frames)) + more
            found.append(
                f"{self.corrupt} frames were passed through as they are (number {numbers})"
            )
        if self.lost:
            found.append(f"{self.lost} packets gave no frame, the first at frame {self.first_lost}")
        return "; ".join([*found, *([self.broken] if self.broken else [])])

    def _count_corrupt(self, number: int) -> None:
        self.corrupt += 1
        if len(self.corrupt_frames) < _NUMBERS_KEPT:
            self.corrupt_frames.append(number)

    def _count_lost(self, number: int) -> None:
        self.first_lost = self.first_lost if self.lost else number
        self.lost += 1

    def _note_interlaced(self, number: int) -> None:
        note = f"frame {number} is interlaced: both fields are denoised as one picture"
        if not any("is interlaced" in known for known in self.notes):
            self.notes.append(note)


def check_frame_size(path: str, width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError for a frame with more than ``max_pixels``."""
    if width * height > max_pixels:
        raise ImageError(
            f"{shown(path)} states {width} x {height} = {width * height} pixels per frame,"
            f" more than the limit of {max_pixels} (max_pixels)"
        )
