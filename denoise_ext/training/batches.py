"""Make the sample of a step from a configuration's data and noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from denoise_ext._modules import channels_last
from denoise_ext.data import (
    ImageCache,
    PatchSampler,
    add_gaussian_noise,
    default_cache_folder,
    fingerprint,
    list_training_files,
    without,
)
from denoise_ext.data.cache import white_of
from denoise_ext.data.noise import add_noise_chain
from denoise_ext.data.random import NOISE, step_generator, step_seed
from denoise_ext.metrics.protocol import Sample, as_sample, inputs_of, targets_of
from denoise_ext.models import Network, create_model, pretrained_info
from denoise_ext.training.config import data_path, user_path
from denoise_ext.training.data_sections import Data
from denoise_ext.training.distributed import Processes
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.task import INDEX, Sampler
from denoise_ext.training.validate import centre_crop, split_held_out


class Batches(Sampler):
    """The crops of every step with their noise, and the held-out images.

    A sample has the input ``image``, with ``takes_level`` the input ``noise_map`` (N, 1, 1, 1), the
    target ``image``, ``sigma`` (N,) on the 0-255 scale and `task.INDEX`. It is a function of the
    configuration, the step and the process alone.

    Raises ValueError where the data does not fit the configuration.
    """

    config: TrainConfig
    processes: Processes
    device: torch.device

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        device: torch.device,
        takes_level: bool = False,
    ) -> None:
        self.config, self.processes, self.device = config, processes, device
        self.takes_level = takes_level
        data = config.data
        pool = ImagePool(data, config.validation.images)
        self.files: Mapping[str, int | str] = pool.files
        self.sampler: PatchSampler = PatchSampler(
            pool.images,
            data.crop,
            config.run.batch_size,
            config.run.seed,
            data.augment,
            (processes.rank, processes.count),
            pool.probabilities,
            data.permute_channels,
        )
        # (1, C, h, w) each; (1, 2 C, h, w) for pairs
        self.held_out: list[Tensor] = [
            centre_crop(image, config.validation.crop) for image in pool.held_out
        ]

    def batch(self, step: int) -> Sample:
        """The part of a sample that other threads make: crops, and on the CPU their noise."""
        crops = self.sampler.batch(step)
        if self.config.files_are_noisy:
            sigma = torch.full((len(crops),), self.config.data.sigma)
            noisy, target = split_pair(crops, bool(self.config.data.pairs))
            if self.config.data.match_means:  # or the network learns to change the brightness
                target = target + (noisy - target).mean((2, 3), keepdim=True)
            if self.config.loss.target in ("blind_spot", "sure"):
                target = noisy  # the clean half of a pair is for validation alone
            sample = self._sample(noisy, target, sigma)
        elif self.device.type == "cpu":
            sample = self._add_noise(crops, step)
        else:
            sample = as_sample({}, {"image": crops})
        if self.device.type != "cpu":
            pinned = {id(x): x.pin_memory() for x in sample.values()}  # a target may be the input
            sample = {name: pinned[id(x)] for name, x in sample.items()}
        return sample

    def finish(self, sample: Sample, step: int) -> Sample:
        """Noise is drawn on the GPU where there is one, and its level is scaled there."""
        if self.device.type == "cpu":
            return sample
        target = targets_of(sample)["image"]
        if self.config.files_are_noisy:
            return self._sample(inputs_of(sample)["image"], target, sample["sigma"])
        return self._add_noise(target, step)

    def _sample(self, noisy: Tensor, target: Tensor, sigma: Tensor) -> Sample:
        first = self.processes.rank * len(noisy)
        return denoising_sample(noisy, target, sigma, first, self.takes_level)

    def _add_noise(self, clean: Tensor, step: int) -> Sample:
        """Noise on this process's crops: a function of (seed, step), and of its place among all."""
        noise, seed = self.config.noise, self.config.run.seed
        first = self.processes.rank * len(clean)
        if noise.chain:
            noisy, sigma = add_noise_chain(clean, noise.chain, seed, step, first)
            return self._sample(noisy, clean, sigma)
        # Drawn for the crops of all processes: what a crop gets does not depend on their number.
        whole = self.processes.count * len(clean)
        mine = slice(first, first + len(clean))
        draws = step_generator(seed, step, NOISE).random(whole)
        sigma = noise.sigma_min + (noise.sigma_max - noise.sigma_min) * torch.from_numpy(draws)
        sigma = sigma.to(clean.device, torch.float32)
        generator = torch.Generator(clean.device).manual_seed(step_seed(seed, step, NOISE))
        if whole == len(clean):
            return self._sample(add_gaussian_noise(clean, sigma, generator), clean, sigma)
        nothing = torch.zeros((whole, *clean.shape[1:]), device=clean.device)
        added = add_gaussian_noise(nothing, sigma, generator)[mine]
        return self._sample(clean + added, clean, sigma[mine])


