"""The task of video denoisers: sequences with noise, PSNR and flicker of held-out ones."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data import fingerprint
from denoise_ext.data.clips import list_clips, read_clips
from denoise_ext.data.motion import MovingImages
from denoise_ext.data.noise import add_clip_noise_chain
from denoise_ext.data.random import (
    CROPS,
    NOISE,
    VALIDATION,
    image_generator,
    step_generator,
    step_seed,
)
from denoise_ext.data.sampler import dihedral
from denoise_ext.metrics import flicker, psnr
from denoise_ext.metrics.protocol import Sample, as_sample, inputs_of, targets_of
from denoise_ext.models import Network
from denoise_ext.training.batches import ImagePool
from denoise_ext.training.config import data_path
from denoise_ext.training.distributed import Processes
from denoise_ext.training.heads import log_error
from denoise_ext.training.losses import Criterion, criterion
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import VIDEO_DENOISING
from denoise_ext.training.task import (
    CHAIN_STEP,
    INDEX,
    Label,
    Sampler,
    Task,
    Trained,
    Validator,
    register_task,
)
from denoise_ext.training.validate import split_held_out

_WARM_UP = 3  # frames over which the weight of the loss grows
_SETTLED = 8  # validation counts from this frame on, where there are as many
_SKIPS = 0.3  # part of the real sequences that take every second frame


@register_task(VIDEO_DENOISING)
def video_denoising(
    config: TrainConfig, network: Network, processes: Processes, device: torch.device
) -> Task:
    """See `task.register_task`."""
    check_fit(network, config)
    takes_level = "noise_map" in network.signature.inputs
    sequences = Sequences(config, processes, takes_level)
    distance = criterion(config.loss.name, config.loss.ssim_weight)
    objective = ClipLoss(distance, config.loss.noise_level, config.loss.flicker)
    validator = HeldOutClips(config, sequences.held_out, takes_level)
    return Task(sequences, objective, validator if sequences.held_out else None)


def check_fit(network: Network, config: TrainConfig) -> None:
    """ValueError where the network cannot take what the configuration would give it."""
    named, signature = config.model.name or config.model.start, network.signature
    inputs = {name: port for name, port in signature.inputs.items() if name != "noise_map"}
    ports = inputs.get("image"), signature.outputs.get("image")
    if set(inputs) != {"image"} or any(port is None or port.scale != 1 for port in ports):
        raise ValueError(
            f"task.name is {config.task.name!r}, but model.name {named!r} denoises no frames"
        )
    if any(port is not None and port.channels != config.data.channels for port in ports):
        raise ValueError(
            f"data.channels is {config.data.channels}, but model.name {named!r} "
            f"has {inputs['image'].channels} channels"
        )
    if config.loss.noise_level and "noise_level" not in signature.outputs:
        raise ValueError(
            f"loss.noise_level is for networks that estimate it; model.name {named!r} does not"
        )
    if config.data.crop % network.stride:
        raise ValueError(
            f"data.crop must be a multiple of {network.stride} for this model, "
            f"got {config.data.crop}"
        )


class Sequences(Sampler):
    """The sequences of every step with their noise, and the held-out ones.

    A sample has the input ``image`` (N, T, C, H, W), with ``takes_level`` the input ``noise_map``
    (N, 1, 1, 1), the target ``image``, ``sigma`` (N,) on the 0-255 scale and `task.INDEX`. It is a
    function of the configuration, the step and the process alone; a sequence is one of the
    configuration, the step and its place among all.

    Raises ValueError where the data does not fit the configuration.
    """

    config: TrainConfig
    processes: Processes
    takes_level: bool

    def __init__(self, config: TrainConfig, processes: Processes, takes_level: bool) -> None:
        self.config, self.processes, self.takes_level = config, processes, takes_level
        data, held_out = config.data, config.validation
        pool = ImagePool(data, held_out.images)
        self.moving: MovingImages = MovingImages(
            pool.images, data.crop, data.frames, pool.probabilities
        )
        files = list_clips(map(data_path, data.clips))
        self.files: Mapping[str, int | str] = _with_clips(pool.files, files)
        clips = read_clips(files, data.channels)
        chosen: list[int] = []
        if clips:
            train, chosen = split_held_out(len(clips), held_out.clips)
            self.real: RealClips = RealClips([clips[i] for i in train], data.crop, data.frames)
        self.held_out: list[Tensor] = _moving(
            pool.held_out, held_out.crop, held_out.frames, config.run.seed
        )
        self.held_out += [_middle(clips[i], held_out.crop, held_out.frames) for i in chosen]

    def batch(self, step: int) -> Sample:
        """See `Sampler`."""
        run = self.config.run
        first = self.processes.rank * run.batch_size
        made = [self._sequence(step, first + i) for i in range(run.batch_size)]
        clean, noisy = (torch.stack(frames) for frames in list(zip(*made))[:2])
        sigma = torch.tensor([level for _, _, level in made])
        return clip_sample(noisy, clean, sigma, self.takes_level, first)

    def _sequence(self, step: int, index: int) -> tuple[Tensor, Tensor, float]:
        """Clean and noisy frames (T, C, H, W), and the level of their noise."""
        config, noise = self.config, self.config.noise
        rng = image_generator(config.run.seed, step, CROPS, index)
        if config.data.clips and rng.random() < config.data.clips_share:
            clean = self.real.sequence(rng)
        else:
            clean = self.moving.sequence(rng)
        if noise.chain:
            return clean, *add_clip_noise_chain(clean, noise.chain, config.run.seed, step, index)
        rng = image_generator(config.run.seed, step, NOISE, index)
        sigma = noise.sigma_min + (noise.sigma_max - noise.sigma_min) * rng.random()
        generator = torch.Generator().manual_seed(int(rng.integers(0, 2**63, dtype=np.uint64)))
        return clean, _noisy(clean, sigma, generator), sigma


def _with_clips(images: Mapping[str, int | str], clips: Sequence[Path]) -> dict[str, int | str]:
    """What identifies images and clips together."""
    if not clips:
        return dict(images)
    found = fingerprint([(clip,) for clip in clips], clips[0].parent)
    both = f"{images['sha256']} {found['sha256']}".encode()
    return {
        "files": int(images["files"]) + int(found["files"]),
        "sha256": hashlib.sha256(both).hexdigest(),
    }


def _noisy(clean: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return clean + torch.randn(clean.shape, generator=generator) * (sigma / 255.0)


def clip_sample(
    noisy: Tensor, clean: Tensor, sigma: Tensor, takes_level: bool, first: int = 0
) -> Sample:
    """Noisy and clean clips (N, T, C, H, W) and their noise level (N,), 0-255 scale.

    ``first`` is the index of the first of them; ``takes_level``: the network takes the level, too.
    """
    inputs = {"image": noisy}
    if takes_level:
        inputs["noise_map"] = (sigma / 255.0).float().reshape(-1, 1, 1, 1)
    index = torch.arange(first, first + len(noisy))
    return as_sample(inputs, {"image": clean}, **{"sigma": sigma.float(), INDEX: index})


class RealClips:
    """Random sequences of decoded clips.

    Args:
        clips: (T, H, W, C) uint8.
        crop: rows and columns of the sequences.
        frames: of a sequence.

    Raises ValueError where a clip is shorter or smaller than a sequence.
    """

    clips: Sequence[np.ndarray]
    crop: int
    frames: int

    def __init__(self, clips: Sequence[np.ndarray], crop: int, frames: int) -> None:
        for clip in clips:
            if len(clip) < frames or min(clip.shape[1:3]) < crop:
                raise ValueError(
                    f"data.clips: each must have data.frames ({frames}) frames of data.crop "
                    f"({crop}) pixels at half its size, got one of {len(clip)} frames of "
                    f"{clip.shape[2]} x {clip.shape[1]}"
                )
        self.clips, self.crop, self.frames = clips, crop, frames
        self.bounds: np.ndarray = np.cumsum([len(clip) for clip in clips])

    def sequence(self, rng: np.random.Generator) -> Tensor:
        """(T, C, crop, crop) float32 in [0, 1], forwards or backwards, turned and mirrored."""
        clip = self.clips[
            int(np.searchsorted(self.bounds, rng.random() * self.bounds[-1], "right"))
        ]
        step = 2 if rng.random() < _SKIPS and len(clip) >= 2 * self.frames else 1
        count, height, width = clip.shape[:3]
        first = int(rng.integers(count - step * (self.frames - 1)))
        y, x = (int(rng.integers(size - self.crop + 1)) for size in (height, width))
        taken = slice(first, first + step * (self.frames - 1) + 1, step)
        cut = clip[taken, y : y + self.crop, x : x + self.crop]
        cut = cut[::-1] if rng.random() < 0.5 else cut
        turn = int(rng.integers(8))
        return as_frames(np.stack([dihedral(frame, turn) for frame in cut]))


def as_frames(frames: np.ndarray) -> Tensor:
    """(T, H, W, C) uint8 -> (T, C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255.0


def _middle(clip: np.ndarray, crop: int, frames: int) -> Tensor:
    """The middle of a clip in time and space, at most ``frames`` of ``crop``: (T, C, h, w)."""
    count, height, width = (
        min(most, size) for most, size in zip((frames, crop, crop), clip.shape[:3])
    )
    first = [(size - kept) // 2 for size, kept in zip(clip.shape[:3], (count, height, width))]
    slices = tuple(slice(a, a + n) for a, n in zip(first, (count, height, width)))
    return as_frames(clip[slices])


def _moving(images: Sequence[np.ndarray], crop: int, frames: int, seed: int) -> list[Tensor]:
    """A sequence of each held-out image in motion: (T, C, crop, crop)."""
    return [
        MovingImages([image], min(crop, *image.shape[:2]), frames).sequence(
            step_generator(seed, 2**32 + i, VALIDATION)
        )
        for i, image in enumerate(images)
    ]


class ClipLoss:
    """The distance of every frame to its target, averaged.

    The first frames count less: nothing is known of the past there, and what a state learns to
    keep shows later.

    Args:
        distance: of a frame to its target.
        level: weight of `heads.log_error` of the output ``noise_level``; 0: there is none.
        flicker: weight of the distance between each frame's change and that of its target.
    """

    def __init__(self, distance: Criterion, level: float = 0.0, flicker: float = 0.0) -> None:
        self.distance, self.level, self.flicker = distance, level, flicker
        self.parts: tuple[str, ...] = ("loss_last", "loss_noise_level")[: 2 if level else 1]

    def __call__(
        self, network: Trained, sample: Sample, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step; ``loss_last`` is the distance of the last frame."""
        outputs, target = network(inputs_of(sample)), targets_of(sample)["image"]
        made = outputs["image"]
        weights = [min(1.0, (t + 1) / _WARM_UP) for t in range(target.shape[1])]
        losses = [self.distance(made[:, t], target[:, t]) for t in range(target.shape[1])]
        total = reduce(operator.add, (weight * part for weight, part in zip(weights, losses)))
        loss, parts = total / sum(weights), {"loss_last": losses[-1]}
        if self.level:
            estimates = outputs["noise_level"].flatten(0, 1)
            true = (sample["sigma"] / 255.0).repeat_interleave(made.shape[1])
            parts["loss_noise_level"] = log_error(estimates, true)
            loss = loss + self.level * parts["loss_noise_level"]
        if self.flicker:
            changes = zip(made.diff(dim=1).unbind(1), target.diff(dim=1).unbind(1))
            distances = [self.distance(change, wanted) for change, wanted in changes]
            loss = loss + self.flicker * sum(distances) / len(distances)
        return loss, parts


class HeldOutClips(Validator):
    """PSNR in dB and flicker of held-out sequences, output clipped.

    PSNR is the mean over frames from the ninth on (all where there are fewer): the state has
    settled there.

    Args:
        config: has the noise.
        clips: (T, C, h, w) each.
        takes_level: whether the network takes the noise level.
    """

    config: TrainConfig
    clips: Sequence[Tensor]
    takes_level: bool

    others: tuple[str, ...] = ("flicker",)

    def __init__(self, config: TrainConfig, clips: Sequence[Tensor], takes_level: bool) -> None:
        self.config, self.clips, self.takes_level = config, clips, takes_level
        self.labels: tuple[Label, ...] = (
            ("chain",) if config.noise.chain else tuple(config.validation.sigmas)
        )

    def samples(self, label: Label) -> Iterator[Sample]:
        """Every held-out sequence; the same noise every time, not clipped."""
        seed, kind = self.config.run.seed, self.labels.index(label)
        for i, clean in enumerate(self.clips):
            if isinstance(label, str):
                chain = self.config.noise.chain
                noisy, level = add_clip_noise_chain(clean, chain, seed, CHAIN_STEP + i, 0)
                sigma = torch.full((1,), level)
                yield clip_sample(noisy[None], clean[None], sigma, self.takes_level)
                continue
            generator = torch.Generator()
            generator.manual_seed(step_seed(seed, kind * 2**16 + i, VALIDATION))
            sigma = torch.full((1,), float(label))
            noisy = _noisy(clean, label, generator)
            yield clip_sample(noisy[None], clean[None], sigma, self.takes_level)

    def figures(self, outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        """See `Validator`."""
        made, clean = outputs["image"][0].clamp(0.0, 1.0), targets_of(sample)["image"][0]
        first = _SETTLED if len(clean) > _SETTLED else 0
        return {
            "psnr": psnr(made[first:], clean[first:]).mean().item(),
            "flicker": flicker(made, clean),
        }

    def picture(self, outputs: Mapping[str, Tensor], sample: Sample) -> Tensor:
        """The last frame: noisy, denoised, clean beside one another."""
        noisy, clean = inputs_of(sample)["image"], targets_of(sample)["image"]
        made = outputs["image"].clamp(0.0, 1.0)
        return torch.cat([x[:, -1] for x in (noisy, made, clean)], dim=3)
