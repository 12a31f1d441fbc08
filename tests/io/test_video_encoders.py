"""Films of odd sizes and in full range, and encoders that refuse."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from video_files import make_video

from denoise_ext import io
from denoise_ext.io import video as videos

av = pytest.importorskip("av")


def round_trip(source, target, **options):
    """Read, write and read again; the colour of the frames and whether all are equal."""
    with videos.read_video(source) as video:
        before = list(video)
        videos.write_video(target, before, video, **options)
    with videos.read_video(target) as again:
        after = list(again)
        assert again.info.pixel_format == video.info.pixel_format
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        for a, b in zip(one.planes, other.planes, strict=True):
            np.testing.assert_array_equal(a, b)
    return before[0].colour, after[0].colour


# FFV1 divides a picture into slices, and few numbers of them divide odd sizes of 4:2:0.
@pytest.mark.parametrize("size", [(47, 35), (46, 479), (8, 23), (1, 1)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "gray"])
def test_odd_sizes_are_written(tmp_path, size, pixel_format):
    make_video(tmp_path / "in.nut", pixel_format, "rawvideo", 2, size, audio=False)
    round_trip(tmp_path / "in.nut", tmp_path / "out.mkv")


def test_8k_is_written(tmp_path):
    make_video(tmp_path / "in.nut", "yuv420p", "rawvideo", 1, (7680, 4320), audio=False)
    round_trip(tmp_path / "in.nut", tmp_path / "out.mkv")


@pytest.mark.parametrize("codec, suffix", [("ffv1", ".mkv"), ("mjpeg", ".mkv"), ("", ".y4m")])
def test_full_range_by_its_old_name(tmp_path, codec, suffix):
    # as motion JPEG and H.264 of phones are decoded
    make_video(tmp_path / "in.mkv", "yuvj420p", "mjpeg", 3, audio=False)
    with av.open(str(tmp_path / "in.mkv")) as container:
        (decoded, *_) = container.decode(video=0)
    assert decoded.format.name == "yuvj420p"
    with videos.read_video(tmp_path / "in.mkv") as video:
        frame = next(iter(video))
        assert video.info.pixel_format == "yuv420p"
        assert frame.colour.full_range
        stored = np.frombuffer(decoded.planes[0], np.uint8).reshape(-1, decoded.planes[0].line_size)
        np.testing.assert_array_equal(frame.planes[0], stored[:30, :36])
    if codec == "mjpeg":  # with a loss, but in the same range
        with videos.read_video(tmp_path / "in.mkv") as video:
            videos.write_video(tmp_path / "out.mkv", video, video, codec=codec)
        with videos.read_video(tmp_path / "out.mkv") as video:
            assert next(iter(video)).colour.full_range
    else:
        old, new = round_trip(tmp_path / "in.mkv", tmp_path / f"out{suffix}")
        assert old.full_range
        assert new.full_range  # y4m has no matrix


@pytest.mark.parametrize("pixel_format", ["gray16be", "rgb48be"])
def test_high_bytes_first(tmp_path, pixel_format):
    make_video(tmp_path / "in.mov", pixel_format, "png", 2, audio=False)
    with av.open(str(tmp_path / "in.mov")) as container:
        (decoded, *_) = container.decode(video=0)
    assert decoded.format.name == pixel_format
    stored = np.frombuffer(decoded.planes[0], np.uint8).reshape(-1, decoded.planes[0].line_size)
    samples = np.frombuffer(np.ascontiguousarray(stored[:30]), ">u2").reshape(30, -1)
    with videos.read_video(tmp_path / "in.mov") as video:
        planes = next(iter(video)).planes
    if pixel_format == "gray16be":
        np.testing.assert_array_equal(planes[0], samples[:, :36])
    else:
        pixels = samples[:, :108].reshape(30, 36, 3)
        np.testing.assert_array_equal(np.stack(planes, -1), pixels[..., [1, 2, 0]])
    round_trip(tmp_path / "in.mov", tmp_path / "out.mkv")


def test_an_encoder_that_refuses_says_why(tmp_path):
    make_video(tmp_path / "in.nut", "yuv420p", "rawvideo", 2, (47, 36), audio=False)
    with (
        videos.read_video(tmp_path / "in.nut") as video,
        pytest.raises(io.ImageError, match=r"'libx264' refuses 47 x 36 .*yuv420p: width not divis"),
    ):
        videos.write_video(tmp_path / "out.mkv", video, video, codec="libx264")
    assert [path.name for path in tmp_path.iterdir()] == ["in.nut"]


@pytest.mark.parametrize("codec", [None, "ffv1"])
def test_a_lossless_codec_has_no_quality(tmp_path, codec):
    make_video(tmp_path / "in.mkv", frames=2, audio=False)
    with (
        videos.read_video(tmp_path / "in.mkv") as video,
        pytest.raises(io.ImageError, match="quality 18: codec 'ffv1' is lossless"),
    ):
        videos.write_video(tmp_path / "out.mkv", video, video, codec=codec, quality=18)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def test_alpha_beside_the_picture_is_named(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as out:  # VP9 has alpha in data beside the picture
        stream = out.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 36, 30, "yuva420p"
        for number in range(2):
            frame = av.VideoFrame(36, 30, "yuva420p")
            for plane in frame.planes:
                plane.update(bytes([100]) * plane.buffer_size)
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with videos.read_video(tmp_path / "in.mkv") as video:
        assert video.info.pixel_format == "yuv420p"
        assert video.notes == ["its alpha channel is not read"]


def test_mastering_data_are_named(tmp_path):
    levels = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        stream = out.add_stream("libx265", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.options = {"x265-params": f"log-level=none:{levels}:max-cll=1000,400:hdr-opt=1"}
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane in frame.planes:
            plane.update(bytes([0, 2]) * (plane.buffer_size // 2))
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with videos.read_video(tmp_path / "in.mkv") as video:
        assert video.notes == ["its HDR mastering data are not kept"]


def test_a_disk_that_is_full_at_the_very_end(tmp_path, capfd):
    """Wherever the room ends, the index at the end included, there is one error and no file."""
    make_video(tmp_path / "in.mkv", frames=6, size=(96, 64), audio=False)
    with videos.read_video(tmp_path / "in.mkv") as video:
        frames = list(video)
        videos.write_video(tmp_path / "out.mkv", frames, video)
        size = (tmp_path / "out.mkv").stat().st_size
        (tmp_path / "out.mkv").unlink()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for room in range(1, size, 997):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            try:
                with pytest.raises(io.ImageError, match="too large"):
                    videos.write_video(tmp_path / "out.mkv", frames, video)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
    assert capfd.readouterr().err == ""
