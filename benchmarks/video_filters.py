"""FFmpeg's denoising filters on 8-bit luma, by the program `ffmpeg` or by PyAV's libraries."""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from denoise_ext.io.video import Video, VideoFrame, VideoInfo, read_video, write_y4m
from denoise_ext.io.video.frames import Colour

_RATE = Fraction(25)
_LUMA = Colour("ycbcr", 8, False)


@dataclass(frozen=True)
class Filter:
    """A filter with parameters that are chosen for each noise level."""

    name: str
    text: str
    """As `-vf` takes it, with the names of `grid` in braces."""
    grid: dict[str, tuple[float, ...]]
    """Every combination is tried."""
    most: dict[str, float]
    """The largest value of each that FFmpeg takes; all are multiplied by sigma first."""

    def settings(self, sigma: float) -> list[str]:
        """All that are tried for a noise level, as `-vf` takes them."""
        found = []
        for values in itertools.product(*self.grid.values()):
            chosen = dict(zip(self.grid, values, strict=True))
            scaled = {name: min(v * sigma, self.most[name]) for name, v in chosen.items()}
            found.append(self.text.format(**{name: f"{v:.3g}" for name, v in scaled.items()}))
        return list(dict.fromkeys(found))


FILTERS = (
    Filter(
        "nlmeans", "nlmeans=s={s}:p=7:r=15", {"s": (0.5, 0.6, 0.7, 0.8, 1.0)}, {"s": 30.0}
    ),
    Filter(
        "hqdn3d", "hqdn3d={space}:{space}:{time}:{time}",
        {"space": (0.5, 1.0, 2.0, 3.0), "time": (1.0, 2.0, 3.0, 5.0)},
        {"space": 255.0, "time": 255.0},
    ),
    Filter(
        "atadenoise", "atadenoise=0a={one}:0b={all}:s=9",
        {"one": (0.005, 0.01, 0.015), "all": (0.02, 0.03, 0.04)}, {"one": 0.3, "all": 5.0},
    ),
)  # fmt: skip


def where(name: str) -> str:
    """What runs a filter: "ffmpeg" (the program), "PyAV"; "" where nothing has it."""
    if shutil.which("ffmpeg") is not None:
        listed = subprocess.run(["ffmpeg", "-v", "error", "-filters"], capture_output=True)
        if f" {name} ".encode() in listed.stdout:
            return "ffmpeg"
    try:
        from av.filter import filters_available
    except ImportError:
        return ""
    return "PyAV" if name in filters_available else ""


def run_filter(frames: np.ndarray, setting: str) -> np.ndarray:
    """(T, H, W) uint8 to the same: luma of a 4:2:0 film with even chroma."""
    by = _by_program if where(setting.partition("=")[0]) == "ffmpeg" else _by_pyav
    return by(frames, setting)


def _by_program(frames: np.ndarray, setting: str) -> np.ndarray:
    film, out = _Film(frames), io.BytesIO()
    write_y4m(out, film, film)
    command = ["ffmpeg", "-v", "error", "-threads", "2", "-i", "-", "-vf", setting]
    done = subprocess.run(
        [*command, "-f", "yuv4mpegpipe", "-"], input=out.getvalue(), capture_output=True, check=True
    )
    with read_video(io.BytesIO(done.stdout)) as video:
        return np.stack([frame.planes[0] for frame in video])


def _by_pyav(frames: np.ndarray, setting: str) -> np.ndarray:
    import av
    from av.filter import Graph

    count, height, width = frames.shape
    name, _, arguments = setting.partition("=")
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format="yuv420p", time_base=1 / _RATE)
    step, sink = graph.add(name, arguments), graph.add("buffersink")
    source.link_to(step)
    step.link_to(sink)
    graph.configure()
    made = []

    def pull() -> None:
        while True:
            try:
                plane = graph.pull().planes[0]
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            made.append(rows[:height, :width].copy())

    for i, entry in enumerate(_Film(frames)):
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, pixels in zip(frame.planes, entry.planes, strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            rows[:, : pixels.shape[1]] = pixels
            plane.update(rows.tobytes())
        frame.pts, frame.time_base = i, 1 / _RATE
        graph.push(frame)
        pull()
    graph.push(None)
    pull()
    assert len(made) == count, f"{setting}: {len(made)} of {count} frames"
    return np.stack(made)


class _Film(Video):
    """(T, H, W) uint8 as the luma of a 4:2:0 film with even chroma."""

    def __init__(self, luma: np.ndarray) -> None:
        super().__init__("-")
        self._luma = luma
        self.time_base = 1 / _RATE
        self.info = VideoInfo(*luma.shape[:0:-1], len(luma), _RATE, "yuv420p", "rawvideo")

    def __iter__(self) -> Iterator[VideoFrame]:
        height, width = self._luma.shape[1:]
        chroma = np.full((-(-height // 2), -(-width // 2)), 128, np.uint8)
        for i, luma in enumerate(self._luma):
            yield VideoFrame((luma, chroma, chroma), _LUMA, i, 1 / _RATE)

    def close(self) -> None:
        """Nothing is open."""
