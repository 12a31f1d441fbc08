"""The task of guided networks: aligned pairs with noise or fewer pixels, held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data import (
    ImageCache,
    add_gaussian_noise,
    default_cache_folder,
    fingerprint,
    list_training_files,
    step_seed,
    without,
)
from denoise_ext.data.aligned import AlignedPairs, Pair, PairSource, as_floats
from denoise_ext.data.layers import LayeredScenes
from denoise_ext.data.random import CROPS, NOISE, VALIDATION, image_generator
from denoise_ext.metrics import psnr
from denoise_ext.metrics.protocol import Sample, as_sample, inputs_of, targets_of
from denoise_ext.models import Network
from denoise_ext.resampling import enlargement
from denoise_ext.training.config import data_path, user_path
from denoise_ext.training.data_sections import Data, Source
from denoise_ext.training.distributed import Processes
from denoise_ext.training.heads import check_heads
from denoise_ext.training.objectives import build_objective
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import GUIDED_DENOISING
from denoise_ext.training.task import INDEX, Label, Sampler, Task, Validator, register_task
from denoise_ext.training.validate import split_held_out

_TAPS = 4  # pixels of the reduced image that an enlarged pixel depends on, on either side
_LEAST_CONTRAST = 0.2
_UNIT = 16  # pixels: sides of held-out pairs are multiples
_GUIDE_GAIN, _GUIDE_GAMMA = (0.4, 1.0), (0.7, 1.5)


@register_task(GUIDED_DENOISING)
def guided_denoising(
    config: TrainConfig, network: Network, processes: Processes, device: torch.device
) -> Task:
    """See `task.register_task`."""
    check_fit(network, config)
    crops = GuidedCrops(config, processes)
    validated = crops.pool.held_out and "image" in network.signature.outputs
    validator = HeldOutPairs(config, crops.pool) if validated else None
    return Task(crops, build_objective(config), validator)


def check_fit(network: Network, config: TrainConfig) -> None:
    """ValueError where the network cannot take what the configuration would give it."""
    named, ports = config.model.name or config.model.start, network.signature
    check_heads(network, config)
    if set(ports.inputs) != {"image", "noise_map", "guide"}:
        raise ValueError(
            f"task.name is {config.task.name!r}, but model.name {named!r} takes no guide"
        )
    channels = ports.inputs["image"].channels, ports.inputs["guide"].channels
    if channels != (1, 3):
        raise ValueError(
            f"task.name {config.task.name!r} needs a network for gray images and colour guides, but"
            f" model.name {named!r} has {channels[0]} and {channels[1]} channels"
        )
    if config.data.crop % network.stride:
        raise ValueError(
            f"data.crop must be a multiple of {network.stride} for this model, got"
            f" {config.data.crop}"
        )


@dataclass(frozen=True)
class HeldOut:
    """A pair that is not trained on, cut to the validation's size."""

    image: Tensor  # (1, 1, h, w)
    guide: Tensor  # (1, 3, h, w)
    enlarged: bool
    """Whether its source is trained on enlarged images."""


class PairPool:
    """The sources of a ``[data]`` section, and the pairs that are held out of them.

    Attributes:
        sources: with the part of their crops that are enlarged.
        bounds: between the sources, for draws in [0, 1).
        files: what identifies the files; see `fingerprint`.

    Raises ValueError where a source names no files, or all are held out.
    """

    def __init__(self, data: Data, side: int, held_out: int, size: int) -> None:
        self.held_out: list[HeldOut] = []
        self.sources: list[tuple[PairSource, float]] = []
        groups: list[tuple[Path, ...]] = []
        for part in data.sources:
            files = list_training_files(data_path(part.train), part.pairs, [0.0, 1.0])
            files = without(files, user_path(part.leave_out)) if part.leave_out else files
            groups += files
            source: PairSource
            if part.layered:
                source = _layered(part, files, data, side)
            else:
                train, chosen = split_held_out(len(files), held_out)
                kept = AlignedPairs([files[i] for i in chosen])
                self.held_out += [
                    HeldOut(*_as_tensors(_centre(as_floats(pair), size)), part.enlarged > 0)
                    for pair in kept.pairs
                ]
                source = AlignedPairs([files[i] for i in train])
                source.check_sides(side)
            self.sources.append((source, part.enlarged))
        weights = np.array([part.weight for part in data.sources])
        self.bounds: np.ndarray = np.cumsum(weights)[:-1] / weights.sum()
        self.files: Mapping[str, int | str] = fingerprint(groups, data_path(""))

    def choose(self, draw: float) -> tuple[PairSource, float]:
        """The source for a draw in [0, 1), and the part of its crops that are enlarged."""
        return self.sources[int(np.searchsorted(self.bounds, draw, side="right"))]


