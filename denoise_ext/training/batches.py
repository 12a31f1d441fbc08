"""From a configuration's data and noise to the batch of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from denoise_ext.data import (
    ImageCache,
    PatchSampler,
    Prefetcher,
    add_gaussian_noise,
    default_cache_folder,
    fingerprint,
    list_training_files,
)
from denoise_ext.data.noise import add_noise_chain
from denoise_ext.data.random import NOISE, step_generator, step_seed
from denoise_ext.training.config import data_path, user_path
from denoise_ext.training.objectives import Batch
from denoise_ext.training.processes import Processes
from denoise_ext.training.sections import Data, TrainConfig
from denoise_ext.training.validate import centre_crop, split_held_out


class Batches:
    """The crops of every step with their noise, and the held-out images.

    ``make(step)`` is a function of the configuration, the step and the process alone; ``files``
    tells whether the images are those of an earlier start.

    Raises ValueError where the data does not fit the configuration.
    """

    def __init__(self, config: TrainConfig, processes: Processes, device: torch.device) -> None:
        self.config, self.processes, self.device = config, processes, device
        data = config.data
        images = open_images(data)
        source = data_path(data.train)
        self.files = fingerprint(images.groups, source if source.is_dir() else source.parent)
        count = len(images.groups)
        train, held_out = split_held_out(count, config.validation.images)
        self.sampler = PatchSampler(
            [images[k * count + i] for k in range(len(data.scales)) for i in train],
            data.crop,
            config.run.batch_size,
            config.run.seed,
            data.augment,
            (processes.rank, processes.count),
        )
        # (1, C, h, w) each; (1, 2 C, h, w) for pairs
        self.held_out = [centre_crop(images[i], config.validation.crop) for i in held_out]

    def prefetch(self) -> Prefetcher[Batch]:
        """Batches by step, prepared ahead by ``data.workers`` threads."""
        return Prefetcher(self._prepared, self.config.run.steps, self.config.data.workers)

    def make(self, step: int) -> Batch:
        """The batch of a step, on the device."""
        return self.finish(self._prepared(step), step)

    def finish(self, batch: Batch, step: int) -> Batch:
        """Onto the device; noise is drawn there where it is a GPU."""
        if self.device.type == "cpu":
            return batch
        moved = [t.to(self.device, non_blocking=True) for t in (batch.noisy, batch.target)]
        batch = Batch(*moved, batch.sigma.to(self.device), batch.first)
        return batch if self.config.files_are_noisy else self._add_noise(batch.target, step)

    def _prepared(self, step: int) -> Batch:
        """What can be done in another thread: crops, and on the CPU their noise."""
        crops = self.sampler.batch(step)
        first = self.processes.rank * len(crops)
        if self.config.files_are_noisy:
            sigma = torch.full((len(crops),), self.config.data.sigma)
            noisy, target = split_pair(crops, bool(self.config.data.pairs))
            if self.config.data.match_means:  # or the network learns to change the brightness
                target = target + (noisy - target).mean((2, 3), keepdim=True)
            if self.config.loss.target in ("blind_spot", "sure"):
                target = noisy  # the clean half of a pair is for validation alone
            batch = Batch(noisy, target, sigma, first)
        elif self.device.type == "cpu":
            return self._add_noise(crops, step)
        else:
            batch = Batch(crops, crops, torch.zeros(len(crops)), first)
        if self.device.type != "cpu":
            target = batch.target.pin_memory()
            noisy = target if batch.noisy is batch.target else batch.noisy.pin_memory()
            batch = Batch(noisy, target, batch.sigma, first)
        return batch

    def _add_noise(self, clean: Tensor, step: int) -> Batch:
        """Noise on this process's crops: a function of (seed, step), and of its place among all."""
        noise, seed = self.config.noise, self.config.run.seed
        first = self.processes.rank * len(clean)
        if noise.chain:
            noisy, sigma = add_noise_chain(clean, noise.chain, seed, step, first)
            return Batch(noisy, clean, sigma, first)
        # Drawn for the crops of all processes: what a crop gets does not depend on their number.
        whole = self.processes.count * len(clean)
        mine = slice(first, first + len(clean))
        draws = step_generator(seed, step, NOISE).random(whole)
        sigma = noise.sigma_min + (noise.sigma_max - noise.sigma_min) * torch.from_numpy(draws)
        sigma = sigma.to(clean.device, torch.float32)
        generator = torch.Generator(clean.device).manual_seed(step_seed(seed, step, NOISE))
        if whole == len(clean):
            return Batch(add_gaussian_noise(clean, sigma, generator), clean, sigma, first)
        nothing = torch.zeros((whole, *clean.shape[1:]), device=clean.device)
        added = add_gaussian_noise(nothing, sigma, generator)[mine]
        return Batch(clean + added, clean, sigma[mine], first)


def open_images(data: Data) -> ImageCache:
    """The images a ``[data]`` section names, decoded; ValueError where it names none."""
    files = list_training_files(data_path(data.train), data.pairs, data.part)
    folder = {"off": None, "auto": default_cache_folder()}.get(data.cache, user_path(data.cache))
    return ImageCache(
        files, data.channels, scales=data.scales, normalise=data.normalise, folder=folder
    )


def split_pair(images: Tensor, paired: bool) -> tuple[Tensor, Tensor]:
    """(N, 2 C, H, W) -> noisy and target; single images are both."""
    if not paired:
        return images, images
    noisy, target = images.chunk(2, dim=1)
    layout = {"memory_format": torch.channels_last}
    return noisy.contiguous(**layout), target.contiguous(**layout)
