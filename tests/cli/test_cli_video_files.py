"""`denoise-ext video` on films as they come: damaged, interlaced, turned, of odd sizes."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from fractions import Fraction

import numpy as np
import pytest
from command_line import BACKEND, checkpoints, run  # noqa: F401  a fixture
from video_files import make_video

from denoise_ext.io.video import read_video, write_video

av = pytest.importorskip("av")


@pytest.fixture
def denoise(tmp_path, monkeypatch, capsys, checkpoints):  # noqa: F811
    """Runs the command in a folder of its own; a network on single frames."""
    monkeypatch.chdir(tmp_path)

    def call(source: str, target: str, *options: str, model: str = "gray") -> tuple[int, str, str]:
        chosen = ["--model", checkpoints[model], "--sigma", "9", *BACKEND]
        return run(capsys, "video", source, target, *chosen, *options)

    return call


def film(path, frames: int, size: tuple[int, int], codec: str, **options: str) -> None:
    """Gray bars that move, all frames key frames unless `options` differ."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "gray" if codec == "ffv1" else "yuv420p"
        for i in range(frames):
            bars = np.add.outer(np.arange(size[1]), 3 * np.arange(size[0]) + 5 * i) % 256
            frame = av.VideoFrame.from_ndarray(bars.astype(np.uint8), "gray")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        out.mux(stream.encode(None))


def test_damaged_frames_are_named_by_number(denoise, tmp_path):
    film(tmp_path / "raw.mkv", 12, (64, 48), "ffv1")
    with read_video("raw.mkv") as video:
        clean = list(video)
        write_video("in.mkv", clean, video)  # checksums and key frames alone
    data = bytearray((tmp_path / "in.mkv").read_bytes())
    with av.open("in.mkv") as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    for number in (4, 9):
        start = places[number] + 60
        data[start : start + 30] = bytes(x ^ 0x55 for x in data[start : start + 30])
    (tmp_path / "bad.mkv").write_bytes(data)
    with read_video("bad.mkv") as video:
        passed = [frame.corrupt for frame in video]
        assert video.corrupt_frames == [4, 9] and sum(passed) == 2
    code, out, err = denoise("bad.mkv", "out.mkv")
    assert code == 3 and "12 frames" in out
    assert "2 frames were passed through as they are (number 4, 9)" in err.splitlines()[-1]
    with read_video("out.mkv") as video, read_video("bad.mkv") as before:
        assert video.damage == ""
        pairs = list(zip(video, before, strict=True))
    same = [np.array_equal(a.planes[0], b.planes[0]) for a, b in pairs]
    assert same == passed


def test_packets_without_a_frame_are_named_by_number(denoise, tmp_path):
    film(tmp_path / "raw.mkv", 10, (64, 48), "ffv1")
    with read_video("raw.mkv") as video:
        write_video("in.mkv", video, video)
    data = bytearray((tmp_path / "in.mkv").read_bytes())
    with av.open("in.mkv") as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    place, size = packets[6]
    start = data.index(bytes(data[place : place + 40]))
    data[start + 12 : start + size] = bytes(size - 12)  # nothing of the frame is left
    (tmp_path / "bad.mkv").write_bytes(data)
    with read_video("bad.mkv") as video:
        kept = len(list(video))
        assert video.damage and "6" in video.damage
    code, _, err = denoise("bad.mkv", "out.mkv")
    assert code == 3 and video.damage in err
    with read_video("out.mkv") as result:
        assert len(list(result)) == kept >= 9


def test_a_film_that_changes_its_size_ends_there(denoise, tmp_path):
    for name, frames, size in (("a.h264", 5, (64, 48)), ("b.h264", 4, (96, 64))):
        film(tmp_path / name, frames, size, "libx264", bf="0")
    both = (tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes()
    (tmp_path / "in.h264").write_bytes(both)
    code, out, err = denoise("in.h264", "out.mkv", model="colour")
    assert code == 3 and "5 frames" in out
    assert "64 x 48 to 96 x 64 at frame 5" in err
    with read_video("out.mkv") as video:
        assert len(list(video)) == 5 and video.damage == ""


def test_times_that_are_not_equal_stay_in_files_and_are_remarked_in_y4m(denoise, tmp_path):
    make_video(tmp_path / "in.mkv", "gray", audio=False)  # 0, 47, 80, 127, ... milliseconds
    assert denoise("in.mkv", "out.mkv")[0] == 0
    with read_video("in.mkv") as video, read_video("out.mkv") as result:
        times = [frame.seconds for frame in video]
        assert [frame.seconds for frame in result] == times
        assert len({round(b - a, 3) for a, b in itertools.pairwise(times)}) > 1
    with read_video("in.mkv") as video:
        late = [dataclasses.replace(f, pts=2 * f.pts) for f in video]
        (note,) = write_video("late.y4m", late, video)
    assert "frame 1" in note and "equal" in note


@pytest.mark.parametrize("size", [(33, 17), (3, 9), (2, 2)])
def test_odd_sizes(denoise, tmp_path, size):
    film(tmp_path / "in.mkv", 3, size, "ffv1")
    for target in ("out.mkv", "out.y4m"):
        code, _, err = denoise("in.mkv", target)
        assert code == 0, err
        with read_video(target) as video:
            assert (video.info.width, video.info.height) == size and len(list(video)) == 3


def test_a_film_shown_turned(denoise, tmp_path):
    film(tmp_path / "a.mp4", 3, (64, 48), "libx264")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = turned
    (tmp_path / "in.mp4").write_bytes(data)
    for target in ("out.mkv", "out.y4m"):
        assert denoise("in.mp4", target, model="colour")[0] == 0
        with read_video(target) as video:
            assert (video.info.width, video.info.height) == (48, 64)


def test_interlaced_films_are_remarked(denoise, tmp_path):
    film(tmp_path / "in.mkv", 4, (64, 48), "libx264", **{"x264-params": "interlaced=1:tff=1"})
    code, _, err = denoise("in.mkv", "out.mkv", model="colour")
    assert code == 0
    assert [line for line in err.splitlines() if "interlaced" in line] == [
        "denoise-ext: note: frame 0 is interlaced: both fields are denoised as one picture"
    ]


def test_no_picture_in_it(denoise, tmp_path):
    with av.open("sound.mkv", "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        block.sample_rate = 8000
        out.mux(stream.encode(block))
        out.mux(stream.encode(None))
    for name, named in (("sound.mkv", "no video stream"), ("none.mkv", "does not exist")):
        code, out, err = denoise(name, "out.mkv")
        assert code == 2 and named in err and name in err and out == ""
    (tmp_path / "cut.mkv").write_bytes((tmp_path / "sound.mkv").read_bytes()[:20])
    assert denoise("cut.mkv", "out.mkv")[0] == 2
    assert not (tmp_path / "out.mkv").exists()