def _layered(part: Source, files: list[tuple[Path, ...]], data: Data, side: int) -> LayeredScenes:
    folder = {"off": None, "auto": default_cache_folder()}.get(data.cache, user_path(data.cache))
    cache = ImageCache(files, channels=3, folder=folder)
    images = [image for image in cache if min(image.shape[:2]) >= side]
    if not images:
        raise ValueError(
            f"{data_path(part.train)}: no image has {side} pixels on each side, the window around a"
            " crop"
        )
    return LayeredScenes(images)


def _centre(pair: Pair, size: int) -> Pair:
    """The middle of a pair, a square of at most ``size`` pixels on a side, a multiple of 16.

    Raises ValueError where that has no pixel.
    """
    height, width = pair[0].shape
    side = min(height, width, size) // _UNIT * _UNIT
    if not side:
        raise ValueError(
            f"validation.crop: a held-out pair needs {_UNIT} x {_UNIT} pixels, got {width} x"
            f" {height} and a crop of {size}"
        )
    y, x = (height - side) // 2, (width - side) // 2
    place = np.s_[y : y + side, x : x + side]
    return pair[0][place], pair[1][place]


def _as_tensors(pair: Pair) -> tuple[Tensor, Tensor]:
    """(1, 1, H, W) and (1, 3, H, W)."""
    image, guide = (torch.from_numpy(np.ascontiguousarray(x)) for x in pair)
    return image[None, None], guide.permute(2, 0, 1)[None]


