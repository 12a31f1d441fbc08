"""PSNR on held-out images during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data import add_gaussian_noise, step_seed
from denoise_ext.data.cache import white_of
from denoise_ext.data.noise import add_noise_chain
from denoise_ext.data.random import VALIDATION
from denoise_ext.metrics import psnr
from denoise_ext.models import Network
from denoise_ext.training.schema import TrainConfig

Label = float | str  # sigma of white Gaussian noise on the 0-255 scale; "chain"; "pairs"
_CHAIN_STEP = 2**47  # steps from here on are validation's: no training gets there


@dataclass(frozen=True)
class Case:
    """A held-out image under one kind of noise."""

    label: Label
    noisy: Tensor  # (1, C, h, w)
    clean: Tensor
    sigma: float | Tensor  # what a network that needs it is told, 0-255 scale


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


def labels(config: TrainConfig) -> list[Label]:
    """The kinds of noise a run is validated under."""
    if not config.validation.images:
        return []
    if config.data.pairs:
        return ["pairs"]
    return ["chain"] if config.noise.chain else list(config.validation.sigmas)


def label_text(label: Label) -> str:
    """As in the log's columns and the result's metadata."""
    return label if isinstance(label, str) else f"{label:g}"


def cases(config: TrainConfig, images: Sequence[Tensor]) -> Iterator[Case]:
    """Every held-out image under every kind of noise; the same noise every time, not clipped."""
    seed = config.run.seed
    for k, label in enumerate(labels(config)):
        for i, image in enumerate(images):
            if label == "pairs":
                noisy, clean = image.chunk(2, dim=1)
                yield Case(label, noisy, clean, config.data.sigma)
            elif label == "chain":
                noisy, sigma = add_noise_chain(image, config.noise.chain, seed, _CHAIN_STEP + i)
                yield Case(label, noisy, image, sigma)
            else:
                generator = torch.Generator()
                generator.manual_seed(step_seed(seed, k * 2**16 + i, VALIDATION))
                yield Case(label, add_gaussian_noise(image, label, generator), image, label)


@torch.inference_mode()
def validate(
    model: Network, config: TrainConfig, images: Sequence[Tensor], keep: int = 0
) -> tuple[dict[Label, float], list[tuple[Case, Tensor]]]:
    """Mean PSNR in dB of each kind of noise, output clipped; and ``keep`` images with their output.

    Runs in float32 on the model's device and leaves the model in the mode it was in. The images
    kept are those of the middle kind of noise.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    kinds = labels(config)
    values: dict[Label, list[float]] = {label: [] for label in kinds}
    shown: list[tuple[Case, Tensor]] = []
    for case in cases(config, images):
        sigma = case.sigma.to(device) if isinstance(case.sigma, Tensor) else case.sigma
        output = model(case.noisy.to(device), sigma if model.needs_sigma else None)
        output = output.clamp(0.0, 1.0).cpu()
        values[case.label].append(psnr(output, case.clean).mean().item())
        if case.label == kinds[len(kinds) // 2] and len(shown) < keep:
            shown.append((case, output))
    model.train(was_training)
    return {label: sum(dbs) / len(dbs) for label, dbs in values.items()}, shown
