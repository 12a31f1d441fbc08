"""Outputs that are trained beside the image: their targets and their losses (`[[heads]]`)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from denoise_ext.metrics import surface_normals
from denoise_ext.metrics.protocol import Sample, targets_of
from denoise_ext.models import Network
from denoise_ext.training.losses import criterion
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import Head

FLOOR = 1e-3  # in units of white: added to both levels, which bounds the loss of clean images

# What follows from the clean image and the noise, by the name of the output.
_FOUND: dict[str, Callable[[Sample], Tensor]] = {
    "noise_level": lambda sample: sample["sigma"] / 255.0,  # (N,)
    "normals": lambda sample: surface_normals(targets_of(sample)["image"]),
}


def check_heads(network: Network, config: TrainConfig) -> None:
    """ValueError where heads and outputs of a network do not fit together."""
    named, outputs = config.model.name or config.model.start, network.signature.outputs
    for head in config.heads:
        name = head.output
        if name not in outputs:
            raise ValueError(
                f"heads: model.name {named!r} has no output {name!r}; it has {', '.join(outputs)}"
            )
        if name not in _FOUND:
            raise ValueError(
                f"heads: task.name {config.task.name!r} has no targets for {name!r}; it has"
                f" {', '.join(_FOUND)}"
            )
        if (head.loss == "log") != (name == "noise_level"):
            raise ValueError(
                f"heads: loss 'log' is for noise_level, got {head.loss!r} for {name!r}"
            )
        if head.loss == "angle" and name != "normals":
            raise ValueError(f"heads: loss 'angle' is for normals, got it for {name!r}")
    if "image" not in outputs and not config.heads:
        raise ValueError(f"heads: model.name {named!r} has no image; name one of {list(outputs)}")


def head_loss(head: Head, made: Tensor, sample: Sample) -> Tensor:
    """The loss of an output, not weighed.

    Targets are those of the sample, or follow from it: ``noise_level`` is the root mean square of
    what was added, ``normals`` are `metrics.surface_normals` of the clean depth.
    """
    targets = targets_of(sample)
    target = targets[head.output] if head.output in targets else _FOUND[head.output](sample)
    if head.loss == "log":
        return log_error(made, target)
    if head.loss == "angle":
        return 1.0 - F.cosine_similarity(made, target, dim=1).mean()
    return criterion(head.loss, 0.0)(made, target)


def log_error(estimate: Tensor, level: Tensor) -> Tensor:
    """Mean squared error of the logarithms of levels (N,) and estimates, averaged over an image."""
    mean = estimate.flatten(1).mean(dim=1)
    return ((mean + FLOOR) / (level + FLOOR)).log().square().mean()
