"""Quality on held-out samples during training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data.cache import white_of
from denoise_ext.models import Network
from denoise_ext.models.frames import compute_frames
from denoise_ext.models.network import Tensors
from denoise_ext.training.task import Label, Validator


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


def centre_crop(image: np.ndarray, size: int) -> Tensor:
    """(H, W, C) uint8 or uint16 -> (1, C, h, w) float32 in [0, 1], h and w at most ``size``."""
    h, w = (min(size, side) for side in image.shape[:2])
    y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    cut = image[y : y + h, x : x + w].copy()
    return torch.from_numpy(cut).permute(2, 0, 1)[None].to(torch.float32) / white_of(image)


def validate(
    network: Network, validator: Validator, keep: int = 0
) -> tuple[dict[Label, dict[str, float]], list[Tensor]]:
    """The validator's figures of each label, and up to ``keep`` of its pictures.

    Runs in float32 on the network's device and leaves the network in the mode it was in.
    """
    was_training, device = network.training, next(network.parameters()).device

    def method(inputs: Tensors) -> Tensors:
        moved = {name: x.to(device) for name, x in inputs.items()}
        outputs, _ = compute_frames(network, moved)
        return {name: x.cpu() for name, x in outputs.items()}

    network.eval()
    try:
        return validator(method, keep)
    finally:
        network.train(was_training)