class GuidedCrops(Sampler):
    """The crops of every step with noise or fewer pixels, and their guides.

    A sample has the inputs ``image`` (N, 1, H, W), ``guide`` (N, 3, H, W) and ``noise_map``
    (N, 1, 1, 1), the target ``image``, ``sigma`` (N,) on the 0-255 scale and `task.INDEX`. It is a
    function of the configuration, the step and the index alone.

    An image that is enlarged has no noise. It is what `resampling.imresize` makes of the reduced
    image around the crop.

    Raises ValueError where the data does not fit the configuration.
    """

    config: TrainConfig

    def __init__(self, config: TrainConfig, processes: Processes) -> None:
        self.config = config
        run, guide = config.run, config.guide
        first = processes.rank * run.batch_size
        self.indices: range = range(first, first + run.batch_size)
        # A crop begins where a pixel of the reduced images does, as whole images do.
        grid = math.lcm(*guide.factors)
        margin = _TAPS * max(guide.factors) + guide.shift
        self.margin: int = -(-margin // grid) * grid
        self.side: int = -(-(config.data.crop + 2 * self.margin) // grid) * grid
        validation = config.validation
        self.pool: PairPool = PairPool(config.data, self.side, validation.images, validation.crop)
        self.files: Mapping[str, int | str] = self.pool.files

    def batch(self, step: int) -> Sample:
        """See `Sampler`."""
        made = [self._one(step, index) for index in self.indices]
        image, guide, target = (torch.stack(parts) for parts in list(zip(*made))[:3])
        sigma = torch.tensor([sigma for *_, sigma in made])
        return guided_sample(image, guide, target, sigma, self.indices.start)

    def _one(self, step: int, index: int) -> tuple[Tensor, Tensor, Tensor, float]:
        """Input, guide and target (C, crop, crop) and the level, 0-255 scale, of one crop."""
        rng = image_generator(self.config.run.seed, step, CROPS, index)
        source, enlarged = self.pool.choose(rng.random())
        image, photo = source.draw(rng, self.side)
        guide = self._guide(rng, photo)
        image = self._contrast(rng, image)
        noise = self.config.noise
        kept = slice(self.margin, self.margin + self.config.data.crop)
        target = torch.from_numpy(np.ascontiguousarray(image[kept, kept]))
        rng = image_generator(self.config.run.seed, step, NOISE, index)
        if rng.random() < enlarged:
            factor = int(rng.choice(self.config.guide.factors))
            matrix = _matrix(self.side, factor)[kept]
            made = matrix @ torch.from_numpy(np.ascontiguousarray(image)) @ matrix.T
            return made[None], guide, target[None], 0.0
        sigma = float(noise.sigma_min + (noise.sigma_max - noise.sigma_min) * rng.random())
        added = rng.standard_normal(target.shape, np.float32) * np.float32(sigma / 255)
        return (target + torch.from_numpy(added))[None], guide, target[None], sigma

    def _guide(self, rng: np.random.Generator, guide: np.ndarray) -> Tensor:
        """The crop's guide (3, crop, crop): its own, a shifted one, another crop's, or black."""
        options, crop, y, x = self.config.guide, self.config.data.crop, self.margin, self.margin
        draw = rng.random()
        if draw < options.wrong:
            other, _ = self.pool.choose(rng.random())
            _, guide = other.draw(rng, self.side)
        elif draw < options.wrong + options.missing:
            guide = np.zeros_like(guide)
        elif draw < options.wrong + options.missing + options.shifted:
            dy, dx = rng.integers(-options.shift, options.shift + 1, 2).tolist()
            y, x = y + dy, x + dx
        cut = guide[y : y + crop, x : x + crop]
        gain, gamma = rng.uniform(*_GUIDE_GAIN), rng.uniform(*_GUIDE_GAMMA)
        return torch.from_numpy(np.ascontiguousarray(cut)).permute(2, 0, 1).pow(gamma) * gain

    def _contrast(self, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        """The image inverted, or with a part of its contrast, or as it is."""
        inverted, changed = rng.random(2) < (0.5, self.config.guide.contrast)
        gain, place = rng.uniform(_LEAST_CONTRAST, 1.0), rng.random()
        image = 1.0 - image if inverted else image
        return image * np.float32(gain) + np.float32((1.0 - gain) * place) if changed else image


@cache
def _matrix(size: int, factor: int) -> Tensor:
    """(size, size): what reduces an axis by a factor and enlarges it again."""
    return enlargement(size, factor).float()


def guided_sample(
    image: Tensor, guide: Tensor, target: Tensor, sigma: Tensor, first: int = 0
) -> Sample:
    """Images, their guides, what they should become, and their noise level (N,), 0-255 scale.

    ``first`` is the index of the first of them.
    """
    level = (sigma / 255.0).float().reshape(-1, 1, 1, 1)
    layout = {"memory_format": torch.channels_last}
    inputs = {"image": image, "noise_map": level, "guide": guide.contiguous(**layout)}
    index = torch.arange(first, first + len(image))
    return as_sample(inputs, {"image": target}, **{"sigma": sigma.float(), INDEX: index})


class HeldOutPairs(Validator):
    """PSNR in dB of held-out pairs: at each noise level, enlarged, and with another pair's guide.

    Of one pair alone nothing is measured with another guide.

    Args:
        config: names levels and factors.
        pool: has the pairs.
    """

    config: TrainConfig

    def __init__(self, config: TrainConfig, pool: PairPool) -> None:
        self.config, self.pairs = config, pool.held_out
        sigmas = config.validation.sigmas
        self.labels: tuple[Label, ...] = tuple(sigmas)
        self.wrong: str = f"{sigmas[len(sigmas) // 2]:g} with a wrong guide"
        if len(self.pairs) > 1:  # one alone has no other one's guide
            self.labels += (self.wrong,)
        if any(pair.enlarged for pair in self.pairs):
            self.labels += tuple(f"x{factor}" for factor in config.guide.factors)

    def samples(self, label: Label) -> Iterator[Sample]:
        """Every held-out pair; the same noise every time, not clipped."""
        if isinstance(label, str) and label.startswith("x"):
            factor = int(label[1:])
            for pair in self.pairs:
                if pair.enlarged:
                    side = pair.image.shape[-1] // factor * factor
                    image, guide = (x[..., :side, :side] for x in (pair.image, pair.guide))
                    matrix = _matrix(side, factor)
                    yield guided_sample(matrix @ image @ matrix.T, guide, image, torch.zeros(1))
            return
        sigmas = self.config.validation.sigmas
        level = sigmas[len(sigmas) // 2] if isinstance(label, str) else label
        for i, pair in enumerate(self.pairs):
            seed = step_seed(self.config.run.seed, sigmas.index(level) * 2**16 + i, VALIDATION)
            noisy = add_gaussian_noise(pair.image, level, torch.Generator().manual_seed(seed))
            guide = pair.guide
            if label == self.wrong:
                guide = _cut_like(self.pairs[i - 1].guide, pair.image)
            yield guided_sample(noisy, guide, pair.image, torch.full((1,), float(level)))

    def figures(self, outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        """See `Validator`."""
        made, clean = outputs["image"].clamp(0.0, 1.0), targets_of(sample)["image"]
        return {"psnr": psnr(made, clean).mean().item()}

    def picture(self, outputs: Mapping[str, Tensor], sample: Sample) -> Tensor:
        """Guide, input, output, clean beside one another."""
        inputs, clean = inputs_of(sample), targets_of(sample)["image"]
        parts = (inputs["image"], outputs["image"].clamp(0.0, 1.0), clean)
        grays = [x.expand(-1, 3, -1, -1) for x in parts]
        return torch.cat([inputs["guide"], *grays], dim=3)


def _cut_like(guide: Tensor, image: Tensor) -> Tensor:
    """Another picture's guide at the size of an image; repeated where it is smaller."""
    rows, columns = image.shape[-2:]
    times = (1, 1, -(-rows // guide.shape[-2]), -(-columns // guide.shape[-1]))
    return guide.repeat(times)[..., :rows, :columns]
