"""Structural similarity.

Wang, Bovik, Sheikh, Simoncelli: "Image Quality Assessment: From Error Visibility to Structural
Similarity", IEEE TIP 2004.
"""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.metrics.psnr import check_pair

WINDOW = 11  # pixels
_SIGMA = 1.5  # pixels
_K1, _K2 = 0.01, 0.03


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Mean structural similarity of each image, in float64.

    11 x 11 Gaussian window (sigma 1.5 pixels) with weights that sum to 1, K1 = 0.01, K2 = 0.03,
    averaged over the positions where the window lies inside the image. Every channel is measured
    on its own; the result is the mean over channels.

    Args:
        a, b: images (N, C, H, W) of the same shape, H, W >= 11, any real dtype.
        data_range: the largest possible value minus the smallest: 1.0 for images in [0, 1], 255
            for 8-bit values.

    Returns:
        (N,) float64, 1 for equal images.

    Example:
        >>> a = torch.rand(1, 1, 16, 16)
        >>> float(denoise_ext.metrics.ssim(a, a))
        1.0
    """
    check_pair(a, b, data_range)
    if a.dim() != 4 or min(a.shape[-2:]) < WINDOW:
        raise ValueError(
            f"a and b must have shape (N, C, H, W) with H, W >= {WINDOW}, got {tuple(a.shape)}"
        )
    n, c, h, w = a.shape
    x = a.to(torch.float64).reshape(n * c, 1, h, w)
    y = b.to(torch.float64).reshape(n * c, 1, h, w)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    # equation 13 of the paper
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    per_pixel = (numerator / denominator).reshape(n, c, h - WINDOW + 1, w - WINDOW + 1)
    return per_pixel.mean(dim=(1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """Gaussian-weighted mean, windows inside the image: (M, 1, H, W) -> (M, 1, H-10, W-10)."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weight = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    weights = (weight / weight.sum()).tolist()
    # Shifted images added up: torch's float64 convolution of one channel takes ten times as long.
    for dim in (-2, -1):
        size = x.shape[dim] - WINDOW + 1
        total = x.narrow(dim, 0, size) * weights[0]
        for shift in range(1, WINDOW):
            total.add_(x.narrow(dim, shift, size), alpha=weights[shift])
        x = total
    return x
