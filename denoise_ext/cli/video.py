"""``denoise-ext video IN OUT``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from denoise_ext.cli.common import (
    EXIT_SOME_FAILED,
    CliError,
    add_max_pixels_argument,
    add_memory_arguments,
    add_model_arguments,
    add_precision_argument,
    max_pixels,
    progress_bar,
    sigma_type,
    strength_type,
    whole_number,
)

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

    from denoise_ext.io.video import Video, VideoFrame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("input", metavar="IN", help="a video file")
    parser.add_argument(
        "output", metavar="OUT",
        help="the video to write: .mkv (holds everything), .mp4, .mov, .avi, .webm or .nut",
    )  # fmt: skip
    parser.add_argument(
        "--sigma", type=sigma_type, metavar="S",
        help="standard deviation of the noise on the 0-255 scale, for all frames; default:"
        " estimated from the first frame",
    )  # fmt: skip
    parser.add_argument(
        "--strength", type=strength_type, default=1.0, metavar="0..1",
        help="blend of input and result; 0: the input, 1: the result (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--codec",
        default="ffv1",
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
    from denoise_ext.io.video import check_can_write_video, read_video, write_video
    from denoise_ext.tasks.video_denoiser import default_video_model, names_recurrent

    check_can_write_video(args.output, args.codec, args.overwrite)
    if args.model is None:
        args.model = default_video_model()
    kind = _Recurrent if names_recurrent(args.model) else _FrameByFrame
    denoiser = kind(args)
    start = time.perf_counter()
    with (
        read_video(args.input, max_pixels=max_pixels(args)) as video,
        progress_bar(args.quiet) as progress,
    ):
        frames = _Denoised(video, denoiser, progress)
        notes = write_video(
            args.output, frames, video, codec=args.codec, quality=args.quality,
            overwrite=args.overwrite,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    if not args.quiet:
        for note in [*video.notes, *notes]:
            print(f"denoise-ext: note: {note}", file=sys.stderr)
        level = "" if denoiser.sigma is None else f", sigma {denoiser.sigma:.1f}"
        estimated = " (estimated)" if args.sigma is None and level else ""
        rate = frames.count / seconds
        print(
            f"{frames.count} frames denoised in {seconds:.1f} s ({rate:.1f} frames/s"
            f"{level}{estimated}) -> {args.output}"
        )
    if video.corrupt or video.lost:
        print(
            f"denoise-ext: error: {args.input!r} is damaged: {video.corrupt} frames were passed"
            f" through as they are, {video.lost} could not be read",
            file=sys.stderr,
        )
        return EXIT_SOME_FAILED
    return 0


class _FrameByFrame:
    """Each picture by itself, with one noise level for all."""

    def __init__(self, args: argparse.Namespace) -> None:
        from denoise_ext.runtime.model_names import DEFAULT
        from denoise_ext.tasks import Denoiser

        self.sigma = args.sigma
        # Without a model, images get the network that suits their noise: here one for all frames,
        # as another one from frame to frame would flicker.
        self._denoiser = Denoiser(
            args.model or DEFAULT, strength=args.strength, device=args.device, backend=args.backend,
            precision=args.precision, tile=args.tile, max_memory=args.max_memory,
        )  # fmt: skip

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        result = self._denoiser.run(picture, self.sigma)
        if self.sigma is None and result.sigma is not None:
            self.sigma = float(result.sigma)  # kept: a level per frame would flicker
        return result.image


class _Recurrent:
    """Each picture with what those before left."""

    def __init__(self, args: argparse.Namespace) -> None:
        from denoise_ext.tasks import VideoDenoiser

        for name, value, default in (
            ("--tile", args.tile, "auto"),
            ("--max-memory", args.max_memory, None),
        ):
            if value != default:
                raise CliError(f"{name}: a recurrent network computes whole frames, got {value}")
        self._denoiser = VideoDenoiser(
            args.model, sigma=args.sigma, strength=args.strength, device=args.device,
            precision=args.precision, backend=args.backend,
        )  # fmt: skip

    @property
    def sigma(self) -> float | None:
        """The noise level of the last frame."""
        return self._denoiser.sigma

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        return self._denoiser.push(picture)


class _Denoised:
    """The frames of a video, denoised one after the other; damaged ones as they are."""

    def __init__(
        self, video: Video, denoiser: _FrameByFrame | _Recurrent, progress: Progress
    ) -> None:
        self._video, self._denoiser, self._progress = video, denoiser, progress
        self.count = 0

    def __iter__(self) -> Iterator[VideoFrame]:
        task = self._progress.add_task("denoising", total=self._video.info.frames)
        for frame in self._video:
            clean = frame if frame.corrupt else frame.with_picture(self._denoiser(frame.picture()))
            yield clean
            self.count += 1
            self._progress.advance(task)
