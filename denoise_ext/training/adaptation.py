"""The task of `adapt`: crops of noisy files, and an estimate of the error on held-out tiles.

The error of a network is estimated without clean images.  With noise of covariance S, y = x + n and
a probe b of the same covariance, ``|f(y) - y|^2 - tr S + 2 b . (f(y + eps b) - f(y)) / eps`` has
the same expectation as ``|f(y) - x|^2`` (Stein's lemma, exact for Gaussian noise).  Of two networks
the first terms are measured, and the unknown ``tr S`` is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from denoise_ext.data import PatchSampler
from denoise_ext.data.random import PROBES, VALIDATION, image_generator, step_seed
from denoise_ext.metrics.protocol import Sample, inputs_of, targets_of
from denoise_ext.models import Network
from denoise_ext.training.batches import denoising_sample, split_pair
from denoise_ext.training.distributed import Processes
from denoise_ext.training.image_denoising import check_fit
from denoise_ext.training.losses import criterion
from denoise_ext.training.objectives import Noise2Noise, Supervised, Sure
from denoise_ext.training.own_images import HeldOutTile, OwnImages
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.task import (
    INDEX,
    Label,
    Objective,
    Sampler,
    Task,
    Validator,
    register_task,
)

ADAPTATION = "adaptation"
FILES = "files"  # option of the task: a JSON file with the paths of each scene
TRIAL = "trial"  # option: the run is not judged
_PROBES = 2  # for a tile


@register_task(ADAPTATION)
def adaptation(
    config: TrainConfig, network: Network, processes: Processes, device: torch.device
) -> Task:
    """See `task.register_task`."""
    network = check_fit(network, config)
    images = read_images(config)
    target, seed = config.loss.target, config.run.seed
    distance = criterion(config.loss.name, config.loss.ssim_weight)
    objective: Objective
    if target == "sure":
        objective = Sure(seed, relative=True)
    else:
        objective = Supervised(distance) if target == "clean" else Noise2Noise(distance, seed)
    crops = Crops(config, images, processes, network.needs_sigma)
    if config.task.options.get(TRIAL, False):
        return Task(crops, objective)
    return Task(crops, objective, HeldOutTiles(config, images, network.needs_sigma))


def read_images(config: TrainConfig) -> OwnImages:
    """The images that a configuration of this task names."""
    groups = json.loads(Path(str(config.task.options[FILES])).read_text(encoding="utf-8"))
    return OwnImages([tuple(map(Path, group)) for group in groups], config.data.channels)


class Crops(Sampler):
    """Noisy crops, each with the level that its whole file has been estimated to have.

    For SURE also ``probe`` (N, C, H, W) of mean square 1, and as ``sigma`` the level of the noise
    model.
    """

    images: OwnImages
    takes_level: bool
    seed: int

    def __init__(
        self, config: TrainConfig, images: OwnImages, processes: Processes, takes_level: bool
    ) -> None:
        self.images, self.takes_level = images, takes_level
        self.seed, self.target = config.run.seed, config.loss.target
        self.files: Mapping[str, int | str] = images.files
        self.first: int = processes.rank * config.run.batch_size
        self.sampler: PatchSampler = PatchSampler(
            images.images, config.data.crop, config.run.batch_size, self.seed,
            share=(processes.rank, processes.count),
        )  # fmt: skip

    def batch(self, step: int) -> Sample:
        """See `Sampler`."""
        crops = self.sampler.batch(step)
        chosen, _, turns, _ = self.sampler.draws(step)
        files = [self.images.index[i] for i in chosen]
        noisy, target = split_pair(crops, self.target != "sure")
        levels = torch.tensor([self.images.levels[i] for i in files])
        sample = denoising_sample(noisy, target, levels, self.first, self.takes_level)
        if self.target == "sure":
            drawn = [
                unit_probe(
                    self.images, i, noisy[k : k + 1], self._generator(step, self.first + k),
                    bool(turn & 1),
                )
                for k, (i, turn) in enumerate(zip(files, turns))
            ]  # fmt: skip
            sample["probe"] = torch.cat([probe for probe, _ in drawn])
            sample["sigma"] = torch.stack([level for _, level in drawn])
        return sample

    def _generator(self, step: int, index: int) -> torch.Generator:
        source = image_generator(self.seed, step, PROBES, index)
        return torch.Generator().manual_seed(int(source.integers(2**63)))


def unit_probe(
    images: OwnImages,
    index: int,
    image: Tensor,
    generator: torch.Generator,
    turned: bool = False,
) -> tuple[Tensor, Tensor]:
    """Noise as a file has it, for a part (1, C, H, W) of it, over its level; and that level.

    The level is on the 0-255 scale, the root mean square over the part.
    """
    model = images.models[index]
    level = model.deviation(image).square().mean().sqrt()
    return model.draw(image, generator, turned) / level, 255.0 * level


class HeldOutTiles(Validator):
    """Mean squared error on held-out tiles, over the variance of their noise.

    With clean partners it is measured, with second takes up to a constant, which the takes'
    difference gives.  Otherwise it is Stein's estimate, and ``slope`` is its derivative by the
    variance of the noise, over which it is linear.
    """

    metric: str
    unit: str
    digits: int
    higher_is_better: bool
    images: OwnImages
    takes_level: bool
    seed: int

    metric, unit, digits, higher_is_better = "noise_left", "of the noise", 4, False
    others: tuple[str, ...] = ("slope",)
    labels: tuple[Label, ...] = ("held_out",)

    def __init__(self, config: TrainConfig, images: OwnImages, takes_level: bool) -> None:
        self.images, self.takes_level = images, takes_level
        self.target, self.seed = config.loss.target, config.run.seed

    def samples(self, label: Label) -> Iterator[Sample]:
        """Every tile, and for Stein's estimate the tile moved along each probe."""
        for number, tile in enumerate(self.images.held_out):
            yield self.sample(tile, number)

    def sample(self, tile: HeldOutTile, number: int) -> Sample:
        """Of one tile."""
        level = torch.tensor([self.images.levels[tile.index]])
        noisy = tile.image
        if tile.partner is not None:
            sample = denoising_sample(noisy, tile.partner, level, 0, self.takes_level)
            return sample | {INDEX: torch.tensor([number])}
        generator = torch.Generator()
        generator.manual_seed(step_seed(self.seed, number, VALIDATION))
        drawn = [unit_probe(self.images, tile.index, noisy, generator) for _ in range(_PROBES)]
        moved = [noisy, *(noisy + Sure.EPS * probe for probe, _ in drawn)]
        sample = denoising_sample(torch.cat(moved), noisy, level, 0, self.takes_level)
        return sample | {"probe": torch.cat([p for p, _ in drawn]), "sigma": drawn[0][1][None],
                         INDEX: torch.tensor([number])}  # fmt: skip

    def figures(self, outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        """See `Validator`."""
        made, target = outputs["image"].double(), targets_of(sample)["image"].double()
        if "probe" in sample:
            variance = float((sample["sigma"] / 255.0).square())
            residual = float((made[:1] - target).square().mean()) / variance
            divergence = float((sample["probe"] * (made[1:] - made[:1])).mean()) / Sure.EPS
            slope = 2.0 * divergence - 1.0
            return {"noise_left": residual + slope, "slope": slope}
        noisy = inputs_of(sample)["image"]
        if self.target == "clean":
            made = made.clamp(0.0, 1.0)
        error = float((made - target).square().mean())
        noise = float((noisy - target).square().mean())
        if self.target == "noise2noise":  # the second take's noise is in both
            noise /= 2.0
            error -= noise
        return {"noise_left": error / max(noise, 1e-12), "slope": 0.0}