def denoising_sample(
    noisy: Tensor, target: Tensor, sigma: Tensor, first: int = 0, takes_level: bool = False
) -> Sample:
    """Noisy images (N, C, H, W), what they should become, and their noise level, 0-255 scale.

    ``first`` is the index of the first of them; ``takes_level``: the network takes the level, too.
    """
    inputs = {"image": noisy}
    if takes_level:
        inputs["noise_map"] = (sigma / 255.0).reshape(-1, 1, 1, 1)
    index = torch.arange(first, first + len(noisy))
    return as_sample(inputs, {"image": target}, **{"sigma": sigma, INDEX: index})


class ImagePool:
    """The images of a ``[data]`` section, decoded.

    Attributes:
        images: to take crops from, every one at each of its sizes, (H, W, C), uint8 or uint16.
        probabilities: of them, for `PatchSampler`.
        held_out: images that are not trained on, evenly spread over all files.
        files: what identifies the files; see `fingerprint`.

    Raises ValueError where the section names no files, or none is left.
    """

    def __init__(self, data: Data, held_out: int) -> None:
        folder = {"off": None, "auto": default_cache_folder()}.get(
            data.cache, user_path(data.cache)
        )
        caches, groups = [], []
        for source in data.parts:
            files = list_training_files(data_path(source.train), data.pairs, data.part)
            if source.leave_out:
                files = without(files, user_path(source.leave_out))
            cleaner = Cleaner(data.channels, source.denoise) if source.denoise else None
            caches.append(
                ImageCache(
                    files,
                    data.channels,
                    scales=source.scales,
                    normalise=data.normalise,
                    treat=cleaner,
                    treatment=cleaner.name if cleaner else "",
                    folder=folder,
                )
            )
            groups += caches[-1].groups
        sources = [data_path(source.train) for source in data.parts]
        bases = [path if path.is_dir() else path.parent for path in sources]
        self.files: Mapping[str, int | str] = fingerprint(
            groups, bases[0] if len(bases) == 1 else data_path("")
        )
        train, chosen = split_held_out(len(groups), held_out)
        self.images: list[np.ndarray] = []
        self.held_out: list[np.ndarray] = []
        shares: list[np.ndarray] = []
        first = 0
        for source, cache in zip(data.parts, caches, strict=True):
            count = len(cache.groups)
            mine = [i - first for i in train if first <= i < first + count]
            self.held_out += [cache[i - first] for i in chosen if first <= i < first + count]
            sized = [cache[k * count + i] for k in range(len(source.scales)) for i in mine]
            # at a reduced size only: one that is too small as it is, is a mistake
            reduced = len(mine) if source.scales[0] == 1.0 else 0
            sized = sized[:reduced] + [
                image for image in sized[reduced:] if min(image.shape[:2]) >= data.crop
            ]
            if not sized:
                raise ValueError(
                    f"{data_path(source.train)}: no image is left to take crops of {data.crop} "
                    "pixels from"
                )
            areas = np.array([image.shape[0] * image.shape[1] for image in sized], float)
            share = areas if data.sampling == "area" else np.ones(len(sized))
            shares.append(source.weight * share / share.sum())
            self.images += sized
            first += count
        alike = data.sampling == "image" and not data.sources
        self.probabilities: np.ndarray | None = None if alike else np.concatenate(shares)


class Cleaner:
    """Removes white noise of a level from images (H, W, C) with a shipped network.

    ``name`` identifies the network, its weights and the level.
    """

    name: str
    level: float

    def __init__(self, channels: int, level: float) -> None:
        network = "dxnet_s_gray" if channels == 1 else "dxnet_s_color"
        shipped = pretrained_info(network)
        assert shipped is not None
        self.name, self.level = f"{network} {shipped.sha256} {level:g}", level
        self._build = lambda: create_model(network, pretrained=True)
        self._network: Network | None = None  # built where an image is not in the cache

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The image without that noise."""
        if self._network is None:
            self._network = channels_last(self._build())
        network = self._network
        x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        white = float(white_of(image))
        clean = (network(x / white, self.level).clamp(0, 1) * white).round()
        return clean[0].permute(1, 2, 0).numpy().astype(image.dtype)


def split_pair(images: Tensor, paired: bool) -> tuple[Tensor, Tensor]:
    """(N, 2 C, H, W) -> noisy and target; single images are both."""
    if not paired:
        return images, images
    noisy, target = images.chunk(2, dim=1)
    layout = {"memory_format": torch.channels_last}
    return noisy.contiguous(**layout), target.contiguous(**layout)
