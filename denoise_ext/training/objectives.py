"""What one step minimises, with clean targets and without.

See `task.Objective`. Inputs and outputs are those of a network of images: "image", and where the
network has it "noise_map". Random choices are functions of (seed, step, index of the image).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data.random import CODES, MASKS, PROBES, ROLES, SCALES, image_generator
from denoise_ext.metrics.protocol import Sample, inputs_of, targets_of
from denoise_ext.ops import bilateral_blur
from denoise_ext.training.heads import head_loss, log_error
from denoise_ext.training.losses import Criterion, criterion
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import Head
from denoise_ext.training.task import INDEX, Objective, Trained

Loss = tuple[Tensor, dict[str, Tensor]]
_DECIBELS = 20.0 / math.log(10.0)  # of PSNR for a nat per value


def build_objective(config: TrainConfig) -> Objective:
    """The objective of ``loss.target``.

    Example:
        >>> config = denoise_ext.training.load_config("recipe.toml")
        >>> type(denoise_ext.training.build_objective(config)).__name__
        'Supervised'
    """
    seed = config.run.seed
    distance = criterion(config.loss.name, config.loss.ssim_weight)
    if config.heads:
        return SeveralTasks(distance, config.heads)
    if config.loss.noise_level or config.loss.noise_scale:
        return Blind(distance, config.loss.noise_level, config.loss.noise_scale, seed)
    objectives: dict[str, Objective] = {
        "clean": Supervised(distance),
        "noise2noise": Noise2Noise(distance, seed),
        "blind_spot": BlindSpot(distance, seed),
        "sure": Sure(seed),
    }
    return objectives[config.loss.target]


class Supervised:
    """The distance of the outputs to their targets, summed over the outputs.

    Args:
        distance: of one output to its target; frames are images of a batch.
        outputs: which outputs have targets. Of several, each distance is logged, too.

    Example:
        >>> from denoise_ext.metrics.protocol import as_sample
        >>> objective = denoise_ext.training.Supervised(torch.nn.functional.mse_loss)
        >>> x = torch.rand(2, 1, 8, 8)
        >>> sample = as_sample({"image": x}, {"image": x + 1})
        >>> loss, parts = objective(lambda inputs: inputs, sample, step=0)
        >>> float(loss)
        1.0
    """

    distance: Criterion
    outputs: tuple[str, ...]

    def __init__(self, distance: Criterion, outputs: tuple[str, ...] = ("image",)) -> None:
        self.distance, self.outputs = distance, outputs
        self.parts: tuple[str, ...] = (
            tuple(f"loss_{name}" for name in outputs) if len(outputs) > 1 else ()
        )

    def __call__(self, network: Trained, sample: Sample, step: int) -> Loss:
        """The loss of a step."""
        made, targets = network(inputs_of(sample)), targets_of(sample)
        losses = [
            self.distance(_as_images(made[name]), _as_images(targets[name]))
            for name in self.outputs
        ]
        return reduce(operator.add, losses), dict(zip(self.parts, losses))


class SeveralTasks:
    """One trunk, several heads: the image's distance plus the weighed losses of other outputs.

    Each loss is logged, not weighed.  A network without the output ``image`` learns the others.

    Args:
        distance: of the image to its target.
        heads: the other outputs; see `heads.head_loss`.

    Example:
        >>> from denoise_ext.metrics.protocol import as_sample
        >>> from denoise_ext.training.losses import mse
        >>> heads = [denoise_ext.training.Head(output="noise_level", loss="log", weight=0.5)]
        >>> objective = denoise_ext.training.SeveralTasks(mse, heads)
        >>> network = denoise_ext.models.create_model("dxnet_s_photo")  # not trained
        >>> x = torch.rand(2, 3, 16, 16)
        >>> sample = as_sample({"image": x}, {"image": x}, sigma=torch.tensor([5.0, 25.0]))
        >>> loss, parts = objective(lambda inputs: network(inputs)[0], sample, step=0)
        >>> sorted(parts)
        ['loss_image', 'loss_noise_level']
    """

    distance: Criterion
    heads: Sequence[Head]

    def __init__(self, distance: Criterion, heads: Sequence[Head]) -> None:
        self.distance, self.heads = distance, heads
        self.parts: tuple[str, ...] = ("loss_image", *(f"loss_{head.output}" for head in heads))

    def __call__(self, network: Trained, sample: Sample, step: int) -> Loss:
        """The loss of a step."""
        made = network(inputs_of(sample))
        zero = sample["sigma"].new_zeros(())
        image = made.get("image")
        loss = zero if image is None else self.distance(image, targets_of(sample)["image"])
        parts = {"loss_image": loss}
        for head in self.heads:
            part = head_loss(head, made[head.output], sample)
            parts[f"loss_{head.output}"] = part
            loss = loss + head.weight * part
        return loss, parts


def _as_images(x: Tensor) -> Tensor:
    """Frames (N, T, C, H, W) as images (N * T, C, H, W); images as they are."""
    return x.flatten(0, 1) if x.dim() == 5 else x


class Blind:
    """For networks that estimate the noise level: their image and their estimate.

    The loss is ``distance + weight * mean((log estimate - log level)^2)``, the estimate averaged
    over an image, the level the root mean square of what was added. CBDNet (Guo, Yan, Zhang, Zuo,
    Zhang, CVPR 2019) has a second task of this kind.

    For a ``scaled`` part of the images the dial ``noise_scale`` is k, uniform in [0, 2]. Below 1
    the target keeps (1 - k) of the noise. Above 1 it is the clean image after a bilateral filter
    whose range is (k - 1) times the noise level: what is weaker is taken for noise, too.
    """

    distance: Criterion
    weight: float
    scaled: float
    seed: int

    KERNEL, SPACE = 5, 1.5  # pixels, of the bilateral filter
    LEAST = 1e-3  # range in units of white below which the filter does nothing

    def __init__(self, distance: Criterion, weight: float, scaled: float, seed: int) -> None:
        self.distance, self.weight, self.scaled, self.seed = distance, weight, scaled, seed
        self.parts: tuple[str, ...] = ("loss_image", "loss_noise_level")

    def __call__(self, network: Trained, sample: Sample, step: int) -> Loss:
        """The loss of a step."""
        inputs, target = inputs_of(sample), targets_of(sample)["image"]
        if self.scaled:
            scale = self._scales(sample, step)
            inputs["noise_scale"] = scale.reshape(-1, 1, 1, 1)
            target = self._target(sample, scale)
        outputs = network(inputs)
        loss = self.distance(outputs["image"], target)
        error = log_error(outputs["noise_level"], sample["sigma"] / 255.0)
        parts: dict[str, Tensor] = dict(zip(self.parts, (loss, error)))
        return loss + self.weight * error, parts

    def _target(self, sample: Sample, scale: Tensor) -> Tensor:
        """Return the target for each value (N,) of the dial."""
        noisy, clean = inputs_of(sample)["image"], targets_of(sample)["image"]
        kept = (1.0 - scale).clamp(min=0.0).reshape(-1, 1, 1, 1)
        target = clean + kept * (noisy - clean)
        reach = (scale - 1.0) * sample["sigma"] / 255.0
        for i in (reach > self.LEAST).nonzero()[:, 0].tolist():
            space = (self.SPACE, self.SPACE)
            target[i : i + 1] = bilateral_blur(
                clean[i : i + 1], self.KERNEL, reach[i].item(), space
            )
        return target

    def _scales(self, sample: Sample, step: int) -> Tensor:
        """(N,), noise_scale of every image."""
        draws = np.array([
            image_generator(self.seed, step, SCALES, index).random(2)
            for index in sample[INDEX].tolist()
        ])  # fmt: skip
        scales = np.where(draws[:, 0] < self.scaled, 2.0 * draws[:, 1], 1.0)
        return torch.from_numpy(scales).to(inputs_of(sample)["image"])


class Variational:
    """For networks with a code: the distance at a code of the posterior, and its divergence.

    The loss is ``distance + 20 / ln(10) * weight * max(divergence, free)``, the divergence of the
    posterior from the prior in nats for each value of an image, averaged over the images. With the
    distance `psnr` and weight 1 this is the negative evidence lower bound, in decibels: the
    variance of the decoder is then the best one for each image (Rybkin, Daniilidis, Levine: "Simple
    and Effective VAE Training with Calibrated Decoders", ICML 2021). Free bits: Kingma, Salimans,
    Jozefowicz, Chen, Sutskever, Welling, NeurIPS 2016.

    Args:
        code_shape: of the codes for images (N, C, H, W).
        warmup: steps in which the weight rises from 0.
    """

    distance: Criterion
    weight: float
    warmup: int
    free: float
    seed: int

    def __init__(
        self,
        code_shape: Callable[[Tensor], tuple[int, ...]],
        distance: Criterion,
        weight: float,
        warmup: int,
        free: float,
        seed: int,
    ) -> None:
        self.code_shape = code_shape
        self.distance, self.weight, self.warmup, self.free = distance, weight, warmup, free
        self.seed = seed
        self.parts: tuple[str, ...] = ("loss_image", "divergence")

    def __call__(self, network: Trained, sample: Sample, step: int) -> Loss:
        """The loss of a step."""
        inputs, clean = inputs_of(sample), targets_of(sample)["image"]
        shape = self.code_shape(clean)[1:]
        codes = [
            image_generator(self.seed, step, CODES, index).standard_normal(shape, np.float32)
            for index in sample[INDEX].tolist()
        ]
        code = torch.from_numpy(np.stack(codes)).to(clean)
        outputs = network({**inputs, "clean": clean, "code": code})
        loss, divergence = self.distance(outputs["image"], clean), outputs["divergence"]
        weight = self.weight * min(1.0, (step + 1) / self.warmup if self.warmup else 1.0)
        cost = _DECIBELS * weight * divergence.clamp_min(self.free).mean()
        return loss + cost, dict(zip(self.parts, (loss, divergence.mean())))


class Noise2Noise:
    """The target is a second noisy take of the same scene; which is which is drawn for every crop.

    Lehtinen, Munkberg, Hasselgren, Laine, Karras, Aittala, Aila: "Noise2Noise: Learning Image
    Restoration without Clean Data", ICML 2018. For `mse` the noise must be independent with mean
    zero: the minimum is then that of clean targets.
    """

    distance: Criterion
    seed: int

    def __init__(self, distance: Criterion, seed: int) -> None:
        self.distance, self.seed = distance, seed
        self.parts: tuple[str, ...] = ()

    def __call__(self, network: Trained, sample: Sample, step: int) -> Loss:
        """The loss of a step."""
        inputs, second = inputs_of(sample), targets_of(sample)["image"]
        first = inputs["image"]
        draws = [
            image_generator(self.seed, step, ROLES, index).random() < 0.5
            for index in sample[INDEX].tolist()
        ]
        swap = torch.tensor(draws, device=first.device).reshape(-1, 1, 1, 1)
        inputs["image"] = torch.where(swap, second, first)
        target = torch.where(swap, first, second)
        return self.distance(network(inputs)["image"], target), {}


class BlindSpot:
    """Replace some pixels by a neighbour; compare the network's output with the original pixels.

    Krull, Buchholz, Jug: "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019. One
    pixel of every 8 x 8 cell; its stand-in is drawn from the 5 x 5 pixels around it, itself left
    out. The noise must be independent from pixel to pixel.
    """

    distance: Criterion
    seed: int

    CELL, REACH = 8, 2

    def __init__(self, distance: Criterion, seed: int) -> None:
        self.distance, self.seed = distance, seed
        self.parts: tuple[str, ...] = ()

    def __call__(self, network: Trained, sample: Sample, step: int) -> Loss:
        """The loss of a step."""
        inputs = inputs_of(sample)
        noisy = inputs["image"]
        places = [
            self._places(image_generator(self.seed, step, MASKS, index), noisy.shape)
            for index in sample[INDEX].tolist()
        ]
        # (N, M) each: row and column of the pixels, and of what stands in for them
        y, x, from_y, from_x = torch.from_numpy(np.stack(places, axis=1)).to(noisy.device)
        image = torch.arange(len(noisy), device=noisy.device)[:, None]
        masked = noisy.clone()
        masked[image, :, y, x] = noisy[image, :, from_y, from_x]
        output = network({**inputs, "image": masked})["image"]
        # (N, M, C) -> (N, C, M, 1), as the distances want images
        predicted, original = (
            t[image, :, y, x].transpose(1, 2)[..., None] for t in (output, noisy)
        )
        return self.distance(predicted, original), {}

    def _places(self, rng: np.random.Generator, shape: torch.Size) -> np.ndarray:
        """(4, M): rows, columns, and the rows and columns of their stand-ins."""
        height, width = shape[2:]
        rows, columns = height // self.CELL, width // self.CELL
        grid = np.asarray(np.mgrid[0:rows, 0:columns]).reshape(2, -1) * self.CELL
        place = grid + rng.integers(0, self.CELL, grid.shape)
        side = 2 * self.REACH + 1
        other = rng.integers(0, side * side - 1, grid.shape[1])
        other += other >= side * side // 2  # the middle is the pixel itself
        offset = np.stack([other // side, other % side]) - self.REACH
        limit = np.array([[height], [width]])
        outside = (place + offset < 0) | (place + offset >= limit)
        # to the other side where it would leave the image: never the pixel itself
        return np.concatenate([place, place + np.where(outside, -offset, offset)])


class Sure:
    """Stein's unbiased estimate of the mean squared error, for Gaussian noise of known covariance.

    ``mean((f(y) - y)^2) - s^2 + 2 s^2 u . (f(y + eps u) - f(y)) / (eps n)`` (Stein 1981), s^2 the
    noise's variance and u one probe: Gaussian, with the noise's covariance but mean square 1. Its
    second part estimates the trace of covariance times Jacobian (Ramani, Blu, Unser: "Monte-Carlo
    SURE", IEEE TIP 2008; for training networks: Soltanayev, Chun, NeurIPS 2018).

    A sample may hold the probes, ``probe`` (N, C, H, W). Without them noise is white.

    Args:
        seed: of the white probes.
        relative: divide the error of each image by its noise's variance, so that images with strong
            noise do not dominate.
    """

    seed: int
    relative: bool

    EPS = 1e-3  # small against the noise, large against float32's 6e-8

    def __init__(self, seed: int, relative: bool = False) -> None:
        self.seed, self.relative = seed, relative
        self.parts: tuple[str, ...] = ()

    def __call__(self, network: Trained, sample: Sample, step: int) -> Loss:
        """The loss of a step."""
        inputs = inputs_of(sample)
        noisy = inputs["image"]
        probe = sample.get("probe")
        if probe is None:
            probe = torch.stack([
                torch.randn(noisy.shape[1:], generator=self._generator(step, index))
                for index in sample[INDEX].tolist()
            ]).to(noisy)  # fmt: skip
        twice = {name: torch.cat([x, x]) for name, x in inputs.items()}
        twice["image"] = torch.cat([noisy, noisy + self.EPS * probe])
        output, moved = network(twice)["image"].chunk(2)
        variance = (sample["sigma"] / 255.0).square()  # (N,)
        divergence = (probe * (moved - output)).flatten(1).mean(dim=1) / self.EPS
        residual = (output - noisy).square().flatten(1).mean(dim=1)
        error = residual - variance + 2.0 * variance * divergence
        return (error / variance if self.relative else error).mean(), {}

    def _generator(self, step: int, index: int) -> torch.Generator:
        source = image_generator(self.seed, step, PROBES, index)
        return torch.Generator().manual_seed(int(source.integers(2**63)))
