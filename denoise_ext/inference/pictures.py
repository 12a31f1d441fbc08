"""Whole pictures: every frame of a file through a `Denoiser`, with what it says of its numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from denoise_ext.inference.denoiser import Denoiser
from denoise_ext.io import Picture


@dataclass(frozen=True)
class Denoised:
    """A picture denoised, and the noise level it was denoised for."""

    picture: Picture
    sigma: float | None = None
    """On the 0-255 scale, mean over the frames; None: the model finds it by itself."""
    estimated: bool = False


def denoise_picture(denoiser: Denoiser, picture: Picture, share: int = 1) -> Denoised:
    """Denoise every frame of a picture, each by itself.

    Two-level frames are denoised as 0 and 255 and cut at the middle. Metadata stay as they are.
    `share`: how many pictures are computed at the same time, which share the memory there is.

    Raises:
        TypeError, ValueError: pixels that cannot be denoised; the message says why.
    """
    frames, levels, estimated = [], [], False
    for frame in picture.frames:
        result = denoiser.run(_numbers(frame), value_range=_range_of(picture, frame), share=share)
        image = result.image
        frames.append(image >= 128 if frame.dtype == np.bool_ else image)
        if result.sigma is not None:
            levels.append(float(np.mean(np.asarray(result.sigma))))
        estimated |= result.sigma_estimated
    sigma = sum(levels) / len(levels) if levels else None
    return Denoised(picture.with_frames(frames), sigma, estimated)


def _numbers(frame: np.ndarray) -> np.ndarray:
    return frame * np.uint8(255) if frame.dtype == np.bool_ else frame


def _range_of(picture: Picture, frame: np.ndarray) -> tuple[float, float] | None:
    """The numbers that mean black and white; None where they are the type's own."""
    if frame.dtype == np.bool_:
        return None
    full = np.iinfo(frame.dtype).max if frame.dtype in (np.uint8, np.uint16) else 1
    return None if picture.value_range == (0, full) else picture.value_range
