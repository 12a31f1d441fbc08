"""The task of upscalers: crops of images and their reduced versions, PSNR of held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data import PatchSampler, add_gaussian_noise, step_seed
from denoise_ext.data.noise import add_noise_chain
from denoise_ext.data.random import NOISE, VALIDATION, image_generator
from denoise_ext.metrics import luma, psnr
from denoise_ext.metrics.protocol import Sample, as_sample, inputs_of, targets_of
from denoise_ext.models import Network
from denoise_ext.resampling import imresize
from denoise_ext.training.batches import ImagePool
from denoise_ext.training.distributed import Processes
from denoise_ext.training.losses import criterion
from denoise_ext.training.objectives import Supervised
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import IMAGE_UPSCALING
from denoise_ext.training.task import INDEX, Label, Sampler, Task, Validator, register_task
from denoise_ext.training.validate import centre_crop

_MARGIN = 2  # pixels of a reduced image that depend on the edge of the large one


@register_task(IMAGE_UPSCALING)
def image_upscaling(
    config: TrainConfig, network: Network, processes: Processes, device: torch.device
) -> Task:
    """See `task.register_task`."""
    check_fit(network, config)
    scale = int(network.signature.outputs["image"].scale)
    takes_level = "noise_map" in network.signature.inputs
    pairs = ReducedCrops(config, processes, scale, takes_level)
    objective = Supervised(criterion(config.loss.name, config.loss.ssim_weight))
    validator = HeldOutReduced(config, pairs.held_out, scale, takes_level)
    return Task(pairs, objective, validator if pairs.held_out else None)


def check_fit(network: Network, config: TrainConfig) -> None:
    """ValueError where the network cannot take what the configuration would give it."""
    named, signature = config.model.name or config.model.start, network.signature
    made = signature.outputs.get("image")
    if set(signature.inputs) - {"noise_map"} != {"image"} or made is None or signature.state:
        raise ValueError(
            f"task.name is {config.task.name!r}, but model.name {named!r} enlarges no image"
        )
    if made.scale.denominator != 1 or made.scale < 2:
        raise ValueError(
            f"task.name is {config.task.name!r}, but the scale of model.name {named!r} is"
            f" {made.scale}"
        )
    if {signature.inputs["image"].channels, made.channels} != {config.data.channels}:
        raise ValueError(
            f"data.channels is {config.data.channels}, but model.name {named!r} "
            f"has {made.channels} channels"
        )
    step = int(made.scale) * network.stride
    if config.data.crop % step:
        raise ValueError(
            f"data.crop must be a multiple of {step} for this model, got {config.data.crop}"
        )


class ReducedCrops(Sampler):
    """The crops of every step, reduced and with their noise, and the held-out images.

    A sample has the input ``image`` (N, C, h, w), with ``takes_level`` the input ``noise_map``
    (N, 1, 1, 1), the target ``image`` (N, C, s h, s w), ``sigma`` (N,) on the 0-255 scale and
    `task.INDEX`. The input is what `imresize` makes of the whole image there, rounded to 8 bits as
    in a file, with noise. It is a function of the configuration, the step and the process alone.

    Raises ValueError where the data does not fit the configuration.
    """

    def __init__(
        self, config: TrainConfig, processes: Processes, scale: int, takes_level: bool
    ) -> None:
        self.config, self.processes = config, processes
        self.scale, self.takes_level = scale, takes_level
        crop = config.data.crop + 2 * _MARGIN * scale
        data = config.data.model_copy(update={"crop": crop})
        pool = ImagePool(data, config.validation.images)
        self.files = pool.files
        self.sampler = PatchSampler(
            pool.images,
            crop,
            config.run.batch_size,
            config.run.seed,
            data.augment,
            (processes.rank, processes.count),
            pool.probabilities,
            data.permute_channels,
        )
        side = config.validation.crop // scale * scale
        self.held_out = [_whole(centre_crop(image, side), scale) for image in pool.held_out]

    def batch(self, step: int) -> Sample:
        """See `Sampler`."""
        large = self.sampler.batch(step)
        kept = slice(_MARGIN, -_MARGIN)
        small = reduced(large, self.scale)[..., kept, kept].contiguous(
            memory_format=torch.channels_last
        )
        edge = slice(_MARGIN * self.scale, -_MARGIN * self.scale)
        target = large[..., edge, edge].contiguous(memory_format=torch.channels_last)
        run, noise = self.config.run, self.config.noise
        first = self.processes.rank * run.batch_size
        if noise.chain:
            noisy, sigma = add_noise_chain(small, noise.chain, run.seed, step, first)
        else:
            indices = range(first, first + len(small))
            sources = [image_generator(run.seed, step, NOISE, index) for index in indices]
            draws = torch.tensor([source.random() for source in sources])
            sigma = noise.sigma_min + (noise.sigma_max - noise.sigma_min) * draws
            seeds = [int(source.integers(0, 2**63, dtype=np.uint64)) for source in sources]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            noisy = add_gaussian_noise(small, sigma, generators)
        return upscaling_sample(noisy, target, sigma, self.takes_level, first)


def reduced(large: Tensor, scale: int) -> Tensor:
    """Images of a ``scale``-th of the rows and columns, in [0, 1], rounded to 8 bits."""
    return (imresize(large, Fraction(1, scale)).clamp(0.0, 1.0) * 255.0).round() / 255.0


def upscaling_sample(
    small: Tensor, large: Tensor, sigma: Tensor, takes_level: bool, first: int = 0
) -> Sample:
    """Reduced and large images, and the noise level (N,) of the reduced ones, 0-255 scale.

    ``first`` is the index of the first of them; ``takes_level``: the network takes the level, too.
    """
    inputs = {"image": small}
    if takes_level:
        inputs["noise_map"] = (sigma / 255.0).float().reshape(-1, 1, 1, 1)
    index = torch.arange(first, first + len(small))
    return as_sample(inputs, {"image": large}, **{"sigma": sigma.float(), INDEX: index})


def _whole(image: Tensor, scale: int) -> Tensor:
    """The upper left part of an image whose rows and columns are multiples of ``scale``."""
    rows, columns = (side // scale * scale for side in image.shape[-2:])
    return image[..., :rows, :columns]


class HeldOutReduced(Validator):
    """PSNR in dB of the luma of held-out images at each noise level, as papers report it.

    The output is clipped, a border of ``scale`` pixels left out.

    Args:
        config: names the levels.
        images: (1, C, h, w) each, h and w multiples of ``scale``.
        scale: of the network.
        takes_level: whether the network takes the noise level.
    """

    def __init__(
        self, config: TrainConfig, images: Sequence[Tensor], scale: int, takes_level: bool
    ) -> None:
        self.config, self.images = config, images
        self.scale, self.takes_level = scale, takes_level
        self.labels = tuple(config.validation.sigmas)

    def samples(self, label: Label) -> Iterator[Sample]:
        """Every held-out image; the same noise every time, not clipped."""
        assert not isinstance(label, str)
        seed, kind = self.config.run.seed, self.labels.index(label)
        for i, image in enumerate(self.images):
            generator = torch.Generator()
            generator.manual_seed(step_seed(seed, kind * 2**16 + i, VALIDATION))
            noisy = add_gaussian_noise(reduced(image, self.scale), label, generator)
            sigma = torch.full((1,), float(label))
            yield upscaling_sample(noisy, image, sigma, self.takes_level)

    def figures(self, outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        """See `Validator`."""
        inner = (..., slice(self.scale, -self.scale), slice(self.scale, -self.scale))
        made, clean = outputs["image"].clamp(0.0, 1.0), targets_of(sample)["image"]
        return {"psnr": psnr(luma(made)[inner], luma(clean)[inner]).mean().item()}

    def picture(self, outputs: Mapping[str, Tensor], sample: Sample) -> Tensor:
        """Input by bicubic interpolation, output, clean beside one another."""
        small, clean = inputs_of(sample)["image"], targets_of(sample)["image"]
        pictures = [imresize(small, self.scale), outputs["image"], clean]
        return torch.cat([x.clamp(0.0, 1.0) for x in pictures], dim=3)
