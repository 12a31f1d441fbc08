"""Films that lack their end are reported, whatever FFmpeg thinks of them."""

from __future__ import annotations

import struct

import pytest
from command_line import run
from video_files import make_video

from denoise_ext.io import video as videos
from denoise_ext.io.video.ends import missing_bytes


def box(kind: bytes, content: bytes, wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


FTYP = box(b"ftyp", b"isom\0\0\0\0isom")
EBML = b"\x1a\x45\xdf\xa3" + b"\x83abc"
SEGMENT = b"\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (FTYP + box(b"moov", b"12") + box(b"mdat", bytes(40)), 0),
        (FTYP + box(b"mdat", bytes(40))[:-7], 7),
        (FTYP + box(b"mdat", bytes(40), wide=True)[:-9], 9),
        (FTYP + b"\0\0\0\0mdat" + bytes(9), 0),  # to the end of the file
        (FTYP + box(b"mdat", b"") + b"text behind the film", 0),
        (FTYP + box(b"mdat", b"") + b"\0\0\0", 0),
        (FTYP + b"\0\0\0\1mdat", 0),  # its size is cut off
        (EBML + SEGMENT + b"\x8a" + bytes(10), 0),
        (EBML + SEGMENT + b"\x8a" + bytes(6), 4),
        (EBML + b"\xec\x82ab" + SEGMENT + b"\x40\x0a" + bytes(6), 4),  # two bytes of size
        (EBML + SEGMENT + b"\x01" + (1000).to_bytes(7, "big"), 1000),
        (EBML + SEGMENT + b"\xff" + bytes(6), 0),  # not known
        (EBML + SEGMENT + b"\x01" + b"\xff" * 7 + bytes(6), 0),
        (EBML + SEGMENT + b"\0" + bytes(6), 0),  # no size
        (EBML + SEGMENT + b"\x85" + b"1234567", 0),  # something follows
        (EBML + SEGMENT, 0),
        (EBML + b"\0\0", 0),
        (EBML[:4], 0),
        (b"RIFF", 0),
        (b"", 0),
    ],
)
def test_missing_bytes(tmp_path, data, missing):
    (tmp_path / "film").write_bytes(data)
    assert missing_bytes(tmp_path / "film") == missing


def test_a_film_that_was_cut_off(tmp_path, capsys):
    av = pytest.importorskip("av")
    make_video(tmp_path / "in.mkv", frames=12, audio=False)
    with av.open(str(tmp_path / "in.mkv")) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = (tmp_path / "in.mkv").read_bytes()
    for number, end in [(5, packets[5][0]), (6, sum(packets[6]) - 9)]:
        (tmp_path / "cut.mkv").write_bytes(data[:end])
        with videos.read_video(tmp_path / "cut.mkv") as video:
            frames = list(video)
        missing = f"after frame {len(frames) - 1}: {len(data) - end} bytes are missing at its end"
        assert video.damage == f"the file breaks off {missing}"
        assert number - 1 <= len(frames) <= number
    out = tmp_path / "out.mkv"
    code, _, err = run(capsys, "video", f"{tmp_path}/cut.mkv", str(out), "--sigma", "9", "-q")
    assert code == 3 and missing in err
    with videos.read_video(out) as video:
        assert len(list(video)) == len(frames)
    with videos.read_video(tmp_path / "in.mkv") as video:
        assert len(list(video)) == 12 and not video.damage
