"""Reading a video file frame by frame."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from denoise_ext.io.errors import ImageError, optional, reason_of, shown
from denoise_ext.io.read import DEFAULT_MAX_PIXELS, check_max_pixels
from denoise_ext.io.video.ends import missing_bytes
from denoise_ext.io.video.frames import Colour, VideoFrame
from denoise_ext.io.video.quicktime import LARGEST_HEADER, inflated_header_bytes
from denoise_ext.io.video.source import USUAL_RATE, Video, VideoInfo, check_frame_size
from denoise_ext.io.video.y4m import MAGIC, Y4MVideo

# Pixel formats with the same numbers in another order -> the planar one they are read as.
_PLANAR = {
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p",
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "p010le": "yuv420p10le", "p012le": "yuv420p12le",
    "rgb24": "gbrp", "bgr24": "gbrp", "rgb0": "gbrp", "bgr0": "gbrp", "0rgb": "gbrp",
    "0bgr": "gbrp", "rgb48le": "gbrp16le", "rgb48be": "gbrp16le",
}  # fmt: skip
_DEMUXERS = "matroska,mov,avi,nut,mpegts,mpeg,ogg,flv,asf,mxf,dv,ivf,yuv4mpegpipe,h264,hevc,m4v"
# Of a container or a coding, not of what is shown.
_NOT_TITLES = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_COLOUR = ("color_range", "colorspace", "color_primaries", "color_trc")
# What frames carry beside their pixels, by PyAV's names, that no frame is written with.
_LEFT_OUT = {
    "HDR mastering data": {
        "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "DYNAMIC_HDR_PLUS",
        "DYNAMIC_HDR_VIVID", "DOVI_METADATA", "DOVI_RPU_BUFFER",
    },
    "closed captions": {"A53_CC"},
}  # fmt: skip
_MAX_LOST_IN_A_ROW = 10_000  # packets that give no frame, one after the other


# Old names of formats in full range -> the same planes by the name that encoders take.
_FULL_RANGE_NAMES = {f"yuvj{shared}p": f"yuv{shared}p" for shared in (420, 422, 444, 411, 440)}


def open_container(av: Any, path: str) -> Any:
    """A file with PyAV: containers only, no playlist that names further files or addresses."""
    limits = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    return av.open(f"file:{os.path.abspath(path)}", container_options=limits)


class FileVideo(Video):
    """A video file, read with PyAV."""

    def __init__(self, path: str, max_pixels: int) -> None:
        super().__init__(path)
        self._max_pixels = max_pixels
        self._damaged: set[int] = set()  # times of frames to come
        self._breaks_off = ""  # why no further packet can be read
        self._av = optional("av", "video", f"{shown(path)} is a video, which")
        self._container = self._open()
        try:
            self._stream = self._choose()
            self._frames = self._decoded()
            self._first = self._first_frame()
            self._note_left_out(self._first)
            self._quarters = round(self._first.rotation / 90)  # counterclockwise, for players
            self.info: VideoInfo = self._describe()
            self.time_base: Fraction = self._stream.time_base
            context = self._stream.codec_context
            self.colour: dict[str, int] = {name: getattr(context, name) for name in _COLOUR}
            if context.pix_fmt in _FULL_RANGE_NAMES:
                self.colour["color_range"] = _FULL_RANGE
            self.pixel_shape: Fraction | None = self._pixel_shape()
            self.titles: dict[str, str] = _titles(self._container.metadata)
            self.stream_titles: dict[str, str] = _titles(self._stream.metadata)
            self.chapters: list[Any] = self._container.chapters()
            self.has_streams = True
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """See `Video`."""
        count = lost_in_a_row = 0
        for decoded in itertools.chain([self._first], self._frames):
            if decoded is None:
                self._count_lost(count)
                lost_in_a_row += 1
                if lost_in_a_row > _MAX_LOST_IN_A_ROW:
                    self.broken: str = f"frame {count} and what follows cannot be read"
                    return
                continue
            lost_in_a_row = 0
            frame = self._frame(decoded, count)
            if frame.corrupt:
                self._count_corrupt(count)
            if decoded.interlaced_frame:
                self._note_interlaced(count)
            count += 1
            yield frame
        if not self._breaks_off:
            with contextlib.suppress(OSError):  # it may be gone by now
                missing = missing_bytes(self.path)
                self._breaks_off = f"{missing} bytes are missing at its end" if missing else ""
        if self._breaks_off:
            self.broken = f"the file breaks off after frame {count - 1}: {self._breaks_off}"

    def _first_frame(self) -> Any:
        """The first frame that can be read; its rotation is that of the video."""
        for decoded in itertools.islice(self._frames, _MAX_LOST_IN_A_ROW):
            if decoded is not None:
                return decoded
            self._count_lost(0)
        raise ImageError(f"{shown(self.path)} holds no frame that can be read")

    def _note_left_out(self, decoded: Any) -> None:
        names = {data.type.name for data in decoded.side_data}
        self.notes += [f"its {what} are not kept" for what, of in _LEFT_OUT.items() if names & of]

    def _open(self) -> Any:
        if not os.path.isfile(self.path):
            what = "is not a regular file" if os.path.exists(self.path) else "does not exist"
            raise ImageError(f"{shown(self.path)} {what}")
        try:
            header = inflated_header_bytes(self.path)
        except OSError as error:
            raise ImageError(f"{shown(self.path)} cannot be read: {reason_of(error)}") from error
        if header > LARGEST_HEADER:
            raise ImageError(
                f"{shown(self.path)} has a compressed header of {header} bytes;"
                f" at most {LARGEST_HEADER} are read"
            )
        try:
            return open_container(self._av, self.path)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise ImageError(
                f"{shown(self.path)} is not a video in a known format: {reason_of(error)}"
            ) from error

    def _choose(self) -> Any:
        """The video stream that is read: FFmpeg's choice of the best."""
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ImageError(f"{shown(self.path)} has no video stream that can be decoded")
        context = stream.codec_context
        if context.width < 1 or context.height < 1 or context.pix_fmt is None:
            raise ImageError(f"{shown(self.path)} does not say how large its picture is")
        check_frame_size(self.path, context.width, context.height, self._max_pixels)
        stream.thread_type = "NONE"  # what is logged while a packet is decoded is then about it
        context.options = {"max_pixels": str(self._max_pixels)}
        others = len(self._container.streams.video) - 1
        if others:
            self.notes.append(f"only one of its {others + 1} video streams is read")
        if stream.metadata.get("alpha_mode") == "1":  # VP8 and VP9 have it beside the picture
            self.notes.append("its alpha channel is not read")
        return stream

    def _describe(self) -> VideoInfo:
        stream, context = self._stream, self._stream.codec_context
        pixel_format = _read_as(str(context.pix_fmt))  # `_choose` has seen it
        self._colour(str(context.pix_fmt), context.color_range, context.colorspace)
        rate = stream.average_rate
        frames = stream.frames or None
        if frames is None and rate and self._container.duration:
            frames = round(self._container.duration / self._av.time_base * rate) or None
        width, height = self._first.width, self._first.height
        if self._quarters % 2:
            width, height = height, width
            parts = self._av.VideoFormat(pixel_format)
            if parts.chroma_width(1 << 8) != parts.chroma_height(1 << 8):
                raise ImageError(
                    f"{shown(self.path)} is shown turned by {self._first.rotation} degrees, which"
                    f" pixels of format {pixel_format} cannot be"
                )
        return VideoInfo(width, height, frames, rate, pixel_format, context.codec.name)

    def _pixel_shape(self) -> Fraction | None:
        stream = self._stream
        ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or None
        return 1 / ratio if ratio and self._quarters % 2 else ratio

    def _colour(self, stored: str, color_range: int, colorspace: int) -> Colour:
        """What numbers mean that are stored in a pixel format, as they are read."""
        name = _read_as(stored)
        pixel_format = self._av.VideoFormat(name)
        bits = pixel_format.components[0].bits
        planes = len(pixel_format.components)
        kind = {1: "gray", 3: "gbr" if name.startswith("gbr") else "ycbcr"}.get(planes)
        separate = len({part.plane for part in pixel_format.components}) == planes
        if kind is None or not separate or not 8 <= bits <= 16 or name.endswith("f32le"):
            raise ImageError(
                f"{shown(self.path)} has pixels of format {stored}; gray, Y'CbCr and RGB with 8"
                " to 16 bits and no alpha are read"
            )
        full = color_range == _FULL_RANGE or stored in _FULL_RANGE_NAMES
        return Colour(kind, bits, full or (kind == "gray" and color_range == 0), colorspace)

    def _decoded(self) -> Iterator[Any]:
        """Decoded frames, and None for each packet that could not be decoded."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.FFmpegError as error:
                self._breaks_off = reason_of(error)
                packet = None
            try:
                yield from self._decode(packet)
            except self._av.error.EOFError:
                return
            except (self._av.FFmpegError, ValueError):
                yield None
            if packet is None:
                return

    def _decode(self, packet: Any) -> list[Any]:
        """The frames of a packet; `_damaged` learns its time if the decoder complains of it.

        Decoders conceal damage as well as they can and report it only in the log.
        """
        logging = self._av.logging
        level = logging.get_level()
        logging.set_level(logging.ERROR)
        try:
            with logging.Capture(local=True) as messages:
                frames = self._stream.decode(packet)
        finally:
            logging.set_level(level)
        if messages and packet is not None and packet.pts is not None:
            self._damaged.add(packet.pts)
        return frames

    def _frame(self, decoded: Any, number: int) -> VideoFrame:
        size = (decoded.width, decoded.height)
        if size != (expected := (self._first.width, self._first.height)):
            raise ImageError(
                f"{shown(self.path)} changes its size from {expected[0]} x {expected[1]}"
                f" to {size[0]} x {size[1]} at frame {number}; one size is read"
            )
        stored, wanted = decoded.format.name, self.info.pixel_format
        if _FULL_RANGE_NAMES.get(stored, stored) != wanted:
            decoded, stored = decoded.reformat(format=wanted), wanted
        colour = self._colour(stored, decoded.color_range, decoded.colorspace)
        kind = np.uint8 if colour.bits == 8 else np.dtype("<u2")
        planes = tuple(np.rot90(_pixels_of(p, kind), self._quarters) for p in decoded.planes)
        damaged = decoded.is_corrupt or decoded.pts in self._damaged
        self._damaged.discard(decoded.pts)
        pts, time_base = decoded.pts, decoded.time_base or self._stream.time_base
        if pts is None:  # a raw stream: counted
            rate = self.info.frame_rate or USUAL_RATE
            pts = round(number / rate / time_base)
        return VideoFrame(planes, colour, pts, time_base, damaged)


def _read_as(stored: str) -> str:
    """The pixel format that frames of another one are read as."""
    if stored in _PLANAR:
        return _PLANAR[stored]
    if stored.endswith("be"):
        return stored[:-2] + "le"
    return _FULL_RANGE_NAMES.get(stored, stored)


def _titles(metadata: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if name.lower() not in _NOT_TITLES}


def _pixels_of(plane: Any, kind: Any) -> np.ndarray:
    """A copy of a plane (H, W), without the bytes that pad its rows."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
    width = plane.width * np.dtype(kind).itemsize
    return np.ascontiguousarray(rows[:, :width]).view(kind).astype(kind, copy=False)


