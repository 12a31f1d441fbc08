"""Writing a video file frame by frame, with everything else of the one it came from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from denoise_ext.io.atomic import check_target, write_atomically
from denoise_ext.io.errors import ImageError, optional, reason_of, shown
from denoise_ext.io.video.frames import VideoFrame
from denoise_ext.io.video.read import open_container
from denoise_ext.io.video.source import USUAL_RATE, Video
from denoise_ext.io.video.y4m import write_y4m, y4m_format

# suffix -> FFmpeg's name of the container
_CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".avi": "avi", ".webm": "webm",
               ".nut": "nut"}  # fmt: skip
# Version 3: damage is found, per slice.
_FFV1 = {"level": "3", "slicecrc": "1", "g": "1"}
# FFmpeg's own number of slices, then one: few numbers divide odd sizes with subsampled chroma.
_ONE_SLICE = {"slices": "1"}
# What codecs take where they have no planar RGB of 8 bits.
_PACKED = {"gbrp": "bgr0"}
_Y4M = ".y4m"
_LOSSLESS = "ffv1"


def check_can_write_video(
    path: str | os.PathLike[str],
    codec: str | None = None,
    overwrite: bool = False,
    quality: float | None = None,
) -> None:
    """Raise ImageError if `write_video` is bound to fail, before any work is done.

    Example:
        >>> denoise_ext.io.video.check_can_write_video("clean.mkv")
    """
    if is_y4m(path):
        if codec is not None:
            raise ImageError(f"codec {codec!r}: {shown(path)} is y4m, which has none")
        if quality is not None:
            raise ImageError(f"quality {quality}: {shown(path)} is y4m, which has none")
        check_target(path, overwrite)
        return
    av = optional("av", "video", f"{shown(path)} is a video, which")
    _container(path)
    codec = codec or _LOSSLESS
    try:
        kind = av.Codec(codec, "w").type
    except ValueError:
        kind = None
    if kind != "video":
        raise ImageError(f"codec {codec!r} is no video encoder here; ffv1, libx264, libx265 are")
    if quality is not None and codec == _LOSSLESS:
        raise ImageError(
            f"quality {quality}: codec 'ffv1' is lossless and has none; libx264, libx265 have one"
        )
    check_target(path, overwrite)


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[VideoFrame],
    like: Video,
    *,
    codec: str | None = None,
    quality: float | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write frames as a video, with sound, subtitles, titles and chapters of `like`.

    Frames keep their time (Matroska counts in milliseconds), depth, chroma subsampling, range and
    colour description. Sound and subtitles are copied, not coded anew. The file appears under its
    name only once it is complete.

    Args:
        path: target; .mkv, .mp4, .mov, .avi, .webm or .nut; or .y4m, raw frames alone.
        frames: as read from `like`, changed or not; taken one at a time.
        like: the video they come from, opened by `read_video`.
        codec: an encoder of FFmpeg's. "ffv1", the default, is lossless; "libx264" and "libx265"
            are small.
        quality: constant rate factor of lossy codecs: 0 the best, 51 the worst (libx264).
        overwrite: replace an existing file; without it an existing file is an error.

    Returns:
        Remarks for the user, one line each: streams that the container cannot hold.

    Raises:
        ImageError: (a ValueError) one line naming the file, and the frame that cannot be written.
            Nothing is left of it then.

    Example:
        >>> with denoise_ext.io.video.read_video("film.y4m") as video:
        ...     frames = (frame.with_picture(1 - frame.picture()) for frame in video)
        ...     remarks = denoise_ext.io.video.write_video("negative.mkv", frames, video)
    """
    check_can_write_video(path, codec, overwrite, quality)
    notes: list[str] = []

    if is_y4m(path):
        y4m_format(like.info.pixel_format)
    counted = _Counted(frames)

    def write(file: IO[bytes]) -> None:
        try:
            if is_y4m(path):
                notes.extend(write_y4m(cast("BinaryIO", file), counted, like))
            else:
                target: Any = _Target(file)
                sound = target.while_sound(counted)
                _write_container(target, path, sound, like, codec, quality, notes)
                target.check()
        except Exception as error:
            if counted.error is not None or not counted.taken:
                raise
            raise ImageError(f"frame {counted.taken - 1}: {reason_of(error)}") from error

    try:
        write_atomically(path, write, overwrite)
    except ImageError:
        if counted.error is not None:  # nothing is wrong with the file
            raise counted.error from None
        raise
    return notes


