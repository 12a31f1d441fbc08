"""`denoise-ext video` in pipes: y4m in and out, what breaks off, late frames, full disks."""

from __future__ import annotations

import io as bytes_io
import itertools
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import BACKEND, run
from recurrent import SIGMA, network
from video_files import make_video
from y4m_files import y4m

from denoise_ext.cli._progress import ProgressLines
from denoise_ext.cli._video_frames import DenoisedFrames
from denoise_ext.io.video import read_video
from denoise_ext.models import save_model
from denoise_ext.models.fastdvdnet import FastDVDnet
from denoise_ext.tasks import VideoDenoiser
from denoise_ext.tasks.video_denoiser import LEAD_IN

SIZE = {"width": 40, "height": 24}


@pytest.fixture
def model(tmp_path):
    """A recurrent network for gray video, as a file."""
    save_model(network(), tmp_path / "net.safetensors", torch.float32)
    return str(tmp_path / "net.safetensors")


@pytest.fixture
def ahead(tmp_path):
    """A network for colour video that looks two frames ahead, as a file."""
    made = FastDVDnet(3, widths=(4, 4, 4), frame_width=2)
    made.initialise(torch.Generator().manual_seed(1))
    save_model(made.eval(), tmp_path / "ahead.safetensors", torch.float32)
    return str(tmp_path / "ahead.safetensors")


@pytest.fixture
def streams(monkeypatch):
    """Sets the standard input; returns the standard output's bytes."""

    def set_input(data: bytes) -> bytes_io.BytesIO:
        out = bytes_io.BytesIO()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=bytes_io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdout", bytes_io.TextIOWrapper(out))
        return out

    return set_input


def frames_of(data: bytes) -> list[np.ndarray]:
    with read_video(bytes_io.BytesIO(data)) as video:
        return [frame.planes[0] for frame in video]


