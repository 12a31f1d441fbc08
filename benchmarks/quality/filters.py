"""Classical filters, with the parameters that do best on training images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_ext import ops
from denoise_ext.tasks import Protocol, evaluate_image
from quality.methods import FILTER, Method, Skipped

Parameters = dict[str, float]


@dataclass(frozen=True)
class Filter:
    """A filter whose parameters are chosen for each noise level."""

    name: str
    # noisy (1, C, H, W), sigma on the 0-255 scale, parameters
    apply: Callable[[Tensor, float, Parameters], Tensor]
    grid: dict[str, tuple[float, ...]]  # every combination is tried
    fixed: str  # what is not chosen, in words


def gaussian(noisy: Tensor, sigma: float, chosen: Parameters) -> Tensor:
    """A window of 3 standard deviations on each side."""
    pixels = chosen["pixels"]
    return ops.gaussian_blur2d(noisy, 2 * math.ceil(3 * pixels) + 1, pixels)


def bilateral(noisy: Tensor, sigma: float, chosen: Parameters) -> Tensor:
    """A window of 2 standard deviations on each side."""
    pixels, range_ = chosen["pixels"], chosen["times sigma"] * sigma / 255
    size = 2 * math.ceil(2 * pixels) + 1
    space = (pixels, pixels)
    return ops.bilateral_blur(noisy, size, range_, space, color_distance_type="l2")


GAUSSIAN = Filter(
    "Gaussian", gaussian, {"pixels": tuple(round(0.4 + 0.1 * i, 1) for i in range(17))},
    "window of 3 standard deviations on each side",
)  # fmt: skip
BILATERAL = Filter(
    "bilateral",
    bilateral,
    {
        "pixels": (0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0),
        "times sigma": (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
    },
    "window of 2 standard deviations on each side, Euclidean distance of colours",
)


def non_local_means() -> Filter | Skipped:
    """scikit-image's fast variant (Darbon et al. 2008), patches and search as in its example."""
    try:
        import skimage
        from skimage.restoration import denoise_nl_means
    except ImportError:
        reason = "scikit-image is not installed: pip install scikit-image"
        return Skipped("non-local means", reason)

    def apply(noisy: Tensor, sigma: float, chosen: Parameters) -> Tensor:
        image = noisy[0].permute(1, 2, 0).squeeze(2).numpy()  # (H, W, 3) or (H, W)
        scale = sigma / 255
        result = denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=chosen["times sigma"] * scale, sigma=scale,
            fast_mode=True, preserve_range=True, channel_axis=-1 if image.ndim == 3 else None,
        )  # fmt: skip
        planes = np.atleast_3d(result).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(planes))[None].to(noisy.dtype)

    return Filter(
        "non-local means", apply, {"times sigma": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)},
        f"scikit-image {skimage.__version__}, one thread, patches of 5x5 within 13x13",
    )  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a filter, for the report."""

    filter: Filter
    channels: int
    by_sigma: dict[float, Parameters] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "name": self.filter.name,
            "channels": self.channels,
            "fixed": self.filter.fixed,
            "by_sigma": {f"{sigma:g}": found for sigma, found in self.by_sigma.items()},
        }


def choose(
    wanted: Filter,
    channels: int,
    crops: Sequence[np.ndarray],
    sigmas: Sequence[float],
    protocol: Protocol,
) -> Chosen:
    """The parameters with the highest mean PSNR on `crops`, for each noise level."""

    def quality(sigma: float, parameters: Parameters) -> float:
        run = partial(_run, wanted, {sigma: parameters})
        return sum(evaluate_image(run, crop, sigma, protocol).psnr for crop in crops)

    grid = [
        dict(zip(wanted.grid, values, strict=True))
        for values in itertools.product(*wanted.grid.values())
    ]
    best = {sigma: max(grid, key=lambda p, s=sigma: quality(s, p)) for sigma in sigmas}
    return Chosen(wanted, channels, best)


def method(chosen: Chosen) -> Method:
    """The filter as a row of the table."""
    run = partial(_run, chosen.filter, chosen.by_sigma)
    return Method(chosen.filter.name, FILTER, chosen.channels, run, str(chosen.as_dict()))


def _run(wanted: Filter, by_sigma: dict[float, Parameters], noisy: Tensor, sigma: float) -> Tensor:
    return wanted.apply(noisy, sigma, by_sigma[sigma])
