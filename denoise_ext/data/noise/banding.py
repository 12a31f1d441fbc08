"""Banding: rows or columns that are brighter or darker as a whole."""

from __future__ import annotations

from torch import Tensor

from denoise_ext._choices import check_choice
from denoise_ext.data.noise._draw import Generators, Strength, checked_image, normal, per_image

DIRECTIONS = ("rows", "columns")


def add_banding_noise(
    x: Tensor, sigma: Strength, direction: str = "rows", generator: Generators = None
) -> Tensor:
    """One Gaussian offset per row (or column), the same for all its pixels and channels.

    What the amplifiers that rows or columns of a sensor share leave in a picture.

    Args:
        x: (N, C, H, W).
        sigma: standard deviation of the offsets, 0-255 scale; a number or (N,).
        direction: "rows" or "columns".
        generator: one, or one per image.

    Example:
        >>> x = torch.full((1, 1, 32, 32), 0.5)
        >>> noisy = denoise_ext.data.noise.add_banding_noise(x, sigma=5.0)
        >>> bool((noisy[..., 0] == noisy[..., 31]).all())  # one offset for each row
        True
    """
    image = checked_image(x)
    check_choice("direction", direction, DIRECTIONS)
    n, _, h, w = image.shape
    shape = (n, 1, h, 1) if direction == "rows" else (n, 1, 1, w)
    offsets = normal(image, generator, shape) * (per_image("sigma", sigma, image) / 255.0)
    return (image + offsets).to(x.dtype)
