"""DXCodec: this package's own network that compresses images and removes their noise.

* The analysis makes latents of a noisy image, at a sixteenth of its rows and columns. The synthesis
  makes the clean image of the rounded latents.
* The layers are those of DXNet: a pixel-unshuffled image, residual blocks without biases, strided
  and transposed 2x2 convolutions. Convolutions between levels have a bias, as latents and levels
  have no common scale.
* One set of weights serves all rates. Each channel of the latents has a gain, which is interpolated
  between levels (Cui, Wang, Gao, Guo, Feng, Bai: "Asymmetric Gained Deep Image Compression With
  Continuous Rate Adaptation", CVPR 2021).
* The distribution of the latents is that of `latent_prior`.
* Training: Balle, Laparra, Simoncelli, "End-to-end Optimized Image Compression", ICLR 2017. The
  rate is that of latents with uniform noise, the image that of rounded ones (Minnen, Singh, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext._choices import check_bool
from denoise_ext.models.block_transform import Basis
from denoise_ext.models.coded_prior import CodedPrior
from denoise_ext.models.image_denoiser import (
    MAX_LAYERS,
    MAX_LEVELS,
    check_positive_int,
    check_positive_ints,
    unshuffle_with_noise_map,
)
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.latent_prior import GROUP, LatentPrior, bits_of, rounded
from denoise_ext.models.network import Network, Port, Signature, Tensors
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.models.residual_u_net import ResidualBlock
from denoise_ext.nn import Conv2d, ConvTranspose2d

_GREY = 0.5  # latents of 0 are an image of it
_FIRST_GAIN = 8.0  # of the middle level: latents of some units
_BESIDE = 0.1  # of the random weights, beside those of the transform
_RATIO = 6.8  # first gain of the highest level over that of the lowest


class Analysis(Network):
    """Latents (N, M, H / stride, W / stride) of an image, before the gain."""

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: Sequence[int], latents: int
    ) -> None:
        super().__init__()
        self.stride: int = 2 ** (len(widths) + 1)
        self.signature: Signature = Signature(
            {"image": Port(channels), "noise_map": Port(1, kind="condition")},
            {"latents": Port(latents, Fraction(1, self.stride))},
        )
        self.head: Conv2d = Conv2d(4 * channels + 1, widths[0], 3, padding=1)
        self.stages: nn.ModuleList = nn.ModuleList(map(_stage, widths, blocks))
        self.down: nn.ModuleList = nn.ModuleList(
            Conv2d(a, b, 2, stride=2) for a, b in zip(widths, [*widths[1:], latents])
        )

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        x = unshuffle_with_noise_map(inputs["image"] - _GREY, inputs["noise_map"])
        x = self.head(x)
        for stage, down in zip(self.stages, self.down):
            x = down(stage(x))
        return {"latents": x}, state


class Synthesis(Network):
    """The image of latents (N, M, h, w), after the inverse gain: (N, C, scale h, scale w)."""

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: Sequence[int], latents: int
    ) -> None:
        super().__init__()
        scale = Fraction(2 ** (len(widths) + 1))
        self.signature: Signature = Signature(
            {"latents": Port(latents)}, {"image": Port(channels, scale)}
        )
        down = [latents, *reversed(widths)]
        self.up: nn.ModuleList = nn.ModuleList(
            ConvTranspose2d(a, b, 2, stride=2) for a, b in pairwise(down)
        )
        self.stages: nn.ModuleList = nn.ModuleList(map(_stage, reversed(widths), reversed(blocks)))
        self.tail: Conv2d = Conv2d(widths[0], 4 * channels, 3, padding=1)

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        x = inputs["latents"]
        for up, stage in zip(self.up, self.stages):
            x = stage(up(x))
        return {"image": F.pixel_shuffle(self.tail(x), 2) + _GREY}, state


@register_architecture("dxcodec")
class DXCodec(Network):
    """Compress and denoise an image: inputs ``image``, ``noise_map`` and ``level``.

    ``image`` is (N, C, H, W), noisy, ``noise_map`` its sigma / 255 and ``level`` (N, 1, 1, 1) the
    rate in [0, 1]. Outputs are the decoded ``image``, not clipped, and ``bits``, those of each
    pixel of the latents (N, 1, H / 16, W / 16), by their distribution. In training the bits are
    those of latents with uniform noise of width 1, from torch's generator.

    Args:
        channels: image channels.
        widths: channels of the levels, the finest first, at 1/2, 1/4 ... of the resolution.
        blocks: residual blocks of each, in the analysis and again in the synthesis.
        latents: channels of the latents, a multiple of 16.
        rates: levels that have gains of their own.
        sealed: with the whole numbers of `coded_prior` in place of the prior. Such a network makes
            files and is not trained.
    """

    geometry = "the bits of a latent depend on all before it in its row"

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (48, 64, 96),
        blocks: Sequence[int] = (1, 2, 2),
        latents: int = 128,
        rates: int = 8,
        sealed: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels: int = check_positive_int("channels", channels)
        self.widths: list[int] = check_positive_ints("widths", widths)
        self.blocks: list[int] = check_positive_ints("blocks", blocks, MAX_LAYERS)
        if len(self.widths) != len(self.blocks) or len(self.widths) > MAX_LEVELS:
            raise ValueError(
                f"widths and blocks need one entry per level, at most {MAX_LEVELS}, got"
                f" {widths!r} and {blocks!r}"
            )
        self.latents: int = check_positive_int("latents", latents)
        if latents % GROUP:
            raise ValueError(f"latents must be a multiple of {GROUP}, got {latents}")
        self.rates: int = check_positive_int("rates", rates, 2, MAX_LAYERS)
        sizes = (channels, self.widths, self.blocks, latents)
        self.analysis: Analysis = Analysis(*sizes)
        self.synthesis: Synthesis = Synthesis(*sizes)
        self.sealed: bool = check_bool("sealed", sealed)
        self.prior: LatentPrior | CodedPrior = (
            CodedPrior(latents, rates) if sealed else LatentPrior(latents, rates)
        )
        # Logarithms, as vectors: training takes them for biases.
        self.gain: nn.Parameter = nn.Parameter(torch.empty(rates * latents))
        self.inverse: nn.Parameter = nn.Parameter(torch.empty(rates * latents))
        self.stride: int = self.analysis.stride
        self.signature: Signature = Signature(
            {
                "image": Port(channels),
                "noise_map": Port(1, kind="condition"),
                "level": Port(1, kind="condition"),
            },
            {"image": Port(channels), "bits": Port(1, Fraction(1, self.stride))},
        )

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "widths": self.widths,
            "blocks": self.blocks,
            "latents": self.latents,
            "rates": self.rates,
            "sealed": self.sealed,
        }

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`. RuntimeError where the network is `sealed`."""
        if isinstance(self.prior, CodedPrior):
            raise RuntimeError("a sealed codec makes files: use denoise_ext.codec")
        image = {name: inputs[name] for name in ("image", "noise_map")}
        found = self.analysis.compute(image, {})[0]["latents"]
        weights = self.level_weights(inputs["level"][:, 0, 0, 0])
        found = found * self.gains(weights)
        latents = rounded(found)
        mean, scale = self.prior(latents, weights)
        coded = found + torch.rand_like(found) - 0.5 if self.training else latents
        bits = bits_of(coded, mean, scale).sum(1, keepdim=True)
        made = self.synthesis.compute({"latents": latents * self.inverse_gains(weights)}, {})[0]
        return {"image": made["image"], "bits": bits}, state

    def level_weights(self, level: Tensor) -> Tensor:
        """(N, rates): how much each rate counts at levels (N,), in [0, 1]; their sum is 1."""
        place = level.clamp(0.0, 1.0)[:, None] * (self.rates - 1)
        index = torch.arange(self.rates, dtype=level.dtype, device=level.device)
        return (1.0 - (place - index).abs()).clamp(min=0.0)

    def gains(self, weights: Tensor) -> Tensor:
        """(N, M, 1, 1): factors of the latents at the `level_weights`, before they are rounded."""
        return self._interpolated(self.gain, weights)

    def inverse_gains(self, weights: Tensor) -> Tensor:
        """(N, M, 1, 1): factors of the rounded latents."""
        return self._interpolated(self.inverse, weights)

    def _interpolated(self, logarithms: Tensor, weights: Tensor) -> Tensor:
        return (weights @ logarithms.reshape(self.rates, -1)).exp()[..., None, None]

    def initialise(self, generator: torch.Generator) -> None:
        """Weights to train from: a `block_transform`, small random numbers beside it."""
        ends = [part.conv2 for part in self.modules() if isinstance(part, ResidualBlock)]
        initialise_layers(self, generator, ends)
        self._start_as_transform(ends)
        if isinstance(self.prior, LatentPrior):
            self.prior.initialise()
        place = torch.linspace(-0.5, 0.5, self.rates)[:, None].expand(-1, self.latents)
        logarithms = torch.tensor(_FIRST_GAIN).log() + place * torch.tensor(_RATIO).log()
        with torch.no_grad():
            self.gain.copy_(logarithms.flatten())
            self.inverse.copy_(-logarithms.flatten())

    @torch.no_grad()
    def _start_as_transform(self, ends: list[Conv2d]) -> None:
        """Let the path around the blocks be a `block_transform` and its inverse."""
        basis = Basis.of_pixels(self.in_channels)
        colours = basis.functions[..., 0, 0]  # (functions, C)
        basis, weights = basis.merged(4 * len(basis))
        # PyTorch's pixel_unshuffle: the places of a channel beside one another.
        taps = torch.einsum("nmij,mc->ncij", weights, colours).flatten(1)
        head, tail = self.analysis.head.weight, self.synthesis.tail.weight
        for weight in (head, tail):
            weight.mul_(_BESIDE)
        head[: len(taps)] = 0.0
        head[: len(taps), : taps.shape[1], 1, 1] = taps
        tail.zero_()
        tail[:, : len(taps), 1, 1] = taps.T
        ups = reversed(list(self.synthesis.up))
        for down, up in zip(self.analysis.down, ups):
            assert isinstance(down, Conv2d) and isinstance(up, ConvTranspose2d)
            known = len(basis)
            basis, weights = basis.merged(down.out_channels)
            for weight in (down.weight, up.weight):
                weight.mul_(_BESIDE)
            down.weight[: len(basis)] = 0.0
            up.weight[len(basis) :, :known] = 0.0
            down.weight[: len(basis), :known] = weights
            up.weight[: len(basis), :known] = weights
        for end in ends:
            end.weight.mul_(_BESIDE)


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))


@register_model
def dxcodec(**kwargs: Any) -> DXCodec:
    """Codec for colour images that removes noise: 1.3 M weights, 128 latents for 16 x 16 pixels."""
    return DXCodec(**kwargs)


@register_model
def dxcodec_1(**kwargs: Any) -> DXCodec:
    """The sealed `dxcodec` that ships. Files name its weights: others have another number."""
    return DXCodec(**{"sealed": True, **kwargs})
