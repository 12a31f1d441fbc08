"""Adversarial training: a second network learns to tell outputs from clean images.

The denoiser with the least squared error gives the mean of all images that fit, which is smooth
where they differ. The gradient of a discriminator leads it to one of these images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from denoise_ext._modules import channels_last
from denoise_ext.data.random import WEIGHTS, step_seed
from denoise_ext.metrics.protocol import Sample, targets_of
from denoise_ext.metrics.texture import binomial_mean
from denoise_ext.training.distributed import Processes
from denoise_ext.training.task import Objective, Trained

_WIDTHS = 64, 96  # at a half and a quarter of the resolution
_SLOPE = 0.2
_BETAS = 0.5, 0.99  # of Adam: short memory, as the images that it judges change
_GAIN = 16.0  # of fine detail, whose errors are some levels of 255: for layers of norm 1


class Discriminator(nn.Module):
    """Scores for patches of an image, higher for clean ones.

    It sees fine detail alone: the image less its binomial mean over 5 x 5 pixels. So colours and
    brightness are left to the distance. The detail is rearranged to half the resolution, and the
    noise level of the denoiser's input appended. The noisy image is not: with it the best output
    would be a sample of the posterior, which has twice the squared error. Outputs that only have
    the distribution of real images have less (Freirich, Michaeli, Meir: "A Theory of the
    Distortion-Perception Tradeoff in Wasserstein Space", NeurIPS 2021).

    Four convolutions with leaky ReLUs between, spectrally normalised (Miyato, Kataoka, Koyama,
    Yoshida, ICLR 2018). Each score depends on 32 x 32 pixels.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        fine, coarse = _WIDTHS
        layers = [
            nn.Conv2d(4 * channels + 1, fine, 3, padding=1),
            nn.Conv2d(fine, coarse, 4, stride=2, padding=1),
            nn.Conv2d(coarse, coarse, 3, padding=1),
            nn.Conv2d(coarse, 1, 3, padding=1),
        ]
        self.layers: nn.ModuleList = nn.ModuleList(spectral_norm(layer) for layer in layers)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(N, C, H, W) in units of white, H and W multiples of 4, and (N,) to (N, 1, H/4, W/4)."""
        x = F.pixel_unshuffle(_GAIN * (x - binomial_mean(x)), 2)
        x = torch.cat([x, level.reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], dim=1)
        *hidden, last = self.layers
        for layer in hidden:
            x = F.leaky_relu(layer(x), _SLOPE)
        return last(x)


class Adversarial:
    """A distance to the target, plus ``weight`` times an adversarial loss.

    The discriminator D compares an output f with the clean image x of the same place: it minimises
    ``softplus(D(f) - D(x))``, and the denoiser ``softplus(D(x) - D(f))`` (Jolicoeur-Martineau: "The
    Relativistic Discriminator: a Key Element Missing from Standard GAN", ICLR 2019). It learns at
    every step, from the same crops, before the denoiser does.

    Args:
        objective: with clean targets for the output ``image``; its loss is the distance.
        weight: of the second part.
        channels: of the images.
        rate: learning rate of the discriminator.
        seed: of its first weights.
        processes, device: that it is trained by.
    """

    objective: Objective
    weight: float
    parts: tuple[str, ...]

    def __init__(
        self,
        objective: Objective,
        weight: float,
        channels: int,
        rate: float,
        seed: int,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.objective, self.weight, self._processes = objective, weight, processes
        self.parts = (*objective.parts, "loss_distance", "loss_adversarial", "loss_discriminator")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed, 1, WEIGHTS))
            judge = Discriminator(channels)
        self._judge: nn.Module = channels_last(judge, device)
        self._optimiser = torch.optim.Adam(self._judge.parameters(), lr=rate, betas=_BETAS)

    def __call__(
        self, network: Trained, sample: Sample, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step."""
        made: list[Tensor] = []

        def kept(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            outputs = network(inputs)
            made.append(outputs["image"])
            return outputs

        distance, parts = self.objective(kept, sample, step)
        clean = targets_of(sample)["image"]
        level = (sample["sigma"] / 255.0).to(clean)
        found_out = self._learn(made[0].detach(), clean, level)
        self._judge.requires_grad_(False)
        deceived = self._compare(clean, made[0], level)
        more = dict(zip(self.parts[-3:], (distance, deceived, found_out), strict=True))
        return distance + self.weight * deceived, {**parts, **more}

    def _learn(self, output: Tensor, clean: Tensor, level: Tensor) -> Tensor:
        """A step of the discriminator; its loss."""
        self._judge.requires_grad_(True)
        loss = self._compare(output, clean, level)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self._judge.parameters():
            assert parameter.grad is not None
            parameter.grad = self._processes.mean(parameter.grad)
        self._optimiser.step()
        return loss.detach()

    def _compare(self, lower: Tensor, higher: Tensor, level: Tensor) -> Tensor:
        """The loss of scores of ``higher`` that are not far above those of ``lower``."""
        scores = self._judge(torch.cat([lower, higher]), torch.cat([level, level]))
        low, high = scores.chunk(2)
        return F.softplus(low - high).mean()

    def state_dict(self) -> dict[str, Any]:
        """The discriminator and its optimiser: plain data and tensors."""
        return {"judge": self._judge.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; RuntimeError or ValueError where it does not fit."""
        self._judge.load_state_dict(state["judge"])
        self._optimiser.load_state_dict(state["optimiser"])
