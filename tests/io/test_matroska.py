"""Matroska files that are shorter than they state."""

from __future__ import annotations

import pytest
from video_files import make_video

from denoise_ext.io.video import read_video, write_video
from denoise_ext.io.video.matroska import missing_bytes

FILE = b"\x1a\x45\xdf\xa3\x84head"  # an element of 4 bytes
SEGMENT = b"\x18\x53\x80\x67"
UNKNOWN = b"\x01" + b"\xff" * 7


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (FILE + SEGMENT + b"\x85" + b"12345", 0),
        (FILE + SEGMENT + b"\x85" + b"123", 2),
        (FILE + SEGMENT + b"\x85" + b"1234567", 0),  # something follows
        (FILE + SEGMENT + b"\x40\x85" + b"123", 0x85 - 3),
        (FILE + SEGMENT + b"\x01\0\0\0\0\1\0\2" + b"123", 65538 - 3),
        (FILE + SEGMENT + b"\xff" + b"123", 0),  # sizes that are not known
        (FILE + SEGMENT + b"\x7f\xff" + b"123", 0),
        (FILE + SEGMENT + UNKNOWN + b"123", 0),
        (FILE + SEGMENT + b"\x00" + b"123", 0),  # no size
        (FILE + SEGMENT + b"\x01\0\0", 0),
        (FILE + SEGMENT, 0),
        (FILE + b"\xec\x83abc", 0),  # another element
        (FILE[:3], 0),
        (b"RIFF" + bytes(100), 0),
        (b"", 0),
    ],
)
def test_stated_size(tmp_path, data, missing):
    (tmp_path / "x.mkv").write_bytes(data)
    assert missing_bytes(tmp_path / "x.mkv") == missing


def test_films(tmp_path):
    make_video(tmp_path / "in.mkv", "gray", size=(64, 48), audio=False)
    with read_video(tmp_path / "in.mkv") as video:
        write_video(tmp_path / "out.mkv", video, video)
    for name in ("in.mkv", "out.mkv"):
        data = (tmp_path / name).read_bytes()
        assert missing_bytes(tmp_path / name) == 0
        (tmp_path / name).write_bytes(data[:-1000])
        assert missing_bytes(tmp_path / name) == 1000
