"""`denoise`: one call from a noisy image to a clean one."""

from __future__ import annotations

import os
from typing import Any, overload

import numpy as np
import torch

from denoise_ext.runtime.model_names import Model
from denoise_ext.runtime.options import Tile
from denoise_ext.tasks.denoiser import Denoiser
from denoise_ext.tasks.images import ImageT
from denoise_ext.tasks.sigma import Sigma
from denoise_ext.tasks.value_range import Range


@overload
def denoise(
    image: str | os.PathLike[str],
    model: Model = None,
    sigma: Sigma = None,
    *,
    channels: int | None = None,
    needs_sigma: bool | None = None,
    strength: float = 1.0,
    device: str | torch.device | None = "auto",
    precision: str = "default",
    backend: str = "native",
    tile: Tile = "auto",
    max_memory: int | None = None,
    alpha: str = "keep",
    texture: float = 0.0,
    holes: str = "none",
    guide: Any = None,
    value_range: Range | None = None,
    axes: str | None = None,
) -> np.ndarray: ...
@overload
def denoise(
    image: ImageT,
    model: Model = None,
    sigma: Sigma = None,
    *,
    channels: int | None = None,
    needs_sigma: bool | None = None,
    strength: float = 1.0,
    device: str | torch.device | None = "auto",
    precision: str = "default",
    backend: str = "native",
    tile: Tile = "auto",
    max_memory: int | None = None,
    alpha: str = "keep",
    texture: float = 0.0,
    holes: str = "none",
    guide: Any = None,
    value_range: Range | None = None,
    axes: str | None = None,
) -> ImageT: ...
def denoise(
    image: Any,
    model: Model = None,
    sigma: Sigma = None,
    *,
    channels: int | None = None,
    needs_sigma: bool | None = None,
    strength: float = 1.0,
    device: str | torch.device | None = "auto",
    precision: str = "default",
    backend: str = "native",
    tile: Tile = "auto",
    max_memory: int | None = None,
    alpha: str = "keep",
    texture: float = 0.0,
    holes: str = "none",
    guide: Any = None,
    value_range: Range | None = None,
    axes: str | None = None,
) -> Any:
    """Denoise one image, of any kind, and return one of the same kind.

    Arguments, result and errors are those of `Denoiser` and of its call: NumPy array, tensor,
    Pillow image, `io.Picture` or file name in (the last gives an array); uint8, uint16 or floating
    point in [0, 1]; ``sigma`` on the 0-255 scale. Without ``model`` and ``sigma`` the noise of the
    image decides what is done (`analyse_noise`). Without ``axes`` an array is
    (H, W) or (H, W, 1..4), a tensor (H, W), (1..4, H, W) or (N, 1..4, H, W), and any other shape is
    refused. For many images make a `Denoiser`, which keeps its network ready.

    Example:
        >>> noisy = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        >>> clean = denoise_ext.denoise(noisy, sigma=25, strength=0.8)
        >>> clean.shape, clean.dtype
        ((48, 64, 3), dtype('uint8'))
    """
    denoiser = Denoiser(
        model, channels=channels, needs_sigma=needs_sigma, sigma=sigma, strength=strength,
        device=device, precision=precision, backend=backend, tile=tile, max_memory=max_memory,
        alpha=alpha, texture=texture, holes=holes,
    )  # fmt: skip
    return denoiser(image, guide=guide, value_range=value_range, axes=axes)
