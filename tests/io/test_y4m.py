"""y4m, the format of pipes: every kind of pixels, odd sizes, and what hostile streams get."""

from __future__ import annotations

import dataclasses
import io as bytes_io
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from video_files import make_video
from y4m_files import FORMATS, planes_of, y4m

from denoise_ext.io import ImageError
from denoise_ext.io.video import read_video, write_video, write_y4m


class Pipe(bytes_io.RawIOBase):
    """A stream that cannot seek and gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, most: int = 97) -> None:
        self.data, self.at, self.most = data, 0, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part = self.data[self.at : self.at + min(self.most, len(buffer))]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)


def pipe(data: bytes) -> bytes_io.BufferedReader:
    return bytes_io.BufferedReader(Pipe(data))


@pytest.mark.parametrize("size", [(21, 13), (1, 1), (2, 7), (16, 8)])
@pytest.mark.parametrize("tag", FORMATS)
def test_every_kind_of_pixels_comes_back_bit_for_bit(tag, size):
    data = y4m(tag, 3, *size)
    out = bytes_io.BytesIO()
    with read_video(pipe(data)) as video:
        assert (video.info.width, video.info.height) == size
        assert video.info.frame_rate == Fraction(30000, 1001)
        frames = list(video)
        for frame, planes in zip(frames, planes_of(tag, 3, *size), strict=True):
            assert frame.colour.bits == FORMATS[tag][1]
            for a, b in zip(frame.planes, planes, strict=True):
                np.testing.assert_array_equal(a, b)
            assert frame.picture().shape[:2] == (size[1], size[0])
        same = [frame.with_picture(frame.picture()) for frame in frames]
        assert write_y4m(out, same, video) == []
        assert video.damage == "" and video.notes == []
    assert out.getvalue() == data


@pytest.mark.parametrize("tag", ["420jpeg", "422", "444", "420p10", "422p10", "444p12", "mono"])
def test_ffmpeg_reads_what_is_written_and_writes_what_is_read(tmp_path, tag):
    """FFmpeg's libraries have their own reader and writer of y4m."""
    av = pytest.importorskip("av")
    name = "gray" if tag == "mono" else f"yuv{tag[:3]}p" + (f"{tag[4:]}le" if "p1" in tag else "")
    make_video(tmp_path / "in.mkv", name, audio=False, color_range=1)
    with read_video(tmp_path / "in.mkv") as video:
        frames = list(video)
        notes = write_video(tmp_path / "out.y4m", frames, video)
    assert notes == [] or "equal" in notes[0]
    with av.open(str(tmp_path / "out.y4m")) as container:
        decoded = list(container.decode(video=0))
    assert [x.format.name for x in decoded] == [name] * 6
    for theirs, frame in zip(decoded, frames, strict=True):
        for a, b in zip(theirs.planes, frame.planes, strict=True):
            rows = np.frombuffer(a, b.dtype).reshape(a.height, -1)[:, : a.width]
            np.testing.assert_array_equal(rows, b)
    options = {"format": "yuv4mpegpipe", "options": {"strict": "-1"}}
    with av.open(str(tmp_path / "theirs.y4m"), "w", **options) as out:
        stream = out.add_stream("wrapped_avframe", rate=25)
        stream.width, stream.height, stream.pix_fmt = 36, 30, name
        for i, theirs in enumerate(decoded):
            theirs.pts, theirs.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(theirs))
    with read_video(tmp_path / "theirs.y4m") as video:
        for ours, frame in zip(video, frames, strict=True):
            for a, b in zip(ours.planes, frame.planes, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le"])
def test_pipes_from_and_to_the_program(tmp_path, name):
    source = ["-f", "lavfi", "-i", "testsrc2=size=51x37:rate=24:duration=0.25", "-pix_fmt", name]
    tail = ["-strict", "-1", "-f", "yuv4mpegpipe", "-"]
    data = subprocess.run(
        ["ffmpeg", "-v", "error", *source, *tail], check=True, capture_output=True
    ).stdout
    out = bytes_io.BytesIO()
    with read_video(pipe(data)) as video:
        assert video.info.pixel_format == name
        write_y4m(out, video, video)
    back = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", "-", "-f", "rawvideo", "-"],
        input=out.getvalue(), check=True, capture_output=True,
    )  # fmt: skip
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", *source, "-f", "rawvideo", "-"], check=True, capture_output=True
    )
    assert back.stdout == raw.stdout and back.stderr == b""


def test_colour_range_and_interlacing():
    with read_video(pipe(y4m(words="F25:1 It A64:45 XCOLORRANGE=FULL XMORE"))) as video:
        frame = next(iter(video))
        assert frame.colour.full_range and "interlaced" in video.notes[0]
        out = bytes_io.BytesIO()
        write_y4m(out, [frame], video)
    line = out.getvalue().partition(b"\n")[0]
    assert b" It A64:45 " in line and b"XCOLORRANGE=FULL XMORE" in line
    with read_video(pipe(y4m("mono", words=""))) as video:
        assert next(iter(video)).colour.full_range and video.info.frame_rate is None
    with read_video(pipe(y4m("mono", words="F0:0 XCOLORRANGE=LIMITED"))) as video:
        assert not next(iter(video)).colour.full_range and video.notes == []