@pytest.mark.parametrize("tag", ["mono", "mono10"])
def test_a_pipe_gets_what_push_gives(capsys, model, streams, tag):
    data = y4m(tag, 5, **SIZE)
    out = streams(data)
    code, _, err = run(capsys, "video", "-", "-", "--model", model, "--sigma", "20", *BACKEND)
    assert code == 0, err
    assert err.splitlines()[-1].startswith("5 frames denoised")
    denoiser = VideoDenoiser(network(), sigma=SIGMA)
    with read_video(bytes_io.BytesIO(data)) as video:
        wanted = [frame.with_picture(denoiser.push(frame.picture())).planes[0] for frame in video]
    for a, b in zip(frames_of(out.getvalue()), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gray_films_get_the_recurrent_network_that_ships(capsys, streams):
    data = y4m("mono", 3, **SIZE)
    out = streams(data)
    code, _, err = run(capsys, "video", "-", "-", "--sigma", "20", *BACKEND)
    assert code == 0, err
    denoiser = VideoDenoiser("rdxnet_s_gray", sigma=20, backend=BACKEND[-1])
    with read_video(bytes_io.BytesIO(data)) as video:
        wanted = [frame.with_picture(denoiser.push(frame.picture())).planes[0] for frame in video]
    for a, b in zip(frames_of(out.getvalue()), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("tag", ["420jpeg", "420p10", "422", "444"])
def test_films_in_colour_from_a_file_a_pipe_and_push_are_the_same(capsys, streams, tmp_path, tag):
    data = y4m(tag, 7, width=59, height=43)
    (tmp_path / "in.y4m").write_bytes(data)
    streams(data)
    chosen = ["--model", "rdxnet_s_gray", *BACKEND]
    pairs = []
    for name, lead_in in (("-", 0), (str(tmp_path / "in.y4m"), LEAD_IN)):
        code, _, err = run(capsys, "video", name, str(tmp_path / f"{lead_in}.y4m"), *chosen)
        assert code == 0, err
        denoiser = VideoDenoiser("rdxnet_s_gray", lead_in=lead_in, backend=BACKEND[-1])
        with read_video(bytes_io.BytesIO(data)) as video:
            made = [denoiser.push(frame) for frame in video] + denoiser.flush()
        wanted = [frame for frame in made if frame is not None]
        with read_video(tmp_path / f"{lead_in}.y4m") as video:
            pairs += zip(video, wanted, strict=True)
    assert len(pairs) == 14
    for got, frame in pairs:
        for a, b in zip(got.planes, frame.planes, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind, network", [("white", "s_gray"), ("smoothed", "m_photo")])
def test_enlarged_chroma_is_not_taken_for_correlated_noise(capsys, streams, kind, network):
    """Of 4:2:0, the network is chosen by the noise of brightness."""
    header, *frames = in_colour(kind).split(b"FRAME\n")
    planes = [np.frombuffer(frame, np.uint8).reshape(3, 64, 96) for frame in frames]
    halved = [frame[0].tobytes() + frame[1:, ::2, ::2].tobytes() for frame in planes]
    streams(b"FRAME\n".join([header.replace(b"C444", b"C420"), *halved]))
    code, _, err = run(capsys, "video", "-", "-", *BACKEND)
    assert code == 0, err
    assert f"rdxnet_{network}" in err.splitlines()[-1]


def in_colour(kind: str) -> bytes:
    """Two gray frames in 4:4:4: noise in every plane, white or smoothed, or in luma alone."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 12.0, (2, 3, 66, 98))
    if kind == "grain":
        noise[:, 1:] = 8.0  # the same in all channels of RGB
    if kind == "smoothed":
        noise = sum(noise[..., y : y + 64, x : x + 96] for y in range(3) for x in range(3)) / 3
    planes = (120 + noise[..., :64, :96]).round().clip(16, 235).astype(np.uint8)
    frames = b"".join(b"FRAME\n" + frame.tobytes() for frame in planes)
    return b"YUV4MPEG2 W96 H64 F25:1 C444\n" + frames


@pytest.mark.parametrize(
    "kind, options, network",
    [
        ("white", [], "rdxnet_s_gray"),
        ("smoothed", ["--sigma", "20"], "rdxnet_s_gray"),
        ("smoothed", [], "rdxnet_m_photo"),
        ("grain", [], "dxnet_s_photo"),
    ],
)
def test_films_in_colour_get_the_network_for_their_noise(capsys, streams, kind, options, network):
    data = in_colour(kind)
    results = []
    for chosen in ([], ["--model", network]):
        out = streams(data)
        code, _, err = run(capsys, "video", "-", "-", *chosen, *options, *BACKEND)
        assert code == 0, err
        assert network in err.splitlines()[-1]
        # the analysis is stated where it decides
        assert ("noise of the first frame" in err) == (not chosen and not options)
        results.append(out.getvalue())
    assert results[0] == results[1] != data


def test_results_that_are_late_come_all_and_in_order(capsys, ahead, streams, tmp_path):
    data = y4m("420jpeg", 6, **SIZE)
    out = streams(data)
    chosen = ["--model", ahead, "--sigma", "20", "--scene-cut", "off", *BACKEND]
    code, _, err = run(capsys, "video", "-", "-", *chosen)
    assert code == 0, err
    (tmp_path / "in.y4m").write_bytes(data)
    code, _, err = run(
        capsys, "video", str(tmp_path / "in.y4m"), str(tmp_path / "out.y4m"), *chosen
    )
    assert code == 0, err
    assert (tmp_path / "out.y4m").read_bytes() == out.getvalue()
    assert len(frames_of(out.getvalue())) == 6
    code, _, err = run(
        capsys, "video", str(tmp_path / "in.y4m"), str(tmp_path / "zero.y4m"), *chosen,
        "--strength", "0",
    )  # fmt: skip
    assert code == 0 and (tmp_path / "zero.y4m").read_bytes() == data


def test_a_pipe_into_a_file(capsys, model, streams, tmp_path):
    pytest.importorskip("av")
    streams(y4m("mono", 4, **SIZE))
    code, _, err = run(
        capsys, "video", "-", str(tmp_path / "a.mkv"), "--model", model, "--sigma", "9", *BACKEND
    )
    assert code == 0, err
    with read_video(tmp_path / "a.mkv") as video:
        assert len(list(video)) == 4 and video.info.pixel_format == "gray"


@pytest.mark.parametrize("target", ["-", "out.y4m", "out.mkv"])
def test_a_film_that_breaks_off_keeps_what_is_good(
    capsys, model, streams, tmp_path, monkeypatch, target
):
    if target == "out.mkv":
        pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    out = streams(y4m("mono", 4, **SIZE)[:-7])
    code, _, err = run(capsys, "video", "-", target, "--model", model, "--sigma", "9", *BACKEND)
    assert code == 3
    assert "frame 3 breaks off after 953 of 960 bytes" in err and "the standard input" in err
    with read_video(out if target == "-" and not out.seek(0) else target) as video:
        assert len(list(video)) == 3 and video.damage == ""


def test_a_file_that_breaks_off_stays_playable(capsys, model, tmp_path):
    make_video(tmp_path / "in.mkv", "gray", frames=12, size=(64, 48), audio=False)
    data = (tmp_path / "in.mkv").read_bytes()
    (tmp_path / "in.mkv").write_bytes(data[: len(data) * 2 // 3])
    out = tmp_path / "out.mkv"
    code, _, err = run(
        capsys, "video", str(tmp_path / "in.mkv"), str(out), "--model", model, "--sigma", "9",
        *BACKEND,
    )  # fmt: skip
    with read_video(tmp_path / "in.mkv") as video, read_video(out) as result:
        good = list(video)
        assert len(list(result)) == len(good) and 4 <= len(good) < 12
        assert result.damage == ""
    assert code == 3
    missing = len(data) - len(data) * 2 // 3
    breaks_off = f"the file breaks off after frame {len(good) - 1}: {missing} bytes are missing"
    assert breaks_off in video.damage and video.damage in err


def test_a_film_of_damaged_frames_alone(capsys, tmp_path):
    av = pytest.importorskip("av")
    path, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=25, options={"level": "3", "slicecrc": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        film.mux(stream.encode(None))
    with av.open(str(path)) as container:
        middles = [p.pos + p.size // 2 for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for middle in middles:
        data[middle] ^= 255
    path.write_bytes(data)
    code, printed, err = run(capsys, "video", str(path), str(out), *BACKEND)
    assert code == 3 and "2 frames were passed through as they are (number 0, 1)" in err
    assert "(no network, for all are damaged; " in printed


def test_a_closed_pipe_names_the_frame(model, tmp_path):
    (tmp_path / "in.y4m").write_bytes(y4m("mono", 200, **SIZE))
    command = [sys.executable, "-m", "denoise_ext.cli", "video", str(tmp_path / "in.y4m"), "-"]
    with subprocess.Popen(
        [*command, "--model", model, "--sigma", "9", *BACKEND],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.read(3000)
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait() == 1
    assert "closed it at frame" in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.parametrize("frames, room", [(60, 300_000), (60, 0), (1, 1000), (1, 17_000)])
@pytest.mark.parametrize("target", ["out.y4m", "out.mkv"])
def test_a_full_disk_names_the_frame_and_leaves_no_file(model, tmp_path, target, frames, room):
    if target == "out.mkv":
        pytest.importorskip("av")
    (tmp_path / "in.y4m").write_bytes(y4m("mono", frames, width=160, height=120))
    folder = tmp_path / "out"
    folder.mkdir()

    def small() -> None:  # what is written beyond fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = subprocess.run(
        [sys.executable, "-m", "denoise_ext.cli", "video", str(tmp_path / "in.y4m"),
         str(folder / target), "--model", model, "--sigma", "9", *BACKEND],
        preexec_fn=small, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert target in done.stderr and "too large" in done.stderr
    assert "frame " in done.stderr or room < 300_000  # what buffers hold has no number any more
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_an_output_that_cannot_be_written(model, tmp_path):
    (tmp_path / "in.y4m").write_bytes(y4m("mono", 9, width=160, height=120))
    command = [sys.executable, "-m", "denoise_ext.cli", "video", str(tmp_path / "in.y4m"), "-"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*command, "--model", model, "--sigma", "9", *BACKEND], stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("denoise-ext: error: frame 0 cannot be written")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["in.y4m", "-", "--codec", "ffv1"], "--codec"), (["in.y4m", "-", "--quality", "3"], "3"),
        (["in.y4m", "o.y4m", "--codec", "ffv1"], "ffv1"), (["in.y4m", "-", "--realtime"], "in.y4m"),
        (["text.y4m", "-"], "not a video"),
        (["in.y4m", "o.gif"], "gif"), (["in.y4m", "in.y4m"], "exists"),
    ],
)  # fmt: skip
def test_what_is_refused(capsys, model, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.y4m").write_bytes(y4m("mono", 2, **SIZE))
    (tmp_path / "text.y4m").write_text("no film")
    code, out, err = run(capsys, "video", *arguments, "--model", model, *BACKEND)
    assert code == 2 and named in err and out == "" and "\n" not in err[:-1]
    code, _, err = run(capsys, "video", "in.y4m", "-", "--scene-cut", "2")
    assert code == 2 and "--scene-cut" in err and "'2'" in err


# ---- late frames


class Slow:
    """A denoiser that takes as long as four frames."""

    sigma = None

    def __init__(self, seconds: float) -> None:
        self.seconds, self.seen = seconds, 0

    def takes_planes(self, frame):
        return False

    def push(self, picture):
        self.seen += 1
        time.sleep(self.seconds)
        return picture + 0.1

    def flush(self):
        return []


class Camera(bytes_io.RawIOBase):
    """Gives a frame every so many seconds, whether the last one was read or not."""

    def __init__(self, data: bytes, first: int, size: int, seconds: float) -> None:
        self.data, self.first, self.size, self.seconds = data, first, size, seconds
        self.start, self.at = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        frame = max(self.at - self.first, 0) // self.size
        time.sleep(max(0.0, self.start + frame * self.seconds - time.monotonic()))
        most = self.first - self.at if self.at < self.first else self.size
        part = self.data[self.at : self.at + min(len(buffer), most)]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)


@pytest.mark.parametrize("realtime", [False, True])
def test_late_frames_pass_in_order_and_are_counted(realtime):
    data, first = y4m("mono", 40, **SIZE), y4m("mono", 0, **SIZE)
    size = (len(data) - len(first)) // 40
    stream = bytes_io.BufferedReader(Camera(data, len(first), size, 0.01), size)
    with read_video(stream) as video:
        slow = Slow(0.04)
        frames = DenoisedFrames(video, slow, ProgressLines("speed", quiet=True), realtime)
        made = [frame.planes[0] for frame in frames]
    with read_video(bytes_io.BytesIO(data)) as video:
        before = [frame.planes[0] for frame in video]
    passed = [np.array_equal(a, b) for a, b in zip(made, before, strict=True)]
    assert frames.count == 40 and frames.late == sum(passed) and slow.seen == 40 - sum(passed)
    assert sum(passed) > 5 if realtime else not any(passed)


def test_damaged_frames_do_not_wait_for_the_lead_in(monkeypatch):
    """A result that waits for later frames holds back a few of them alone."""
    data, held = y4m("mono", 40, **SIZE), []
    ready = DenoisedFrames._ready

    def counted(self):
        held.append(len(self._held))
        return ready(self)

    monkeypatch.setattr(DenoisedFrames, "_ready", counted)
    denoiser = VideoDenoiser("rdxnet_s_gray", sigma=20, lead_in=4)
    with read_video(bytes_io.BytesIO(data)) as video:
        source = [replace(frame, corrupt=i >= 3) for i, frame in enumerate(video)]
        monkeypatch.setattr(type(video), "__iter__", lambda _: iter(source))
        made = list(DenoisedFrames(video, denoiser, ProgressLines("speed", quiet=True)))
    assert max(held) == 9 and [frame.pts for frame in made] == [frame.pts for frame in source]
    changed = [not np.array_equal(a.planes[0], b.planes[0]) for a, b in zip(made, source)]
    assert changed == [True] * 3 + [False] * 37


def test_decoding_denoising_and_writing_overlap():
    """Three stages of the same length take hardly longer than one of them."""
    data = y4m("mono", 30, **SIZE)
    with read_video(bytes_io.BytesIO(data)) as video:
        running = {"most": 0, "now": 0}

        class Busy(Slow):
            def push(self, picture):
                running["now"] += 1
                result = super().push(picture)
                running["now"] -= 1
                return result

        frames = iter(DenoisedFrames(video, Busy(0.02), ProgressLines("speed", quiet=True)))
        for _ in itertools.islice(frames, 30):  # the encoder
            time.sleep(0.02)
            running["most"] = max(running["most"], running["now"])
    assert running["most"] == 1  # a frame was being denoised while another was written


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
def test_between_two_programs(model, tmp_path):
    source = "ffmpeg -v error -f lavfi -i testsrc2=size=52x38:rate=24:duration=0.5"
    source += " -pix_fmt gray -f yuv4mpegpipe -"
    options = " ".join(["--model", model, "--sigma", "9", *BACKEND])
    middle = f"{sys.executable} -m denoise_ext.cli video - - {options}"
    target = f"ffmpeg -v error -i - -c:v ffv1 {tmp_path / 'out.mkv'}"
    done = subprocess.run(
        f"{source} | {middle} | {target}", shell=True, capture_output=True, text=True
    )
    assert done.returncode == 0 and "12 frames denoised" in done.stderr, done.stderr
    with read_video(tmp_path / "out.mkv") as video:
        assert len(list(video)) == 12 and (video.info.width, video.info.height) == (52, 38)
