"""White Gaussian noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoise_ext.data.noise._draw import Generators, normal, working_dtype


def add_gaussian_noise(x: Tensor, sigma: float | Tensor, generator: Generators = None) -> Tensor:
    """``x`` plus white Gaussian noise, **not clipped**.

    Args:
        x: images in [0, 1], floating point; any shape, with the batch first where ``sigma`` is
            a tensor.
        sigma: standard deviation on the 0-255 scale: a number, a tensor (N,) with one value
            per image, or for x (N, C, H, W) a map (N, 1, H, W).
        generator: source of the noise, one or one per image; torch's global one if None.

    Returns:
        A tensor of x's shape and dtype. The noise is drawn in float32 (float64 for float64 x).

    Example:
        >>> x = torch.full((2, 1, 64, 64), 0.5)
        >>> noisy = denoise_ext.data.add_gaussian_noise(x, torch.tensor([10.0, 50.0]))
        >>> (255 * (noisy - x)).flatten(1).std(dim=1).round(decimals=-1)
        tensor([10., 50.])
    """
    dtype = working_dtype(x)
    scale: float | Tensor
    if isinstance(sigma, Tensor) and sigma.dim() > 0:
        is_map = x.dim() == 4 and tuple(sigma.shape) == (x.shape[0], 1, *x.shape[2:])
        if not is_map and (x.dim() < 1 or tuple(sigma.shape) != (x.shape[0],)):
            raise ValueError(
                f"sigma must be a number, have shape (N,) with N = x.shape[0], or be a map "
                f"(N, 1, H, W), got {tuple(sigma.shape)} for x of shape {tuple(x.shape)}"
            )
        if not bool((torch.isfinite(sigma) & (sigma >= 0)).all()):
            raise ValueError("sigma must be finite and >= 0 (0-255 scale) for every image")
        shape = sigma.shape if is_map else (-1, *[1] * (x.dim() - 1))
        scale = sigma.to(device=x.device, dtype=dtype).reshape(shape) / 255.0
    else:
        scale = float(sigma) / 255.0
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"sigma must be finite and >= 0 (0-255 scale), got {float(sigma)}")
    image = x.to(dtype)
    return (image + normal(image, generator) * scale).to(x.dtype)
