"""Writing a video file frame by frame, with everything else of the one it came from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from denoise_ext.io.atomic import check_target, write_atomically
from denoise_ext.io.errors import ImageError, optional, shown
from denoise_ext.io.video.frames import VideoFrame
from denoise_ext.io.video.read import Video, open_container

# suffix -> FFmpeg's name of the container
_CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".avi": "avi", ".webm": "webm",
               ".nut": "nut"}  # fmt: skip
_FFV1 = {
    "level": "3",
    "slicecrc": "1",
    "slices": "4",
    "g": "1",
}  # version 3: damage is found, per slice
# What codecs take where they have no planar RGB of 8 bits.
_PACKED = {"gbrp": "bgr0"}
_COLOUR = ("color_range", "colorspace", "color_primaries", "color_trc")


def check_can_write_video(
    path: str | os.PathLike[str], codec: str = "ffv1", overwrite: bool = False
) -> None:
    """Raise ImageError if `write_video` is bound to fail, before any work is done."""
    av = optional("av", "video", f"{shown(path)} is a video, which")
    _container(path)
    try:
        kind = av.Codec(codec, "w").type
    except ValueError:
        kind = None
    if kind != "video":
        raise ImageError(f"codec {codec!r} is no video encoder here; ffv1, libx264, libx265 are")
    check_target(path, overwrite)


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[VideoFrame],
    like: Video,
    *,
    codec: str = "ffv1",
    quality: float | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write frames as a video, with sound, subtitles, titles and chapters of `like`.

    Frames keep their time (Matroska counts in milliseconds), depth, chroma subsampling, range and
    colour description. Sound and subtitles are copied, not coded anew. The file appears under its
    name only once it is complete.

    Args:
        path: target; .mkv, .mp4, .mov, .avi, .webm or .nut.
        frames: as read from `like`, changed or not; taken one at a time.
        like: the video they come from, opened by `read_video`.
        codec: an encoder of FFmpeg's. "ffv1" is lossless; "libx264" and "libx265" are small.
        quality: constant rate factor of lossy codecs: 0 the best, 51 the worst (libx264).
        overwrite: replace an existing file; without it an existing file is an error.

    Returns:
        Remarks for the user, one line each: streams that the container cannot hold.

    Raises:
        ImageError: (a ValueError) one line naming the file.
    """
    check_can_write_video(path, codec, overwrite)
    notes: list[str] = []

    def write(stream: IO[bytes]) -> None:
        av = optional("av", "video", "video")
        with av.open(stream, "w", format=_container(path)) as output:
            coded = _Output(av, output, like, codec, quality, notes)
            with contextlib.closing(_Copies(av, output, like.path, notes)) as copies:
                coded.write(frames, copies)

    write_atomically(path, write, overwrite)
    return notes


def _container(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _CONTAINERS:
        named = f"suffix {suffix!r}" if suffix else "no suffix"
        raise ImageError(
            f"cannot write {shown(path)}: {named}; videos are written as {' '.join(_CONTAINERS)}"
        )
    return _CONTAINERS[suffix]


class _Output:
    """An open output container, and the coded video in it."""

    def __init__(self, av, output, like: Video, codec: str, quality, notes: list[str]):
        self._av, self._output, self._like, self._notes = av, output, like, notes
        self._encoder = self._add_video(codec, quality)
        output.metadata.update(like.titles)
        output.set_chapters(like.chapters)

    def _add_video(self, codec: str, quality: float | None):
        info, source = self._like.info, self._like.stream
        stream = self._output.add_stream(codec, rate=info.frame_rate or Fraction(25))
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
        context.time_base = stream.time_base = source.time_base
        for name in _COLOUR:
            setattr(context, name, getattr(source.codec_context, name))
        ratio = source.sample_aspect_ratio or source.codec_context.sample_aspect_ratio
        if ratio:
            turned = (info.width, info.height) != (source.width, source.height)
            context.sample_aspect_ratio = 1 / ratio if turned else ratio
            if ratio != 1 and self._output.format.name not in ("mp4", "mov"):
                shape = f"{ratio.numerator}:{ratio.denominator} as wide as high"
                self._notes.append(f"that pixels are {shape} cannot be kept here (.mp4 can)")
        options = dict(_FFV1) if codec == "ffv1" else {}
        if quality is not None:
            options["crf"] = f"{quality:g}"
        context.options = options
        stream.metadata.update(self._like.stream_titles)
        return stream

    def write(self, frames: Iterable[VideoFrame], copies: _Copies) -> None:
        for frame in frames:
            copies.until(frame.seconds)
            self._output.mux(self._encoder.encode(self._coded(frame)))
        self._output.mux(self._encoder.encode(None))
        copies.until(None)

    def _coded(self, frame: VideoFrame):
        info = self._like.info
        coded = self._av.VideoFrame(info.width, info.height, info.pixel_format)
        for plane, pixels in zip(coded.planes, frame.planes, strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            stored = np.ascontiguousarray(pixels).view(np.uint8)
            rows[:, : stored.shape[1]] = stored
            plane.update(rows.tobytes())
        if self._format != info.pixel_format:
            coded = coded.reformat(format=self._format)
        context = self._like.stream.codec_context
        for name in _COLOUR:
            setattr(coded, name, getattr(context, name))
        coded.pts, coded.time_base = frame.pts, frame.time_base
        return coded


class _Copies:
    """Sound, subtitles and attachments of a file, copied as they are, in step with the picture."""

    def __init__(self, av, output, path: str, notes: list[str]):
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

    def _demuxed(self) -> Iterator:
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
