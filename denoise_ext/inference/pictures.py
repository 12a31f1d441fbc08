"""Whole pictures for batches: every frame of a file through a `Denoiser`."""

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

    `share`: how many pictures are computed at the same time, which share the memory there is.

    Raises:
        TypeError, ValueError: pixels that cannot be denoised; the message says why.
    """
    result = denoiser.run(picture, share=share)
    sigma = None if result.sigma is None else float(np.mean(np.asarray(result.sigma)))
    return Denoised(result.image, sigma, result.sigma_estimated)
