"""The task of image denoisers: crops of images with noise, PSNR of held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from denoise_ext.data import add_gaussian_noise, step_seed
from denoise_ext.data.noise import add_noise_chain
from denoise_ext.data.random import VALIDATION
from denoise_ext.metrics import high_frequency_energy, patch_wasserstein, psnr
from denoise_ext.metrics.protocol import Sample, inputs_of, targets_of
from denoise_ext.metrics.texture import SMALLEST
from denoise_ext.models import ImageDenoiser, Network
from denoise_ext.models.dxnet_vae import DXNetVAE
from denoise_ext.training.adversarial import Adversarial
from denoise_ext.training.batches import Batches, denoising_sample
from denoise_ext.training.distributed import Processes
from denoise_ext.training.heads import check_heads
from denoise_ext.training.losses import criterion
from denoise_ext.training.objectives import Variational, build_objective
from denoise_ext.training.schema import TrainConfig
from denoise_ext.training.sections import IMAGE_DENOISING
from denoise_ext.training.task import CHAIN_STEP, Label, Objective, Task, Validator, register_task
from denoise_ext.training.teaching import Taught, build_teachers


@register_task(IMAGE_DENOISING)
def image_denoising(
    config: TrainConfig, network: Network, processes: Processes, device: torch.device
) -> Task:
    """See `task.register_task`."""
    network = check_fit(network, config)
    batches = Batches(config, processes, device, network.needs_sigma)
    validator = HeldOut(config, batches.held_out, network.needs_sigma)
    objective = _objective(config, network, processes, device)
    return Task(batches, objective, validator if batches.held_out else None)


def _objective(
    config: TrainConfig, network: ImageDenoiser, processes: Processes, device: torch.device
) -> Objective:
    """The objective of the section ``loss``."""
    loss, seed = config.loss, config.run.seed
    if loss.divergence:
        assert isinstance(network, DXNetVAE)  # check_fit
        return Variational(
            network.code_shape, criterion(loss.name, loss.ssim_weight), loss.divergence,
            loss.divergence_warmup, loss.divergence_free, seed,
        )  # fmt: skip
    objective = build_objective(config)
    if config.teacher.networks:
        return Taught(objective, build_teachers(config, device), config.teacher.weight)
    if not loss.adversarial:
        return objective
    return Adversarial(
        objective, loss.adversarial, config.data.channels, loss.discriminator_rate, seed, processes,
        device,
    )  # fmt: skip


def check_fit(model: Network, config: TrainConfig) -> ImageDenoiser:
    """The network; ValueError where it cannot take what the configuration would give it."""
    named = config.model.name or config.model.start
    if not isinstance(model, ImageDenoiser):
        raise ValueError(
            f"task.name is {config.task.name!r}, but model.name {named!r} denoises no image"
        )
    if model.in_channels != config.data.channels:
        raise ValueError(
            f"data.channels is {config.data.channels}, but model.name {named!r} "
            f"has {model.in_channels} channels"
        )
    check_heads(model, config)
    for key in ("noise_level", "noise_scale"):
        if getattr(config.loss, key) and "noise_level" not in model.signature.outputs:
            raise ValueError(f"loss.{key}: model.name {named!r} does not estimate the noise level")
    if bool(config.loss.divergence) != isinstance(model, DXNetVAE):
        raise ValueError(
            "loss.divergence is for networks with a code, which need it: "
            f"model.name is {named!r}, and loss.divergence {config.loss.divergence:g}"
        )
    if config.data.crop % model.stride:
        raise ValueError(
            f"data.crop must be a multiple of {model.stride} for this model, got {config.data.crop}"
        )
    return model


class HeldOut(Validator):
    """PSNR in dB of held-out images under each kind of noise, output clipped.

    Args:
        config: names the kinds of noise.
        images: (1, C, h, w) each; (1, 2 C, h, w) for pairs.
        takes_level: whether the network takes the noise level.
    """

    config: TrainConfig
    images: Sequence[Tensor]
    takes_level: bool

    def __init__(self, config: TrainConfig, images: Sequence[Tensor], takes_level: bool) -> None:
        self.config, self.images, self.takes_level = config, images, takes_level
        self.labels: tuple[Label, ...] = (
            ("pairs",) if config.data.pairs else tuple(config.validation.sigmas)
        )
        if config.noise.chain:
            self.labels = ("chain",)
        if config.loss.adversarial:
            self.others: tuple[str, ...] = ("patch_wasserstein", "high_frequency_energy")
            for height, width in (image.shape[-2:] for image in images):
                if min(height, width) < SMALLEST:
                    raise ValueError(
                        f"validation.crop: loss.adversarial measures {SMALLEST} x {SMALLEST} pixels"
                        f" at least, got a held-out image of {width} x {height}"
                    )

    def samples(self, label: Label) -> Iterator[Sample]:
        """Every held-out image; the same noise every time, not clipped."""
        seed, kind = self.config.run.seed, self.labels.index(label)
        for i, image in enumerate(self.images):
            clean, sigma = image, torch.full((1,), self.config.data.sigma)
            if label == "pairs":
                noisy, clean = image.chunk(2, dim=1)
            elif label == "chain":
                chain = self.config.noise.chain
                noisy, sigma = add_noise_chain(image, chain, seed, CHAIN_STEP + i)
            else:
                assert not isinstance(label, str)  # a sigma
                generator = torch.Generator()
                generator.manual_seed(step_seed(seed, kind * 2**16 + i, VALIDATION))
                noisy = add_gaussian_noise(image, label, generator)
                sigma = torch.full((1,), float(label))
            yield denoising_sample(noisy, clean, sigma, takes_level=self.takes_level)

    def figures(self, outputs: Mapping[str, Tensor], sample: Sample) -> dict[str, float]:
        """See `Validator`."""
        clean, made = targets_of(sample)["image"], outputs["image"].clamp(0.0, 1.0)
        figures = {"psnr": psnr(made, clean).mean().item()}
        if self.others:
            figures["patch_wasserstein"] = patch_wasserstein(made, clean).mean().item()
            figures["high_frequency_energy"] = high_frequency_energy(made, clean).mean().item()
        return figures

    def picture(self, outputs: Mapping[str, Tensor], sample: Sample) -> Tensor:
        """Noisy, denoised, clean beside one another."""
        noisy, clean = inputs_of(sample)["image"], targets_of(sample)["image"]
        return torch.cat([noisy, outputs["image"].clamp(0.0, 1.0), clean], dim=3)
