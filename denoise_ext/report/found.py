"""What a report is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from denoise_ext.report.filters import LocalFilter
from denoise_ext.tasks.noise_analysis import NoiseProfile
from denoise_ext.tasks.result import Result


@dataclass(frozen=True)
class Found:
    """What was found out about a denoised image."""

    noisy: np.ndarray
    """(H, W) or (H, W, C) float32, black 0 and white 1, as `result.image`."""
    result: Result
    profile: NoiseProfile | None
    """The noise; None for images that are too small for an analysis."""
    correlation: np.ndarray
    """(13, 13) autocorrelation of what was removed; 1 in the middle."""
    correlation_bound: float
    """Three standard errors of `correlation` for white noise."""
    filters: list[LocalFilter]
    filters_reason: str
    """Why there are no filters; "" where there are."""
    first_filters: np.ndarray
    feature_maps: list[tuple[str, np.ndarray]]
    samples: list[np.ndarray]
    """Of the middle of the image; none where `result.uncertainty_reason` has a reason."""
    sample_place: tuple[slice, slice]
    facts: dict[str, str]
    """Network, hash, settings: name and text."""

    @property
    def structure(self) -> float:
        """Largest correlation between neighbours in what was removed."""
        middle = len(self.correlation) // 2
        near = self.correlation[middle - 1 : middle + 2, middle - 1 : middle + 2].copy()
        near[1, 1] = 0
        return float(near.flat[abs(near).argmax()])
