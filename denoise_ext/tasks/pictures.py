"""Whole pictures for batches: every frame of a file through a `Denoiser`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from denoise_ext.io import Picture
from denoise_ext.tasks.denoiser import Denoiser
from denoise_ext.tasks.value_range import Range


@dataclass(frozen=True)
class Denoised:
    """A picture denoised, and the noise level it was denoised for."""

    picture: Picture
    sigma: float | None = None
    """On the 0-255 scale, mean over the frames; None: the model finds it by itself."""
    estimated: bool = False
    kinds: tuple[str, ...] = ()
    """Kinds of noise that were found (`NoiseProfile.kind`), each once."""
    treatment: str = ""
    """What was found, and what was done, in one line."""


def denoise_picture(
    denoiser: Denoiser,
    picture: Picture,
    share: int = 1,
    value_range: Range | None = None,
    axes: str | None = None,
) -> Denoised:
    """Denoise every frame of a picture, each by itself; a note says of numbers that are not finite.

    Args:
        share: how many pictures are computed at the same time, which share the memory there is.
        value_range: the numbers that mean black and white, in place of the picture's own.
        axes: letters for the axes of all frames together, as a `Denoiser` takes them.

    Raises:
        TypeError, ValueError: pixels that cannot be denoised; the message says why.
    """
    two_level = picture.frames[0].dtype == np.bool_
    value_range = None if two_level else value_range
    result = denoiser.run(picture, value_range=value_range, axes=axes, share=share)
    levels = np.asarray([] if result.sigma is None else result.sigma, dtype=np.float64)
    levels = levels[np.isfinite(levels)]  # NaN: an image whose network needs none
    sigma = float(levels.mean()) if levels.size else None
    notes = (*picture.notes, *_notes(picture))
    kinds = tuple(dict.fromkeys(profile.kind for profile in result.noise))
    image = replace(result.image, notes=notes)
    return Denoised(image, sigma, result.sigma_estimated, kinds, result.treatment)


def _notes(picture: Picture) -> list[str]:
    if picture.frames[0].dtype.kind != "f":
        return []
    count = sum(frame.size - int(np.isfinite(frame).sum()) for frame in picture.frames)
    return [f"{count} numbers are not finite and stay as they are"] if count else []
