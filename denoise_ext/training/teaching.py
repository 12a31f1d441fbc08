"""Learn from other networks: their mean output is part of the target (`[teacher]`).

A clean image is one of many that fit a noisy one. The mean of all of them is the best output, and
what a good network makes is closer to it. So the gradient has less noise, and what a large network
knows goes into a small one (Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network",
2015).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from denoise_ext._modules import channels_last
from denoise_ext.metrics.protocol import Sample, as_sample, inputs_of, targets_of
from denoise_ext.models import (
    ImageDenoiser,
    Network,
    create_model,
    list_models,
    load_checkpoint,
)
from denoise_ext.models.registry import has_model
from denoise_ext.training.config import user_path
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.task import Objective, Trained


class Taught:
    """Another objective with other targets: ``(1 - weight) * clean + weight * mean output``.

    Args:
        objective: gets the sample with that target for the output ``image``.
        teachers: whose outputs for the noisy images are averaged.
        weight: of that mean, above 0 and at most 1.
    """

    objective: Objective
    teachers: Sequence[ImageDenoiser]
    weight: float

    def __init__(
        self, objective: Objective, teachers: Sequence[ImageDenoiser], weight: float
    ) -> None:
        self.objective, self.teachers, self.weight = objective, teachers, weight
        self.parts: tuple[str, ...] = objective.parts

    def __call__(
        self, network: Trained, sample: Sample, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step."""
        noisy, clean = inputs_of(sample)["image"], targets_of(sample)["image"]
        with torch.no_grad():
            outputs = [teacher(noisy, sample["sigma"]) for teacher in self.teachers]
            target = clean.lerp(torch.stack(outputs).mean(dim=0), self.weight)
        return self.objective(network, {**sample, **as_sample({}, {"image": target})}, step)


def build_teachers(config: TrainConfig, device: torch.device) -> list[ImageDenoiser]:
    """The networks of ``teacher.networks``, which do not learn.

    Raises ValueError for one that is not there or does not fit.
    """
    return [_teacher(name, config.data.channels, device) for name in config.teacher.networks]


def _teacher(name: str, channels: int, device: torch.device) -> ImageDenoiser:
    network = _network(name)
    if not isinstance(network, ImageDenoiser):
        raise ValueError(f"teacher.networks: {name!r} denoises no image")
    if network.in_channels != channels:
        raise ValueError(
            f"teacher.networks: {name!r} has {network.in_channels} channels, but data.channels is "
            f"{channels}"
        )
    return channels_last(network, device).eval().requires_grad_(False)


def _network(name: str) -> Network:
    if has_model(name):
        return create_model(name, pretrained=True)
    path = user_path(name)
    if not os.path.isfile(path):
        trained = ", ".join(list_models(pretrained=True))
        raise ValueError(
            f"teacher.networks: {name!r} is neither a model with trained weights nor a checkpoint "
            f"file; models with trained weights: {trained}"
        )
    return load_checkpoint(path)
