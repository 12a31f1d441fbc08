"""PSNR on held-out images during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from denoise_ext.data import add_gaussian_noise, step_seed
from denoise_ext.data.random import VALIDATION
from denoise_ext.metrics import psnr
from denoise_ext.models import Denoiser


def split_held_out(count: int, held_out: int) -> tuple[list[int], list[int]]:
    """Indices (training, held out) of ``count`` images, the held-out ones evenly spread.

    Raises ValueError if nothing is left to train on.
    """
    if held_out >= count:
        raise ValueError(
            f"validation.images must be below the number of images ({count}), got {held_out}"
        )
    chosen = {(2 * i + 1) * count // (2 * held_out) for i in range(held_out)}
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def centre_crop(image: np.ndarray, size: int) -> torch.Tensor:
    """(H, W, C) uint8 -> (1, C, h, w) float32 in [0, 1], h and w at most ``size``."""
    h, w = (min(size, side) for side in image.shape[:2])
    y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    cut = np.ascontiguousarray(image[y : y + h, x : x + w])
    return torch.from_numpy(cut).permute(2, 0, 1)[None].to(torch.float32) / 255.0


@torch.inference_mode()
def validation_psnr(
    model: Denoiser, images: Sequence[torch.Tensor], sigmas: Sequence[float], seed: int
) -> dict[float, float]:
    """Mean PSNR in dB per sigma; the same noise every time; noise unclipped, output clipped.

    Runs in float32 and leaves the model in the mode it was in.
    """
    was_training = model.training
    model.eval()
    result: dict[float, float] = {}
    for k, sigma in enumerate(sigmas):
        values = []
        for i, clean in enumerate(images):
            generator = torch.Generator().manual_seed(step_seed(seed, k * 2**16 + i, VALIDATION))
            noisy = add_gaussian_noise(clean, sigma, generator)
            output = model(noisy, sigma if model.needs_sigma else None).clamp(0.0, 1.0)
            values.append(psnr(output, clean).mean().item())
        result[sigma] = sum(values) / len(values)
    model.train(was_training)
    return result