def _write_container(
    stream: IO[bytes],
    path: str | os.PathLike[str],
    frames: Iterable[VideoFrame],
    like: Video,
    codec: str | None,
    quality: float | None,
    notes: list[str],
) -> None:
    av = optional("av", "video", "video")
    with av.open(stream, "w", format=_container(path)) as output:
        coded = _Output(av, output, like, codec or _LOSSLESS, quality, notes)
        with contextlib.closing(_copies(av, output, like, notes)) as copies:
            coded.write(frames, copies)


class _Target:
    """A file for PyAV, which prints errors of a file that it has no place for.

    So none is raised: after the first one, nothing is written any more.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return len(data) if self.error else self._file.write(data)
        except OSError as error:
            self.error = error
            return len(data)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        try:
            return place if self.error else self._file.seek(place, whence)
        except OSError as error:  # what its buffer holds cannot be written
            self.error = error
            return place

    def while_sound(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Frames, up to the first error of the file, which is raised."""
        rest = iter(frames)
        while True:
            self.check()
            try:
                frame = next(rest)
            except StopIteration:
                return
            yield frame

    def check(self) -> None:
        """Raise the first error of the file."""
        if self.error is not None:
            raise self.error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Counted:
    """Frames, how many were taken, and the error that ended them."""

    def __init__(self, frames: Iterable[VideoFrame]) -> None:
        self._frames, self.taken = frames, 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[VideoFrame]:
        frames = iter(self._frames)
        while True:
            try:
                frame = next(frames)
            except StopIteration:
                return
            except Exception as error:
                self.error = error
                raise
            self.taken += 1
            yield frame


