"""``denoise-ext video IN OUT``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from denoise_ext.cli.common import (
    EXIT_SOME_FAILED,
    CliError,
    add_max_pixels_argument,
    add_memory_arguments,
    add_model_arguments,
    add_precision_argument,
    importing_torch,
    max_pixels,
    progress_bar,
    run_options,
    sigma_type,
    strength_type,
    whole_number,
)

if TYPE_CHECKING:
    import numpy as np

    from denoise_ext.cli._video_frames import FrameDenoiser
    from denoise_ext.io.video import Video, VideoFrame

_STREAM = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "input", metavar="IN", help="a video file, or - for y4m on the standard input"
    )
    parser.add_argument(
        "output", metavar="OUT",
        help="the video to write: .mkv (holds everything), .mp4, .mov, .avi, .webm, .nut or .y4m;"
        " or - for y4m on the standard output",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="standard deviation of white noise on the 0-255 scale, for all frames; default:"
        " estimated from the film",
    )  # fmt: skip
    parser.add_argument(
        "--strength", type=strength_type, default=1.0, metavar="0..1",
        help="blend of input and result; 0: the input, 1: the result (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--scene-cut", type=_scene_cut, default="auto", metavar="auto|off|0..1",
        help="with a recurrent network: share of changed blocks from which a frame begins a scene;"
        " off: never (default: auto, 0.6)",
    )  # fmt: skip
    parser.add_argument(
        "--realtime", action="store_true",
        help="with - as IN: pass frames through as they are where two newer ones wait already",
    )  # fmt: skip
    parser.add_argument(
        "--codec",
        help="encoder: ffv1 is lossless, libx264 and libx265 are small (default: ffv1)",
    )
    parser.add_argument(
        "--quality", type=whole_number(0), metavar="CRF",
        help="constant rate factor of a lossy codec; 0: best; libx264: up to 51",
    )  # fmt: skip
    add_model_arguments(parser)
    add_precision_argument(parser)
    add_memory_arguments(parser)
    add_max_pixels_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    """Carry the command out; returns the exit code."""
    _check_streams(args)
    with importing_torch():
        from denoise_ext.cli._video_frames import DenoisedFrames
        from denoise_ext.io.video import check_can_write_video, read_video, y4m_format
        from denoise_ext.tasks.video_denoiser import VIDEO_OF_WHITE_NOISE

    if args.output != _STREAM:
        check_can_write_video(args.output, args.codec, args.overwrite, args.quality)
    # A wrong model is an error before a live source is waited for.
    denoiser = None if args.model is None else _denoiser(args)
    start = time.perf_counter()
    live = args.input == _STREAM
    # Without Python's buffer, whose lock the reading thread would hold while the pipe is silent.
    source = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer) if live else args.input
    with (
        read_video(source, max_pixels=max_pixels(args)) as video,
        progress_bar(args.quiet, "speed") as progress,
    ):
        if args.output == _STREAM:
            y4m_format(video.info.pixel_format)
        if denoiser is None:
            if video.info.is_gray or args.sigma is not None:
                args.model = VIDEO_OF_WHITE_NOISE
                denoiser = _denoiser(args)
            else:
                denoiser = _ByNoise(args)
        frames = DenoisedFrames(video, denoiser, progress, args.realtime, live)
        with contextlib.closing(iter(frames)) as results:
            notes = _write(args, results, video)
    seconds = time.perf_counter() - start
    if not args.quiet:
        if isinstance(denoiser, _ByNoise):
            notes = [*notes, f"noise of the first frame: {denoiser.found}"]
        for note in [*video.notes, *notes]:
            print(f"denoise-ext: note: {note}", file=sys.stderr)
        level = "" if denoiser.sigma is None else f", sigma {denoiser.sigma:.1f}"
        estimated = " (estimated)" if args.sigma is None and level else ""
        late = f"; {frames.late} of them were late and passed as they are" if frames.late else ""
        rate = frames.count / seconds
        network = args.model or "no network, for all are damaged"
        print(
            f"{frames.count} frames denoised in {seconds:.1f} s ({network}; {rate:.1f} frames/s"
            f"{level}{estimated}) -> {args.output}{late}",
            file=sys.stderr if args.output == _STREAM else sys.stdout,
        )
    if video.damage:
        name = "the standard input" if args.input == _STREAM else repr(args.input)
        print(f"denoise-ext: error: {name} is damaged: {video.damage}", file=sys.stderr)
        return EXIT_SOME_FAILED
    return 0


def _check_streams(args: argparse.Namespace) -> None:
    if args.input == _STREAM and sys.stdin is None:
        raise CliError("- reads the standard input, which is closed")
    if args.realtime and args.input != _STREAM:
        raise CliError(f"--realtime: a file waits, only - as IN does not; got {args.input!r}")
    if args.output != _STREAM:
        return
    if sys.stdout is None:
        raise CliError("- writes to the standard output, which is closed")
    for name in ("codec", "quality"):
        if (value := getattr(args, name)) is not None:
            raise CliError(f"--{name} is for files: - is written as y4m, got {value}")


def _write(args: argparse.Namespace, frames: Iterable[VideoFrame], video: Video) -> list[str]:
    """Write all frames; returns remarks for the user."""
    from denoise_ext.io.video import write_video, write_y4m

    if args.output != _STREAM:
        return write_video(
            args.output, frames, video, codec=args.codec, quality=args.quality,
            overwrite=args.overwrite,
        )  # fmt: skip
    try:
        return write_y4m(sys.stdout.buffer, frames, video)
    except BrokenPipeError as error:
        place = f"at frame {getattr(error, 'frame', 0)}"
        print(f"denoise-ext: error: the reader of the output closed it {place}", file=sys.stderr)
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # what is left in its buffer has no place, either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        place = f"frame {getattr(error, 'frame', 0)}"
        raise RuntimeError(f"{place} cannot be written to the output: {error.strerror}") from error


class _FrameByFrame:
    """Each picture by itself, with one noise level for all."""

    def __init__(self, args: argparse.Namespace) -> None:
        from denoise_ext.runtime.model_names import named_texture
        from denoise_ext.tasks.processor import load_denoiser

        self.sigma = args.sigma
        if named_texture(args.model, 0.0)[1]:
            raise CliError(
                f"--model {args.model} makes up detail, which a film has no place to state"
            )
        self._denoiser = load_denoiser(args.model, run_options(args), strength=args.strength)

    def takes_planes(self, frame: VideoFrame) -> bool:
        """See `FrameDenoiser`."""
        return False

    def push(self, given: VideoFrame | np.ndarray) -> VideoFrame | np.ndarray:
        """See `FrameDenoiser`."""
        from denoise_ext.io.video import VideoFrame

        frame = given if isinstance(given, VideoFrame) else None
        result = self._denoiser.run(given if frame is None else frame.picture(), self.sigma)
        if self.sigma is None and result.sigma is not None:
            self.sigma = float(result.sigma)  # kept: a level per frame would flicker
        return result.image if frame is None else frame.with_picture(result.image)

    def flush(self) -> list[VideoFrame | np.ndarray]:
        """None are left."""
        return []


class _ByNoise:
    """The network that suits the noise of the first picture, in colour, for all frames.

    `rdxnet_s_gray` is made for white noise of every channel, `rdxnet_m_photo` for that of cameras.
    `dxnet_s_photo` takes faint noise, frame by frame: it leaves clean films alone. Another network
    from frame to frame would flicker.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._chosen: FrameDenoiser | None = None
        self.found = ""
        """What the analysis found."""

    @property
    def sigma(self) -> float | None:
        """See `FrameDenoiser`."""
        return None if self._chosen is None else self._chosen.sigma

    def takes_planes(self, frame: VideoFrame) -> bool:
        """See `FrameDenoiser`."""
        return self._chosen is None or self._chosen.takes_planes(frame)

    def push(self, given: VideoFrame | np.ndarray) -> VideoFrame | np.ndarray | None:
        """See `FrameDenoiser`."""
        if self._chosen is None:
            from denoise_ext.io.video import VideoFrame
            from denoise_ext.tasks.treatment import PHOTO, treatment_of
            from denoise_ext.tasks.video_denoiser import VIDEO_OF_CAMERAS, VIDEO_OF_WHITE_NOISE

            assert isinstance(given, VideoFrame)  # as `takes_planes` says
            profile, treatment = treatment_of(given.picture())
            if given.subsampled and profile is not None and not profile.faint:
                # Enlarged chroma looks correlated in a picture, whatever its noise.
                profile, treatment = treatment_of(given.unit_planes()[0])
            self.found = treatment.text.partition(": ")[0]
            # White noise that channels have in common is stronger in brightness than the planes'.
            if profile is not None and (profile.faint or profile.gray_stored_as_rgb):
                self._args.model = PHOTO
            elif profile is not None and profile.correlated:
                self._args.model = VIDEO_OF_CAMERAS
            else:
                self._args.model = VIDEO_OF_WHITE_NOISE
            self._chosen = _denoiser(self._args)
        return self._chosen.push(given)

    def flush(self) -> list[VideoFrame | np.ndarray]:
        """See `FrameDenoiser`."""
        return [] if self._chosen is None else self._chosen.flush()


def _denoiser(args: argparse.Namespace) -> FrameDenoiser:
    """Each picture with what those before left, if the model is recurrent; else by itself."""
    from denoise_ext.tasks import VideoDenoiser
    from denoise_ext.tasks.video_denoiser import LEAD_IN, names_recurrent

    if not names_recurrent(args.model):
        return _FrameByFrame(args)
    options = asdict(run_options(args))
    return VideoDenoiser(
        args.model, sigma=args.sigma, strength=args.strength, scene_cut=args.scene_cut,
        lead_in=0 if args.input == _STREAM else LEAD_IN, **options,
    )  # fmt: skip


def _scene_cut(text: str) -> str | float:
    if text in ("auto", "off"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be auto, off or a number above 0 and up to 1, got {text!r}"
        )
    return value
