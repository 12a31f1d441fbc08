"""Salt and pepper: dead and hot pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.data.noise._draw import Generators, Strength, checked_image, per_image, uniform


def add_salt_and_pepper_noise(
    x: Tensor, amount: Strength, salt: Strength = 0.5, generator: Generators = None
) -> Tensor:
    """Some pixels become 1 (salt) or 0 (pepper), all channels of a pixel together.

    Args:
        x: (N, C, H, W).
        amount: probability, in [0, 1], that a pixel is hit; a number or (N,).
        salt: probability that a pixel that is hit becomes 1 and not 0.
        generator: one, or one per image.

    Example:
        >>> x = torch.full((1, 1, 64, 64), 0.5)
        >>> noisy = denoise_ext.data.noise.add_salt_and_pepper_noise(x, amount=0.1)
        >>> noisy.unique()
        tensor([0.0000, 0.5000, 1.0000])
    """
    image = checked_image(x)
    hit = per_image("amount", amount, image, 0.0, 1.0)
    white = per_image("salt", salt, image, 0.0, 1.0) * hit
    draw = uniform(image, generator, (len(image), 1, *image.shape[2:]))  # (N, 1, H, W)
    image = torch.where(draw < hit, torch.zeros_like(image), image)
    return torch.where(draw < white, torch.ones_like(image), image).to(x.dtype)
