"""What one step minimises, with clean targets and without.

An objective is called as ``objective(forward, batch, step)`` and returns the loss; ``forward(noisy,
sigma)`` is the network. Random choices are functions of (seed, step, index of the image).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data.random import MASKS, PROBES, ROLES, image_generator
from denoise_ext.training.losses import Criterion, criterion
from denoise_ext.training.sections import TrainConfig


@dataclass(frozen=True)
class Batch:
    """What a step learns from."""

    noisy: Tensor  # (N, C, H, W), in [0, 1] up to the noise
    target: Tensor  # (N, C, H, W): clean, another noisy take, or noisy itself
    sigma: Tensor  # (N,), 0-255 scale
    first: int  # index of the first image within the step's batches of all processes


Forward = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[Forward, Batch, int], Tensor]


def build_objective(config: TrainConfig) -> Objective:
    """The objective of ``loss.target``."""
    seed = config.run.seed
    distance = criterion(config.loss.name, config.loss.ssim_weight)
    return {
        "clean": Supervised(distance),
        "noise2noise": Noise2Noise(distance, seed),
        "blind_spot": BlindSpot(distance, seed),
        "sure": Sure(seed),
    }[config.loss.target]


class Supervised:
    """The distance of the output to the target."""

    def __init__(self, distance: Criterion) -> None:
        self.distance = distance

    def __call__(self, forward: Forward, batch: Batch, step: int) -> Tensor:
        """The loss of a step."""
        return self.distance(forward(batch.noisy, batch.sigma), batch.target)


class Noise2Noise:
    """The target is a second noisy take of the same scene; which is which is drawn for every crop.

    Lehtinen, Munkberg, Hasselgren, Laine, Karras, Aittala, Aila: "Noise2Noise: Learning Image
    Restoration without Clean Data", ICML 2018. For `mse` the noise must be independent with mean
    zero: the minimum is then that of clean targets.
    """

    def __init__(self, distance: Criterion, seed: int) -> None:
        self.distance, self.seed = distance, seed

    def __call__(self, forward: Forward, batch: Batch, step: int) -> Tensor:
        """The loss of a step."""
        draws = [
            image_generator(self.seed, step, ROLES, batch.first + i).random() < 0.5
            for i in range(len(batch.noisy))
        ]
        swap = torch.tensor(draws, device=batch.noisy.device).reshape(-1, 1, 1, 1)
        noisy = torch.where(swap, batch.target, batch.noisy)
        target = torch.where(swap, batch.noisy, batch.target)
        return self.distance(forward(noisy, batch.sigma), target)


class BlindSpot:
    """Some pixels are replaced by a neighbour, and the network is to tell what they were.

    Krull, Buchholz, Jug: "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019. One
    pixel of every 8 x 8 cell; its stand-in is drawn from the 5 x 5 pixels around it, itself left
    out. The noise must be independent from pixel to pixel.
    """

    CELL, REACH = 8, 2

    def __init__(self, distance: Criterion, seed: int) -> None:
        self.distance, self.seed = distance, seed

    def __call__(self, forward: Forward, batch: Batch, step: int) -> Tensor:
        """The loss of a step."""
        noisy = batch.noisy
        places = [
            self._places(image_generator(self.seed, step, MASKS, batch.first + i), noisy.shape)
            for i in range(len(noisy))
        ]
        # (N, M) each: row and column of the pixels, and of what stands in for them
        y, x, from_y, from_x = torch.from_numpy(np.stack(places, axis=1)).to(noisy.device)
        image = torch.arange(len(noisy), device=noisy.device)[:, None]
        masked = noisy.clone()
        masked[image, :, y, x] = noisy[image, :, from_y, from_x]
        output = forward(masked, batch.sigma)
        # (N, M, C) -> (N, C, M, 1), as the distances want images
        told, was = (t[image, :, y, x].transpose(1, 2)[..., None] for t in (output, noisy))
        return self.distance(told, was)

    def _places(self, rng: np.random.Generator, shape: torch.Size) -> np.ndarray:
        """(4, M): rows, columns, and the rows and columns of their stand-ins."""
        height, width = shape[2:]
        rows, columns = height // self.CELL, width // self.CELL
        grid = np.stack(np.mgrid[0:rows, 0:columns]).reshape(2, -1) * self.CELL
        place = grid + rng.integers(0, self.CELL, grid.shape)
        side = 2 * self.REACH + 1
        other = rng.integers(0, side * side - 1, grid.shape[1])
        other += other >= side * side // 2  # the middle is the pixel itself
        offset = np.stack([other // side, other % side]) - self.REACH
        limit = np.array([[height], [width]])
        outside = (place + offset < 0) | (place + offset >= limit)
        # to the other side where it would leave the image: never the pixel itself
        return np.concatenate([place, place + np.where(outside, -offset, offset)])


class Sure:
    """Stein's unbiased estimate of the mean squared error, for white Gaussian noise of known sigma.

    ``mean((f(y) - y)^2) - s^2 + 2 s^2 div f(y) / n``, s = sigma / 255 (Stein 1981), the divergence
    from one probe b, ``b . (f(y + eps b) - f(y)) / eps`` (Ramani, Blu, Unser: "Monte-Carlo SURE",
    IEEE TIP 2008; for training networks: Soltanayev, Chun, NeurIPS 2018).
    """

    EPS = 1e-3  # small against the noise, large against float32's 6e-8

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, forward: Forward, batch: Batch, step: int) -> Tensor:
        """The loss of a step."""
        noisy = batch.noisy
        probe = torch.stack([
            torch.randn(noisy.shape[1:], generator=self._generator(step, batch.first + i))
            for i in range(len(noisy))
        ]).to(noisy)  # fmt: skip
        both = forward(torch.cat([noisy, noisy + self.EPS * probe]), torch.cat([batch.sigma] * 2))
        output, moved = both.chunk(2)
        variance = (batch.sigma / 255.0).square()  # (N,)
        divergence = (probe * (moved - output)).flatten(1).mean(dim=1) / self.EPS
        residual = (output - noisy).square().flatten(1).mean(dim=1)
        return (residual - variance + 2.0 * variance * divergence).mean()

    def _generator(self, step: int, index: int) -> torch.Generator:
        source = image_generator(self.seed, step, PROBES, index)
        return torch.Generator().manual_seed(int(source.integers(2**63)))
