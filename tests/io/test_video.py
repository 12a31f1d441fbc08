"""denoise_ext.io.video and `denoise-ext video`: nothing lost but what is taken for noise."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from command_line import BACKEND, checkpoints, run  # noqa: F401  a fixture
from shared_data import needs
from video_files import RNG, make_video

from denoise_ext import io
from denoise_ext.io import video as videos
from denoise_ext.io.video import Colour, VideoFrame

av = pytest.importorskip("av")
FORMATS = [
    "yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le", "gray", "gray10le", "gbrp10le",
    "bgr0",
]  # fmt: skip


def read_all(path) -> tuple[videos.Video, list[VideoFrame]]:
    with videos.read_video(path) as video:
        return video, list(video)


def sound_of(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio) if p.size]


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_unchanged_frames_come_back_bit_for_bit(tmp_path, pixel_format):
    make_video(tmp_path / "in.mkv", pixel_format, color_range=1, colorspace=5)
    with videos.read_video(tmp_path / "in.mkv") as video:
        # through RGB and back, not merely copied
        frames = (frame.with_picture(frame.picture()) for frame in video)
        assert videos.write_video(tmp_path / "out.mkv", frames, video) == []
    old, before = read_all(tmp_path / "in.mkv")
    new, after = read_all(tmp_path / "out.mkv")
    assert new.info == old.info
    assert (old.corrupt, old.lost, old.notes) == (0, 0, [])
    assert len(before) == 6
    for one, other in zip(before, after, strict=True):
        assert one.colour == other.colour
        assert one.seconds == other.seconds
        for a, b in zip(one.planes, other.planes, strict=True):
            np.testing.assert_array_equal(a, b)
    assert sound_of(tmp_path / "out.mkv") == sound_of(tmp_path / "in.mkv") != []
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert out.metadata["title"] == "a film"
        stream = out.streams.video[0]
        assert stream.metadata["language"] == "deu"


def test_pixels_that_are_not_square(tmp_path):
    make_video(tmp_path / "in.mp4", codec="libx264")
    with videos.read_video(tmp_path / "in.mp4") as video:
        frames = list(video)
        assert videos.write_video(tmp_path / "out.mp4", frames, video) == []
        (note,) = videos.write_video(tmp_path / "out.mkv", frames, video)
    assert note == "that pixels are 4:3 as wide as high cannot be kept here (.mp4 can)"
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert out.streams.video[0].codec_context.name == "ffv1"


@pytest.mark.parametrize("matrix, name", [(1, "bt709"), (5, "bt601")])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_agree_with_ffmpeg(matrix, name, full_range):
    from av.video.reformatter import ColorRange, Colorspace

    planes = tuple(RNG.integers(64, 192, (16, 24), dtype=np.uint8) for _ in range(3))
    frame = VideoFrame(planes, Colour("ycbcr", 8, full_range, matrix), 0, Fraction(1, 25))
    theirs = av.VideoFrame.from_ndarray(np.stack(planes), "yuv444p").reformat(
        format="gbrpf32le",
        src_colorspace=Colorspace.ITU709 if name == "bt709" else Colorspace.ITU601,
        src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    green, blue, red = (np.frombuffer(p, np.float32).reshape(16, -1)[:, :24] for p in theirs.planes)
    inside = np.stack([red, green, blue], -1)
    # FFmpeg computes in fixed point of 8 to 16 bits and clips; one 8-bit step is 1/255
    np.testing.assert_allclose(frame.picture().clip(0, 1), inside, atol=1.5 / 255)


def test_a_change_goes_to_the_planes_it_belongs_to():
    planes = (np.full((5, 7), 100, np.uint8),) + (np.full((3, 4), 128, np.uint8),) * 2
    frame = VideoFrame(planes, Colour("ycbcr", 8, False, 1), 0, Fraction(1, 25))
    brighter = frame.with_picture(frame.picture() + 10 / 219)
    np.testing.assert_array_equal(brighter.planes[0], 110)
    np.testing.assert_array_equal(brighter.planes[1], 128)
    red = frame.picture()
    red[..., 0] += 0.1
    changed = frame.with_picture(red)
    kr, kb = 0.2126, 0.0722  # BT.709
    assert changed.planes[0][0, 0] == round(100 + 0.1 * kr * 219)
    assert changed.planes[1][2, 3] == round(128 - 0.1 * kr / (2 * (1 - kb)) * 224)
    assert changed.planes[2][2, 3] == round(128 + 0.1 * (1 - kr) / (2 * (1 - kr)) * 224)
    with pytest.raises(ValueError, match="picture must be"):
        frame.with_picture(red[:4])


def test_windows_repeat_the_ends():
    frames = [
        VideoFrame((np.zeros((1, 1), np.uint8),), Colour("gray", 8, True), n, Fraction(1, 25))
        for n in range(4)
    ]
    seen = [[f.pts for f in window] for window in videos.windows(frames, 2)]
    assert seen == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]
    assert [len(w) for w in videos.windows(frames[:1], 2)] == [5]
    assert list(videos.windows([], 2)) == []


def test_a_picture_shown_turned_is_turned(tmp_path):
    make_video(tmp_path / "a.mp4", codec="libx264", audio=False)
    flat = read_all(tmp_path / "a.mp4")[1]
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # ISO 14496-12, 8.3.2: version 0
    data[matrix : matrix + 36] = struct.pack(
        ">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30
    )  # x' = -y, y' = x: clockwise, as y points down
    (tmp_path / "b.mp4").write_bytes(data)
    video, turned = read_all(tmp_path / "b.mp4")
    assert (video.info.width, video.info.height) == (30, 36)
    for one, other in zip(flat, turned, strict=True):
        for a, b in zip(one.planes, other.planes):
            np.testing.assert_array_equal(np.rot90(a, -1), b)


def test_damaged_videos_are_reported_and_passed_through(tmp_path):
    make_video(tmp_path / "raw.mkv", frames=10, size=(64, 48), audio=False)
    with videos.read_video(tmp_path / "raw.mkv") as video:
        clean = list(video)
        videos.write_video(tmp_path / "in.mkv", clean, video)
    whole = (tmp_path / "in.mkv").read_bytes()
    data = bytearray(whole)
    for place in range(len(data) // 3, len(data) // 3 + 40):
        data[place] ^= 0x55
    (tmp_path / "bad.mkv").write_bytes(data)
    video, frames = read_all(tmp_path / "bad.mkv")
    differ = [not np.array_equal(a.planes[0], b.planes[0]) for a, b in zip(clean, frames)]
    assert [frame.corrupt for frame in frames] == differ
    assert sum(differ) == video.corrupt == 1
    rng = np.random.default_rng(3)
    for _ in range(40):
        damaged = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, len(damaged), 20):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / "bad.mkv").write_bytes(damaged)
        try:
            read_all(tmp_path / "bad.mkv")
        except io.ImageError as error:
            assert "\n" not in str(error)


def test_refusals_are_one_line(tmp_path):
    make_video(tmp_path / "in.mkv")
    with pytest.raises(io.ImageError, match="does not exist"):
        videos.read_video(tmp_path / "none.mkv")
    (tmp_path / "text.mkv").write_text("this is no video" * 100)
    with pytest.raises(io.ImageError, match="not a video"):
        videos.read_video(tmp_path / "text.mkv")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:1,\nin.mkv\n#EXT-X-ENDLIST\n")
    with pytest.raises(io.ImageError, match="not a video"):  # may name any file or address
        videos.read_video(tmp_path / "list.mkv")
    with pytest.raises(io.ImageError, match=r"36 x 30 = 1080 pixels per frame.*limit of 1000"):
        videos.read_video(tmp_path / "in.mkv", max_pixels=1000)
    with videos.read_video(tmp_path / "in.mkv") as video:
        for name, codec, message in [
            ("a.gif", "ffv1", "suffix '.gif'"), ("a.mkv", "nonsense", "no video encoder"),
            ("in.mkv", "ffv1", "exists"), ("none/a.mkv", "ffv1", "does not exist"),
        ]:  # fmt: skip
            with pytest.raises(io.ImageError, match=message):
                videos.write_video(tmp_path / name, video, video, codec=codec)
    make_video(tmp_path / "wide.mkv", "yuv444p12le")
    with (
        videos.read_video(tmp_path / "wide.mkv") as video,
        pytest.raises(io.ImageError, match=r"'libx264'.*yuv444p12le"),
    ):
        videos.write_video(tmp_path / "b.mp4", video, video, codec="libx264")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "in.mkv", "list.mkv", "text.mkv", "wide.mkv",
    ]  # fmt: skip


def test_a_film_of_others_keeps_sound_and_times(tmp_path):
    path = needs("video/nasa_mp4/nasa_13013.mp4")
    with videos.read_video(path) as video:
        first = [frame for frame, _ in zip(video, range(20))]
        notes = videos.write_video(tmp_path / "out.mkv", first, video)
    assert notes == [f"stream {n} (subtitle, mov_text) cannot be kept here" for n in (2, 5)]
    assert sound_of(tmp_path / "out.mkv") == sound_of(path)
    again = read_all(tmp_path / "out.mkv")[1]
    # the sound begins before 0, which Matroska cannot say: all is later by the same time
    late = [b.seconds - a.seconds for a, b in zip(first, again, strict=True)]
    assert max(late) - min(late) <= 0.001  # it counts in milliseconds
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a.planes[0], b.planes[0])


def test_command(tmp_path, capsys, monkeypatch, checkpoints):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "in.mkv", "yuv420p10le", size=(40, 32))
    model = ["--model", checkpoints["colour"], *BACKEND]
    code, out, err = run(capsys, "video", "in.mkv", "out.mkv", *model)
    assert (code, err) == (0, "")
    assert "6 frames denoised" in out
    assert "(estimated)" in out
    before, after = read_all("in.mkv")[1], read_all("out.mkv")[1]
    assert not np.array_equal(before[0].planes[0], after[0].planes[0])
    assert after[0].planes[0].dtype == np.uint16
    assert sound_of("out.mkv") == sound_of("in.mkv")
    code, out, _ = run(
        capsys, "video", "in.mkv", "same.mkv", "--strength", "0", "--sigma", "15", *model
    )
    assert code == 0
    assert "sigma 15.0)" in out
    for a, b in zip(before, read_all("same.mkv")[1], strict=True):
        np.testing.assert_array_equal(a.planes[0], b.planes[0])
    code, _, err = run(capsys, "video", "in.mkv", "out.mkv", "--sigma", "15", *model)
    assert code == 2
    assert err == "denoise-ext: error: 'out.mkv' exists; --overwrite replaces it\n"
