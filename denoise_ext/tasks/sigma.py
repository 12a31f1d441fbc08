"""The noise level of images: what a caller may give, and the part of it that belongs to a tile."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

Sigma = float | np.ndarray | Tensor | None


def check_sigma(sigma: object) -> None:
    """Raise TypeError or ValueError unless `sigma` is None, an array, or a number >= 0."""
    if sigma is None or isinstance(sigma, (np.ndarray, np.generic, Tensor)):
        return
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
        raise TypeError(f"sigma must be a number, an array or a tensor, got {type(sigma).__name__}")
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and >= 0 (0-255 scale), got {sigma!r}")


def sigma_argument(sigma: Sigma, x: Tensor) -> float | Tensor | None:
    """sigma in a form the network takes for `x` (N, C, H, W): a number, (N,), (N, 1, H, W)."""
    if isinstance(sigma, np.generic):
        return sigma.item()
    if isinstance(sigma, np.ndarray):
        if sigma.dtype.kind not in "iuf":
            raise TypeError(f"sigma must hold real numbers, got {sigma.dtype}")
        sigma = torch.from_numpy(np.ascontiguousarray(sigma, dtype=np.float64))
    if isinstance(sigma, Tensor):
        if sigma.dim() == 2:
            if sigma.shape != x.shape[-2:]:
                raise ValueError(
                    f"sigma: a map must have the image's size {tuple(x.shape[-2:])}, got"
                    f" {tuple(sigma.shape)}"
                )
            sigma = sigma.expand(x.shape[0], 1, *sigma.shape)
        return sigma
    check_sigma(sigma)
    return sigma


def part_of_sigma(
    sigma: float | Tensor | None, count: int, images: slice, place: tuple[slice, slice]
) -> float | Tensor | None:
    """What of sigma belongs to some of `count` images, and to a place in them."""
    if not isinstance(sigma, Tensor) or sigma.dim() == 0:
        return sigma
    if sigma.shape[0] == count:
        sigma = sigma[images]
    if sigma.dim() == 4 and sigma.shape[-2:] != (1, 1):
        sigma = sigma[(..., *place)]
    return sigma
