"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB.

    ``10 log10(data_range^2 / mean((a - b)^2))``, the mean over channels and pixels, computed in
    float64.

    Args:
        a, b: images (N, ...) of the same shape, any real dtype.
        data_range: the largest possible value minus the smallest: 1.0 for images in [0, 1], 255
            for 8-bit values.

    Returns:
        (N,) float64; infinity where the images are equal.

    Example:
        >>> a = torch.zeros(1, 3, 8, 8)
        >>> denoise_ext.metrics.psnr(a, a + 0.1)
        tensor([20.0000], dtype=torch.float64)
    """
    check_pair(a, b, data_range)
    error = (a.to(torch.float64) - b.to(torch.float64)).square().flatten(1).mean(dim=1)
    return 10.0 * torch.log10(data_range**2 / error)


def check_pair(a: Tensor, b: Tensor, data_range: float) -> None:
    """Raise unless ``a`` and ``b`` are comparable batches of images."""
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must be real, got {value.dtype}")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dim() < 2 or a.shape[1:].numel() == 0:
        raise ValueError(f"a and b must be batches of images (N, ...), got {tuple(a.shape)}")
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be finite and > 0, got {data_range}")
