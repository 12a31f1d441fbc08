"""Video files as training data: frames decoded once, at half their size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from denoise_ext.io.channels import to_gray
from denoise_ext.io.video import VideoFrame, read_video

# Of files in a folder; a file that is named itself may have any.
SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm", ".y4m"})
MOST_BYTES = 4 * 2**30  # of all frames together: they are kept in memory


def list_clips(sources: Iterable[str | Path]) -> list[Path]:
    """The video files of folders (those with a known suffix, sorted) and the files among `sources`.

    Raises ValueError for a source that does not exist, and for a folder without video files.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(f for f in source.iterdir() if f.suffix.lower() in SUFFIXES)
            if not found:
                raise ValueError(f"{source}: holds no video file ({', '.join(sorted(SUFFIXES))})")
            files += found
        elif source.is_file():
            files.append(source)
        else:
            raise ValueError(f"{source}: no such folder or video file")
    return files


def read_clips(files: Sequence[Path], channels: int) -> list[np.ndarray]:
    """Each file's frames as (T, H, W, channels) uint8, halved by averaging 2x2 pixels.

    Compressed video has blocks and ringing at its own size; half of it is cleaner.

    Raises:
        ValueError: (`io.ImageError`) a file that cannot be read; more than 4 GiB of frames.
    """
    clips: list[np.ndarray] = []
    total = 0
    for file in files:
        frames: list[np.ndarray] = []
        with read_video(file) as video:
            for frame in video:
                frames.append(_halved(_pixels(frame, channels)))
                total += frames[-1].nbytes
                if total > MOST_BYTES:
                    raise ValueError(
                        f"{file}: clips must have at most {MOST_BYTES >> 30} GiB of frames at half "
                        "their size"
                    )
        clips.append(np.stack(frames))
    return clips


def _pixels(frame: VideoFrame, channels: int) -> np.ndarray:
    """(H, W, channels) float32 in 0 to 255."""
    if channels == 1 and frame.colour.kind != "gbr":  # luma is there already
        black, span = frame.colour.black_and_span
        levels = (frame.planes[0].astype(np.float32) - black) * (255.0 / span)
        return levels.clip(0.0, 255.0)[..., None]
    picture = (frame.picture() * 255.0).clip(0.0, 255.0)
    if channels == 1 and picture.ndim == 3:
        picture = to_gray(picture.round().astype(np.uint8)).astype(np.float32)
    if channels == 3 and picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    return picture[..., None] if picture.ndim == 2 else picture


def _halved(picture: np.ndarray) -> np.ndarray:
    height, width = (max(size // 2, 1) for size in picture.shape[:2])
    even = picture[: 2 * height, : 2 * width]
    if min(picture.shape[:2]) < 2:
        return even.round().astype(np.uint8)
    blocks = even.reshape(height, 2, width, 2, picture.shape[2])
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
