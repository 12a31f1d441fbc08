"""The frames of a video on their way through a denoiser: decoded, denoised and written at once."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from denoise_ext.io import ImageError
from denoise_ext.io.video import VideoFrame
from denoise_ext.jobs.pipeline import Finished, Stage, run_stages

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

    from denoise_ext.cli._progress import ProgressLines
    from denoise_ext.io.video import Video

_WAITING = 2  # frames between two stages
_HELD = 8  # frames that wait, from which on damaged ones do not wait for a result before them
_LATE = 2  # newer frames that are there already when a frame's turn comes


class FrameDenoiser(Protocol):
    """What denoises pictures in their order."""

    @property
    def sigma(self) -> float | None:
        """The level on the 0-255 scale that the last result was denoised for."""

    def takes_planes(self, frame: VideoFrame) -> bool:
        """Whether `push` is to get the frame itself, not its picture."""
        ...

    def push(self, given: VideoFrame | np.ndarray, /) -> VideoFrame | np.ndarray | None:
        """The next frame or its picture; returns a result of the same kind, if there is one."""

    def flush(self) -> list[VideoFrame | np.ndarray]:
        """The results that are left."""
        ...


@dataclass
class _Frame:
    number: int
    frame: VideoFrame
    given: VideoFrame | np.ndarray | None = None
    """What the denoiser gets, then the result; None as a result: the frame passes as it is."""
    done: bool = False
    """Whether it is the result."""


class DenoisedFrames:
    """The frames of a video, denoised in their order; damaged ones as they are.

    Reading, denoising and writing overlap: each has a thread. At most seven frames are under way,
    and eight behind those whose results come late. A video that breaks off ends after its last good
    frame; `Video.broken` has the reason.

    Args:
        video: read from the first frame on.
        denoiser: called from one thread.
        progress: shown in it.
        realtime: pass a frame through as it is where two newer ones are waiting already.
        live: the source may be silent for long; nobody waits for its next frame at the end.

    Attributes:
        count: frames that were handed out so far.
        late: how many of them were passed through for being late.
    """

    def __init__(
        self,
        video: Video,
        denoiser: FrameDenoiser,
        progress: Progress | ProgressLines,
        realtime: bool = False,
        live: bool = False,
    ) -> None:
        self._video, self._denoiser, self._progress = video, denoiser, progress
        self._realtime, self._live, self._arrived = realtime, live, 0
        self._held: deque[_Frame] = deque()  # in order; the first one has no result yet
        # Only the denoising thread asks: the answer may load the network.
        self._takes_planes: bool | None = None
        self.count = self.late = 0

    def __iter__(self) -> Generator[VideoFrame, None, None]:
        task = self._progress.add_task("denoising", total=self._video.info.frames, speed="")
        start = time.perf_counter()
        for frame in self._results():
            yield frame
            self.count += 1
            rate = self.count / (time.perf_counter() - start)
            level = self._denoiser.sigma
            shown = f"{rate:.1f} frames/s" + ("" if level is None else f", sigma {level:.1f}")
            self._progress.update(task, advance=1, speed=shown)

    def _results(self) -> Iterator[VideoFrame]:
        stages = [Stage(self._converted), Stage(self._denoised), Stage(_finished)]
        with contextlib.closing(self._run(stages)) as entries:
            for entry in entries:
                if entry.error is not None:
                    raise entry.error
                yield from entry.value
        self._flush()
        yield from _finished(self._ready())

    def _run(self, stages: list[Stage]) -> Generator[Finished, None, None]:
        # A live source may be silent for long; files are closed afterwards, so reading must end.
        return run_stages(self._read(), stages, _WAITING, wait_for_items=not self._live)

    def _read(self) -> Iterator[_Frame]:
        """The frames of the video; an error after the first one ends it."""
        frames = iter(self._video)
        for number in itertools.count():
            try:
                frame = next(frames, None)
            except ImageError as error:
                if number == 0:
                    raise
                self._video.broken = str(error)
                return
            if frame is None:
                return
            self._arrived = number + 1
            yield _Frame(number, frame)

    def _converted(self, item: _Frame) -> _Frame:
        known = self._takes_planes is not None
        if known and not item.frame.corrupt and not self._is_late(item):
            item.given = item.frame if self._takes_planes else item.frame.picture()
        return item

    def _denoised(self, item: _Frame) -> list[_Frame]:
        """The frames that have a result now, in their order."""
        self._held.append(item)
        late = not item.frame.corrupt and self._is_late(item)
        if item.frame.corrupt or late:
            self.late += late
            item.given, item.done = None, True
            if len(self._held) > _HELD:
                self._flush()
        else:
            # The first frames are not converted yet, nor is one that was late a moment ago.
            given = item.given
            if given is None:
                frame = item.frame
                given = frame if self._denoiser.takes_planes(frame) else frame.picture()
            result = self._denoiser.push(given)
            if self._takes_planes is None:
                self._takes_planes = self._denoiser.takes_planes(item.frame)
            if result is not None:
                self._assign(result)
        return self._ready()

    def _flush(self) -> None:
        for result in self._denoiser.flush():
            self._assign(result)

    def _is_late(self, item: _Frame) -> bool:
        return self._realtime and self._arrived - item.number - 1 >= _LATE

    def _assign(self, result: VideoFrame | np.ndarray) -> None:
        """The result of the first frame that waits for one."""
        waiting = next(item for item in self._held if not item.done)
        waiting.given, waiting.done = result, True

    def _ready(self) -> list[_Frame]:
        ready = []
        while self._held and self._held[0].done:
            ready.append(self._held.popleft())
        return ready


def _finished(items: list[_Frame]) -> list[VideoFrame]:
    return [_result(item.frame, item.given) for item in items]


def _result(frame: VideoFrame, result: VideoFrame | np.ndarray | None) -> VideoFrame:
    if result is None:
        return frame
    return result if isinstance(result, VideoFrame) else frame.with_picture(result)
