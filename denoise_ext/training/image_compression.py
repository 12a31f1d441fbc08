"""The task of codecs: crops with noise, bits and error against the clean image, at all rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from denoise_ext.data import add_gaussian_noise, step_seed
from denoise_ext.data.random import RATES, VALIDATION, image_generator
from denoise_ext.metrics import psnr
from denoise_ext.metrics.protocol import Sample, inputs_of, targets_of
from denoise_ext.models import Network
from denoise_ext.training.batches import Batches, denoising_sample
from denoise_ext.training.distributed import Processes
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import IMAGE_COMPRESSION
from denoise_ext.training.task import Label, Task, Trained, Validator, register_task

_WHITE = 255.0
_LEVELS = (0.2, 0.5, 0.8)  # that are validated


@register_task(IMAGE_COMPRESSION)
def image_compression(
    config: TrainConfig, network: Network, processes: Processes, device: torch.device
) -> Task:
    """See `task.register_task`."""
    check_fit(network, config)
    crops = CodedCrops(config, processes, device, takes_level=True)
    objective = RateDistortion(config.loss.tradeoff)
    validator = HeldOutCoded(config, crops.held_out)
    return Task(crops, objective, validator if crops.held_out else None)


def check_fit(network: Network, config: TrainConfig) -> None:
    """ValueError where the network cannot take what the configuration would give it."""
    named, signature = config.model.name or config.model.start, network.signature
    inputs, outputs = set(signature.inputs), set(signature.outputs)
    if inputs != {"image", "noise_map", "level"} or outputs != {"image", "bits"}:
        raise ValueError(
            f"task.name is {config.task.name!r}, but model.name {named!r} compresses no image"
        )
    if signature.inputs["image"].channels != config.data.channels:
        raise ValueError(
            f"data.channels is {config.data.channels}, but model.name {named!r} has"
            f" {signature.inputs['image'].channels} channels"
        )
    if config.data.crop % network.stride or config.validation.crop % network.stride:
        raise ValueError(
            f"data.crop and validation.crop must be multiples of {network.stride} for this model,"
            f" got {config.data.crop} and {config.validation.crop}"
        )


class CodedCrops(Batches):
    """`Batches` whose samples have the input ``level`` (N, 1, 1, 1), uniform in [0, 1]."""

    def batch(self, step: int) -> Sample:
        """See `Sampler`."""
        return _with_level(super().batch(step), self._levels(step))

    def _levels(self, step: int) -> Tensor:
        first = self.processes.rank * self.config.run.batch_size
        indices = range(first, first + self.config.run.batch_size)
        seed = self.config.run.seed
        draws = [image_generator(seed, step, RATES, index).random() for index in indices]
        return torch.tensor(draws, dtype=torch.float32)

    def finish(self, sample: Sample, step: int) -> Sample:
        """See `Sampler`."""
        level = sample["inputs.level"]
        return {**super().finish(sample, step), "inputs.level": level}


def _with_level(sample: Sample, level: Tensor) -> Sample:
    return {**sample, "inputs.level": level.reshape(-1, 1, 1, 1)}


class RateDistortion:
    """The mean over the images of ``sqrt(bits per pixel + tradeoff * mse)``.

    The error is on the 0-255 scale. Between the lowest and the highest level the trade-off is
    interpolated in its logarithm. The root keeps images of low cost in view: without it the
    gradient is that of strong noise and high rates.
    """

    parts: tuple[str, ...] = ("bits_per_pixel", "mse")

    def __init__(self, tradeoff: Sequence[float]) -> None:
        self.tradeoff: Tensor = torch.tensor(tradeoff)

    def __call__(
        self, network: Trained, sample: Sample, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step."""
        outputs = network(inputs_of(sample))
        bits, mse = rate_and_error(outputs, sample)
        cost = bits + self.multiplier(sample["inputs.level"]) * mse
        return cost.sqrt().mean(), dict(zip(self.parts, (bits.mean(), mse.mean())))

    def multiplier(self, level: Tensor) -> Tensor:
        """(N,): bits per pixel for a unit of squared error, at levels (N, 1, 1, 1)."""
        lowest, highest = self.tradeoff.log().to(level.device)
        return (lowest + (highest - lowest) * level.flatten()).exp()


def rate_and_error(outputs: Mapping[str, Tensor], sample: Sample) -> tuple[Tensor, Tensor]:
    """(N,) bits per pixel, and (N,) mean squared errors on the 0-255 scale, not clipped."""
    target = targets_of(sample)["image"]
    bits = outputs["bits"].flatten(1).sum(1) / (target.shape[-2] * target.shape[-1])
    error = (outputs["image"] - target).square().flatten(1).mean(1) * _WHITE**2
    return bits, error


class HeldOutCoded(Validator):
    """Cost, PSNR and bits per pixel of held-out images, at each noise level and three rates.

    Labels are "SIGMA at LEVEL". The bits are those of the network's distribution, without the
    coder's loss.

    Args:
        config: names the noise levels.
        images: (1, C, h, w) each.
    """

    metric = "cost"
    unit = ""
    higher_is_better = False
    others: tuple[str, ...] = ("psnr", "bpp")

    def __init__(self, config: TrainConfig, images: Sequence[Tensor]) -> None:
        self.config = config
        self.images: list[Tensor] = [_whole(image, 16) for image in images]
        self.objective: RateDistortion = RateDistortion(config.loss.tradeoff)
        self.points: dict[Label, tuple[float, float]] = {
            f"{sigma:g} at {level:g}": (sigma, level)
            for sigma in config.validation.sigmas
            for level in _LEVELS
        }
        self.labels: tuple[Label, ...] = tuple(self.points)

    def samples(self, label: Label) -> Iterator[Sample]:
        """Every held-out image; the same noise every time and at every rate, not clipped."""
        sigma, level = self.points[label]
        kind = self.config.validation.sigmas.index(sigma)
        for i, image in enumerate(self.images):
            generator = torch.Generator()
            generator.manual_seed(step_seed(self.config.run.seed, kind * 2**16 + i, VALIDATION))
            noisy = add_gaussian_noise(image, sigma, generator)
            levels = torch.full((1,), float(sigma))
            sample = denoising_sample(noisy, image, levels, takes_level=True)
            yield _with_level(sample, torch.full((1,), level))

    def figures(self, outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        """See `Validator`."""
        clipped = {**outputs, "image": outputs["image"].clamp(0.0, 1.0)}
        bits, error = rate_and_error(clipped, sample)
        cost = bits + self.objective.multiplier(sample["inputs.level"]) * error
        quality = psnr(clipped["image"], targets_of(sample)["image"])
        return {"cost": cost.item(), "psnr": quality.item(), "bpp": bits.item()}

    def picture(self, outputs: Mapping[str, Tensor], sample: Sample) -> Tensor:
        """Noisy, decoded, clean beside one another."""
        noisy, clean = inputs_of(sample)["image"], targets_of(sample)["image"]
        return torch.cat([noisy, outputs["image"], clean], dim=3).clamp(0.0, 1.0)


def _whole(image: Tensor, unit: int) -> Tensor:
    """The upper left part of an image, of multiples of ``unit`` rows and columns."""
    rows, columns = (side // unit * unit for side in image.shape[-2:])
    return image[..., :rows, :columns]