def is_y4m(path: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is written as y4m."""
    return Path(path).suffix.lower() == _Y4M


def _container(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _CONTAINERS:
        named = f"suffix {suffix!r}" if suffix else "no suffix"
        raise ImageError(
            f"cannot write {shown(path)}: {named}; videos are written as"
            f" {' '.join([*_CONTAINERS, _Y4M])}"
        )
    return _CONTAINERS[suffix]


class _Output:
    """An open output container, and the coded video in it."""

    def __init__(
        self, av: Any, output: Any, like: Video, codec: str, quality: float | None, notes: list[str]
    ) -> None:
        self._av, self._output, self._like, self._notes = av, output, like, notes
        self._encoder = self._add_video(codec, quality)
        output.metadata.update(like.titles)
        output.set_chapters(like.chapters)

    def _add_video(self, codec: str, quality: float | None) -> Any:
        like = self._like
        info = like.info
        stream = self._output.add_stream(codec, rate=info.frame_rate or USUAL_RATE)
        context = stream.codec_context
        names = [entry.name for entry in context.codec.video_formats or ()]
        wanted = [info.pixel_format, _PACKED.get(info.pixel_format)]
        self._format = next((name for name in wanted if name in names), None)
        if self._format is None:
            raise ImageError(
                f"codec {codec!r} cannot hold pixels of format {info.pixel_format}; ffv1 can"
                if codec != "ffv1" else f"ffv1 cannot hold pixels of format {info.pixel_format}"
            )  # fmt: skip
        context.width, context.height, context.pix_fmt = info.width, info.height, self._format
        context.time_base = stream.time_base = like.time_base
        for name, value in like.colour.items():
            setattr(context, name, value)
        ratio = like.pixel_shape
        if ratio:
            context.sample_aspect_ratio = ratio
            if ratio != 1 and self._output.format.name not in ("mp4", "mov"):
                shape = f"{ratio.numerator}:{ratio.denominator} as wide as high"
                self._notes.append(f"that pixels are {shape} cannot be kept here (.mp4 can)")
        stream.metadata.update(self._like.stream_titles)
        tries: list[dict[str, str]] = [{} if quality is None else {"crf": f"{quality:g}"}]
        if codec == _LOSSLESS:
            tries = [_FFV1, _FFV1 | _ONE_SLICE]
        self._open_encoder(context, tries)
        return stream

    def _open_encoder(self, context: Any, tries: list[dict[str, str]]) -> None:
        """Open the encoder with the first options that it takes."""
        logging = self._av.logging
        level = logging.get_level()
        logging.set_level(logging.ERROR)  # why an encoder refuses is in its log alone
        try:
            with logging.Capture(local=True):
                for number, options in enumerate(tries, 1):
                    context.options = options
                    try:
                        return context.open()
                    except self._av.FFmpegError as error:
                        if number < len(tries):
                            continue
                        reason = error.log[2].split("\n")[0] if error.log else reason_of(error)
                        raise ImageError(
                            f"codec {context.name!r} refuses {context.width} x {context.height}"
                            f" pixels of format {context.pix_fmt}: {reason}"
                        ) from error
        finally:
            logging.set_level(level)

    def write(self, frames: Iterable[VideoFrame], copies: _Copies | _NoCopies) -> None:
        for frame in frames:
            copies.until(frame.seconds)
            self._output.mux(self._encoder.encode(self._coded(frame)))
        self._output.mux(self._encoder.encode(None))
        copies.until(None)

    def _coded(self, frame: VideoFrame) -> Any:
        info = self._like.info
        coded = self._av.VideoFrame(info.width, info.height, info.pixel_format)
        for plane, pixels in zip(coded.planes, frame.planes, strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            stored = np.ascontiguousarray(pixels).view(np.uint8)
            rows[:, : stored.shape[1]] = stored
            plane.update(rows.tobytes())
        if self._format != info.pixel_format:
            coded = coded.reformat(format=self._format)
        for name, value in self._like.colour.items():
            setattr(coded, name, value)
        coded.pts, coded.time_base = frame.pts, frame.time_base
        return coded


class _NoCopies:
    """Of a source that has a picture alone."""

    def until(self, seconds: float | None) -> None:
        """See `_Copies`."""

    def close(self) -> None:
        """Nothing is open."""


def _copies(av: Any, output: Any, like: Video, notes: list[str]) -> _Copies | _NoCopies:
    return _Copies(av, output, like.path, notes) if like.has_streams else _NoCopies()


class _Copies:
    """Sound, subtitles and attachments of a file, copied as they are, in step with the picture."""

    def __init__(self, av: Any, output: Any, path: str, notes: list[str]) -> None:
        self._output = output
        self._input = open_container(av, path)
        self._streams = {}
        for stream in self._input.streams:
            if stream.type == "video":
                continue
            name = stream.codec_context.name if stream.codec_context else "unknown"
            if stream.type not in ("audio", "subtitle") or name not in output.supported_codecs:
                notes.append(f"stream {stream.index} ({stream.type}, {name}) cannot be kept here")
                continue
            copy = output.add_stream_from_template(stream)
            copy.metadata.update(stream.metadata)
            self._streams[stream.index] = copy
        self._packets = self._demuxed()
        self._waiting = None

    def close(self) -> None:
        self._input.close()

    def _demuxed(self) -> Iterator[Any]:
        wanted = [self._input.streams[index] for index in self._streams]
        return iter(self._input.demux(wanted) if wanted else ())

    def until(self, seconds: float | None) -> None:
        """Copy the packets up to a moment; None: all that are left."""
        while True:
            packet = self._waiting or next(self._packets, None)
            self._waiting = None
            if packet is None:
                return
            if packet.dts is None:  # the end of a stream
                continue
            if seconds is not None and packet.dts * packet.time_base > seconds:
                self._waiting = packet
                return
            packet.stream = self._streams[packet.stream.index]
            self._output.mux(packet)