@pytest.mark.parametrize(
    "cut, why", [(1, "frame 2 breaks off"), (-1, ""), (500, "frame 1 breaks off after")]
)
def test_a_stream_that_breaks_off_keeps_its_whole_frames(cut, why):
    data = y4m()
    with read_video(pipe(data[: len(data) - cut] if cut > 0 else data)) as video:
        assert len(list(video)) == (int(why.split()[1]) if why else 3)
        assert video.damage.startswith(why) and bool(video.damage) == bool(why)


def test_what_stands_where_a_frame_should_begin():
    data = y4m()
    place = data.index(b"FRAME", data.index(b"FRAME") + 5)
    for bad, named in (
        (b"FRAMES", "FRAME"), (b"XXXXX", "XXXXX"), (b"FRAME " + b"x" * 5000, "header without end")
    ):  # fmt: skip
        with read_video(pipe(data[:place] + bad + data[place + 5 :])) as video:
            assert len(list(video)) == 1
            assert "frame 1" in video.broken and named in video.broken
    with read_video(pipe(data.replace(b"FRAME\n", b"FRAME Ixyz\n"))) as video:
        assert len(list(video)) == 3


@pytest.mark.parametrize(
    "header, named",
    [
        (b"", "is empty"), (b"RIFF....AVI LIST", "y4m"), (b"YUV4MPEG2 W4 H4", "y4m"),
        (b"YUV4MPEG2 " + b"X" * 100_000, "y4m"), (b"YUV4MPEG2\n", "W"),
        (b"YUV4MPEG2 W0 H4\n", "W.*'0'"), (b"YUV4MPEG2 W4 H-4\n", "H.*'-4'"),
        (b"YUV4MPEG2 W4 H99999999999\n", "H"), (b"YUV4MPEG2 W99999999 H99999999\n", "limit"),
        (b"YUV4MPEG2 W4 H4 F25\n", "F.*'25'"), (b"YUV4MPEG2 W4 H4 F1:-1\n", "F"),
        (b"YUV4MPEG2 W4 H4 C444alpha\n", "444alpha"), (b"YUV4MPEG2 W4 H4 C420p11\n", "420p11"),
        (b"YUV4MPEG2 W4 H4 C411p10\n", "411p10"), (b"YUV4MPEG2 W\xb2 H4\n", "W"),
    ],
)  # fmt: skip
def test_headers_that_are_refused(header, named):
    with pytest.raises(ImageError, match=named) as error:
        read_video(pipe(header))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_no_frame_and_large_frames(tmp_path):
    with read_video(pipe(y4m(frames=0))) as video, pytest.raises(ImageError, match="no frame"):
        list(video)
    with pytest.raises(ImageError, match=r"21 x 13 = 273.*limit of 272"):
        read_video(pipe(y4m()), max_pixels=272)
    # a gigabyte that is stated and does not come is not filled
    header = b"YUV4MPEG2 W10000 H10000 C444p16\nFRAME\nx"
    told = "frame 0 breaks off after 1 of 600000000 bytes"
    with read_video(pipe(header)) as video, pytest.raises(ImageError, match=told):
        list(video)
    (tmp_path / "in.y4m").write_bytes(y4m())
    with read_video(tmp_path / "in.y4m") as video:  # a file is read in the same way
        assert len(list(video)) == 3 and video.path.endswith("in.y4m")
        for name, codec, match in (("a.y4m", "ffv1", "ffv1"), ("no/a.y4m", None, "no")):
            with pytest.raises(ImageError, match=match):
                write_video(tmp_path / name, video, video, codec=codec)
        with pytest.raises(ImageError, match=r"quality 20.*a\.y4m"):
            write_video(tmp_path / "a.y4m", video, video, quality=20)
    assert [p.name for p in tmp_path.iterdir()] == ["in.y4m"]


def test_pixels_that_y4m_cannot_hold(tmp_path):
    make_video(tmp_path / "in.mkv", "gbrp10le", audio=False)
    with read_video(tmp_path / "in.mkv") as video:
        with pytest.raises(ImageError, match="gbrp10le"):
            write_video(tmp_path / "out.y4m", video, video)
        with pytest.raises(ImageError, match="gbrp10le"):
            write_y4m(bytes_io.BytesIO(), video, video)


def test_frames_at_unequal_times_are_remarked(tmp_path):
    (tmp_path / "in.y4m").write_bytes(y4m(frames=4))
    with read_video(tmp_path / "in.y4m") as video:
        frames = [dataclasses.replace(f, pts=f.pts + (f.pts > 1)) for f in video]
        (note,) = write_y4m(bytes_io.BytesIO(), frames, video)
    assert "frame 2" in note and "0.100 s" in note