def read_video(
    path: str | os.PathLike[str] | BinaryIO, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Video:
    """Open a video for reading, frame by frame, in bounded memory.

    Args:
        path: any container and codec that PyAV's FFmpeg decodes, or a binary stream of y4m, such
            as a pipe. Files of y4m are read without PyAV, too.
        max_pixels: refuse a picture with more pixels (width x height) than this.

    Returns:
        `Video`: iterate over it for `VideoFrame`; `.info` has its facts, `.notes`, `.damage`,
        `.corrupt`, `.lost` and `.broken` what went wrong.

    Raises:
        ImageError: (a ValueError) one line naming the file: missing, no video, pixels of a kind
            that is not read, PyAV not installed.

    Example:
        >>> with denoise_ext.io.video.read_video("film.y4m") as video:
        ...     brightness = [float(frame.picture().mean()) for frame in video]
        >>> len(brightness)
        3
    """
    check_max_pixels(max_pixels)
    if not isinstance(path, (str, os.PathLike)):
        return Y4MVideo(path, "-", max_pixels)
    path = os.fspath(path)
    file = _opened_y4m(path)
    return FileVideo(path, max_pixels) if file is None else Y4MFile(file, path, max_pixels)


class Y4MFile(Y4MVideo):
    """A y4m stream in a file, which is closed with it."""

    def __init__(self, file: BinaryIO, path: str, max_pixels: int) -> None:
        self._file = file
        try:
            super().__init__(file, path, max_pixels)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _opened_y4m(path: str) -> BinaryIO | None:
    """The file, if it begins like y4m."""
    if not os.path.isfile(path):
        return None
    try:
        file = open(path, "rb")  # noqa: SIM115  (handed on)
        found = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
    except OSError as error:
        raise ImageError(f"{shown(path)} cannot be read: {reason_of(error)}") from error
    if found:
        return file
    file.close()
    return None
