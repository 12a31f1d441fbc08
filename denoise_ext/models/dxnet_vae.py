"""DXNet with a Gaussian code at its coarsest level: each code gives another image that could be.

A conditional variational autoencoder (Sohn, Lee, Yan: "Learning Structured Output Representation
using Deep Conditional Generative Models", NeurIPS 2015). A prior gives mean and deviation of the
code from the noisy image. In training a posterior, which sees the clean image, too, gives the code.
The code of inference is the prior's mean, or drawn from the prior (`DXNetVAE.sample`).

Means and deviations have no biases either: f(a x, a sigma, code) = a f(x, sigma, code) for a > 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models.dxnet import DXNet
from denoise_ext.models.image_denoiser import (
    Sigma,
    check_positive_int,
    unshuffle_with_noise_map,
)
from denoise_ext.models.network import Tensors
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.models.residual_u_net import ResidualBlock
from denoise_ext.nn import Conv2d

_LEAST = 1.0  # deviation of a code, in units of the noise's
_SMALL = 0.05  # first weights of what is added to it, so that posterior and prior begin alike
_TINY = 1e-6  # for images without noise, whose deviations may be 0


@register_architecture("dxnet_vae")
class DXNetVAE(DXNet):
    """DXNet whose coarsest level gets a code; needs sigma.

    As an `ImageDenoiser` it takes the mean of the prior as its code.

    Args:
        channels, widths, blocks: as of `DXNet`.
        code_channels: numbers of the code at each place of the coarsest level.
        posterior_width: channels of the posterior, which training alone uses.
    """

    family = "dxnet_vae"

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 80),
        blocks: Sequence[int] = (2, 3),
        code_channels: int = 16,
        posterior_width: int = 48,
    ) -> None:
        super().__init__(channels, widths, blocks)
        self.code_channels: int = check_positive_int("code_channels", code_channels)
        self.posterior_width: int = check_positive_int("posterior_width", posterior_width)
        width, coarse = self.posterior_width, self.widths[-1]
        self.prior: nn.Sequential = nn.Sequential(
            ResidualBlock(coarse), Conv2d(coarse, 2 * code_channels, 3, padding=1, bias=False)
        )
        halvings = [
            Conv2d(width, width, 2, stride=2, bias=False, activation="relu") for _ in widths[1:]
        ]
        self.posterior: nn.Sequential = nn.Sequential(
            Conv2d(8 * channels + 1, width, 3, padding=1, bias=False, activation="relu"),
            ResidualBlock(width),
            *halvings,
            ResidualBlock(width),
            Conv2d(width, 2 * code_channels, 3, padding=1, bias=False),
        )
        self.given: nn.Sequential = nn.Sequential(
            Conv2d(code_channels, coarse, 3, padding=1, bias=False), ResidualBlock(coarse)
        )

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            **super().config,
            "code_channels": self.code_channels,
            "posterior_width": self.posterior_width,
        }

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """The image; ``inputs`` may hold more than the signature names.

        Args:
            inputs: ``code`` of the `code_shape`: how many deviations the
                code is from its mean; without it the mean. ``clean`` (N, C, H, W): mean and
                deviation are those of the posterior, and the outputs have ``divergence`` (N,), in
                nats for each value of the image: that of the posterior from the prior.
            state: none.
        """
        x, noise_map = inputs["image"], inputs["noise_map"]
        level = noise_map if noise_map.shape[-1] == 1 else F.avg_pool2d(noise_map, self.stride)
        outputs: Tensors = {}

        def bottom(features: Tensor) -> Tensor:
            features = self.bottom(features)
            mean, deviation = self._gaussian(self.prior(features), level)
            if "clean" in inputs:
                clean = F.pixel_unshuffle(inputs["clean"], 2)
                seen = torch.cat([unshuffle_with_noise_map(x, noise_map), clean], dim=1)
                prior = mean, deviation
                mean, deviation = self._gaussian(self.posterior(seen), level)
                total = _divergence(mean, deviation, *prior).flatten(1).sum(dim=1)
                outputs["divergence"] = total / x[0].numel()
            code = mean + deviation * inputs["code"] if "code" in inputs else mean
            return features + self.given(code)

        noise = self.run_levels(unshuffle_with_noise_map(x, noise_map), bottom)
        outputs["image"] = x - F.pixel_shuffle(noise, 2)
        return outputs, state

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        assert noise_map is not None  # needs_sigma: the base class has checked it
        return self.compute({"image": x, "noise_map": noise_map}, {})[0]["image"]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As of `DXNet`; the code begins small."""
        super().initialise(generator)
        for last in (self.prior[-1], self.posterior[-1], self.given[0]):
            last.get_parameter("weight").mul_(_SMALL)

    def code_shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the code for images (N, C, H, W): (N, code_channels, h, w)."""
        rows, columns = (self.padded(side) // self.stride for side in x.shape[-2:])
        return len(x), self.code_channels, rows, columns

    @torch.no_grad()
    def sample(self, x: Tensor, sigma: Sigma, generator: torch.Generator | None = None) -> Tensor:
        """Draw images that could be the clean one, one for each of ``x``.

        Args:
            x, sigma: as in a call.
            generator: of the code, on the CPU. None: PyTorch's own.

        Returns:
            (N, C, H, W), not clipped.

        Raises:
            TypeError, ValueError: as a call.
        """
        inputs = self.inputs_for(x, sigma)
        height, width = x.shape[-2:]
        rows, columns = self.padded(height), self.padded(width)
        padded = {
            name: self._extended(inputs[name], port, rows, columns)
            for name, port in self.signature.inputs.items()
        }
        padded["code"] = torch.randn(self.code_shape(x), generator=generator).to(x)
        return self.compute(padded, {})[0]["image"][..., :height, :width]

    def _gaussian(self, numbers: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each number of a code, in units of the image."""
        mean, deviation = numbers.chunk(2, dim=1)
        return mean, deviation.abs() + _LEAST * level


def _divergence(mean: Tensor, deviation: Tensor, mean_0: Tensor, deviation_0: Tensor) -> Tensor:
    """Of Kullback and Leibler, of a Gaussian from one with index 0, in nats."""
    ratio = (deviation + _TINY) / (deviation_0 + _TINY)
    distance = (mean - mean_0) / (deviation_0 + _TINY)
    return 0.5 * (ratio.square() + distance.square() - 1.0) - ratio.log()


@register_model
def dxnet_vae(**kwargs: Any) -> DXNetVAE:
    """Gray DXNet of the small size with a code of 16 numbers for 4 x 4 pixels."""
    return DXNetVAE(**{"channels": 1, "widths": (64, 80), "blocks": (2, 3), **kwargs})
