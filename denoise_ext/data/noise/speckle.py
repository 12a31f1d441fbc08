"""Speckle: noise in proportion to the value."""

from __future__ import annotations

from torch import Tensor

from denoise_ext.data.noise._draw import Generators, Strength, checked_image, normal, per_image


def add_speckle_noise(x: Tensor, contrast: Strength, generator: Generators = None) -> Tensor:
    """``x * (1 + n)``, n white Gaussian; mean x, standard deviation ``contrast * x``.

    The multiplicative model of coherent imaging (radar, ultrasound) with the Gaussian it tends to
    when many looks are averaged: L looks have contrast 1 / sqrt(L).

    Args:
        x: (N, C, H, W).
        contrast: standard deviation over mean, no unit; a number or (N,).
        generator: one, or one per image.

    Example:
        >>> x = torch.full((1, 1, 64, 64), 0.5)
        >>> noisy = denoise_ext.data.noise.add_speckle_noise(x, contrast=0.2)
        >>> round(float(noisy.std()), 2)
        0.1
    """
    image = checked_image(x)
    strength = per_image("contrast", contrast, image)
    return (image + image * normal(image, generator) * strength).to(x.dtype)
