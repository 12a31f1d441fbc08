"""Noise of magnitude images in magnetic resonance imaging."""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.data.noise._draw import Generators, Strength, checked_image, normal, per_image


def add_rician_noise(x: Tensor, sigma: Strength, generator: Generators = None) -> Tensor:
    """``sqrt((x + n1)^2 + n2^2)``: the magnitude of a complex value with Gaussian noise.

    Gudbjartsson, Patz: "The Rician Distribution of Noisy MRI Data", 1995. The mean square is
    ``x^2 + 2 s^2`` with s = sigma / 255: dark places grow brighter. Never negative.

    Args:
        x: (N, C, H, W), the magnitude without noise, >= 0.
        sigma: standard deviation of the real and of the imaginary part, 0-255 scale.
        generator: one, or one per image.

    Example:
        >>> x = torch.zeros(1, 1, 32, 32)
        >>> noisy = denoise_ext.data.noise.add_rician_noise(x, sigma=10)
        >>> bool(noisy.min() >= 0 and noisy.mean() > 0)
        True
    """
    image = checked_image(x)
    scale = per_image("sigma", sigma, image) / 255.0
    real = image + normal(image, generator) * scale
    return torch.hypot(real, normal(image, generator) * scale).to(x.dtype)
