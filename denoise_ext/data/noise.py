"""Synthetic noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def add_gaussian_noise(
    x: Tensor, sigma: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """``x`` plus white Gaussian noise, **not clipped**.

    Args:
        x: images in [0, 1], floating point; any shape, with the batch first where ``sigma`` is
            a tensor.
        sigma: standard deviation on the 0-255 scale: a number, or a tensor (N,) with one value
            per image.
        generator: source of the noise; torch's global one if None.

    Returns:
        A tensor of x's shape and dtype. The noise is drawn in float32 (float64 for float64 x).
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor in [0, 1], got {got}")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale: float | Tensor
    if isinstance(sigma, Tensor) and sigma.dim() > 0:
        if x.dim() < 1 or tuple(sigma.shape) != (x.shape[0],):
            raise ValueError(
                f"sigma must be a number or have shape (N,) with N = x.shape[0], got "
                f"{tuple(sigma.shape)} for x of shape {tuple(x.shape)}"
            )
        if not bool((torch.isfinite(sigma) & (sigma >= 0)).all()):
            raise ValueError("sigma must be finite and >= 0 (0-255 scale) for every image")
        scale = sigma.to(device=x.device, dtype=dtype).reshape(-1, *[1] * (x.dim() - 1)) / 255.0
    else:
        scale = float(sigma) / 255.0
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"sigma must be finite and >= 0 (0-255 scale), got {float(sigma)}")
    noise = torch.randn(x.shape, generator=generator, dtype=dtype, device=x.device)
    return (x.to(dtype) + noise * scale).to(x.dtype)
