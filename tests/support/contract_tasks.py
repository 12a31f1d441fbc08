"""How the networks of `contract_networks` are trained: a task that registers itself when imported.

Samples are waves in float32: pictures for most, moving ones for the recurrent network.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from contract_networks import KINDS, Recurrent, TwoInputs, TwoOutputs, Upscaler
from torch import Tensor

from denoise_ext.data.random import CROPS, VALIDATION, step_generator
from denoise_ext.metrics import psnr
from denoise_ext.metrics.protocol import Sample, as_sample, targets_of
from denoise_ext.models import register_architecture, register_model
from denoise_ext.training import Sampler, Supervised, Task, Validator, register_task
from denoise_ext.training.losses import criterion
from denoise_ext.training.task import INDEX

FRAMES, HEIGHT, WIDTH = 3, 18, 21  # no multiple of any stride
NOISE = 0.1  # standard deviation, white is 1


def waves(rng: np.random.Generator, count: int, channels: int, scale: int = 1) -> Tensor:
    """(count, T, channels, scale * H, scale * W) in [0, 1], moving from frame to frame."""
    y, x = np.mgrid[0 : scale * HEIGHT, 0 : scale * WIDTH] / scale
    time = np.arange(FRAMES)[:, None, None, None]
    phase, across, down, speed = rng.uniform(0.1, 0.9, (4, count, 1, channels, 1, 1))
    made = 0.5 + 0.4 * np.sin(across * x + down * y + speed * time + 7 * phase)
    return torch.from_numpy(made).float()


def noise(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(NOISE * rng.standard_normal(like.shape)).float()


def draw(family: str, rng: np.random.Generator, count: int) -> Sample:
    """Inputs and targets of so many images, or clips."""
    if family == Recurrent.family:
        clean = waves(rng, count, 1)
        level = torch.full((count, 1, 1, 1), NOISE)
        inputs, targets = {"image": clean + noise(rng, clean), "noise_map": level}, {"image": clean}
    elif family == Upscaler.family:
        large = waves(rng, count, 1, 2)[:, 0]
        inputs, targets = {"image": F.avg_pool2d(large, 2)}, {"image": large}
    elif family == TwoOutputs.family:
        clean = waves(rng, count, 3)[:, 0]
        mask = (clean[:, :1, ::2, ::2] > 0.5).float()
        inputs, targets = {"image": clean + noise(rng, clean)}, {"image": clean, "mask": mask}
    else:
        assert family == TwoInputs.family
        large = waves(rng, count, 1, 2)[:, 0]
        depth = F.avg_pool2d(large, 2)
        guide = large.expand(-1, 3, -1, -1)
        inputs = {"image": depth + noise(rng, depth), "guide": guide}
        targets = {"image": depth}
    return as_sample(inputs, targets)


class Waves(Sampler):
    """A function of (seed, step); every process takes its own part of what all have."""

    def __init__(self, family: str, seed: int, count: int, rank: int, processes: int) -> None:
        self.family, self.seed, self.count = family, seed, count
        self.rank, self.processes = rank, processes
        self.files = {"files": 1, "sha256": family}

    def batch(self, step: int) -> Sample:
        rng = step_generator(self.seed, step, CROPS)
        whole = draw(self.family, rng, self.processes * self.count)
        mine = slice(self.rank * self.count, (self.rank + 1) * self.count)
        index = torch.arange(self.processes * self.count)[mine]
        return {name: x[mine] for name, x in whole.items()} | {INDEX: index}


class Error(Validator):
    """Mean absolute error of the image, and a label for each of two sets of samples."""

    metric, unit, digits, higher_is_better = "mae", "", 6, False
    labels = ("first", "second")

    def __init__(self, family: str, seed: int) -> None:
        self.family, self.seed = family, seed

    def samples(self, label: str | float) -> Iterator[Sample]:
        for index in range(3):
            step = 3 * self.labels.index(label) + index
            yield draw(self.family, step_generator(self.seed, step, VALIDATION), 1)

    def figures(self, outputs, sample):
        made, target = outputs["image"], targets_of(sample)["image"]
        return {
            "mae": (made - target).abs().mean().item(),
            "psnr": psnr(made, target).mean().item(),
        }

    def picture(self, outputs, sample):
        image = outputs["image"]
        return (image[:, -1] if image.dim() == 5 else image).clamp(0, 1)


@register_task("waves")
def build_waves(config, network, processes, device) -> Task:
    run = config.run
    sampler = Waves(network.family, run.seed, run.batch_size, processes.rank, processes.count)
    distance = criterion(config.loss.name, config.loss.ssim_weight)
    objective = Supervised(distance, tuple(network.signature.outputs))
    return Task(sampler, objective, Error(network.family, run.seed))


for _name, _cls in KINDS.items():

    def _build(cls=_cls):
        return cls()

    _build.__name__ = _build.__qualname__ = _name
    register_architecture(_name)(_cls)
    register_model(_build)
