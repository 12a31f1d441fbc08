"""DeconvNet: an encoder of convolutions and pooling, a decoder of transposed convolutions.

Mao, Shen, Yang: "Image Restoration Using Very Deep Convolutional Encoder-Decoder Networks with
Symmetric Skip Connections", NIPS 2016 (RED-Net), whose every transposed convolution mirrors a
convolution; with pooling as in Noh, Hong, Han: "Learning Deconvolution ImageDenoiser for Semantic
Segmentation", ICCV 2015.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext._choices import check_bool, check_choice
from denoise_ext.models.image_denoiser import (
    MAX_LAYERS,
    MAX_LEVELS,
    MAX_UNSHUFFLE,
    ImageDenoiser,
    check_positive_int,
    shuffle,
    unshuffle_with_noise_map,
)
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d, ConvTranspose2d

_POOLING = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


@register_architecture("deconvnet")
class DeconvNet(ImageDenoiser):
    """Encoder and decoder of ``levels`` resolutions below the image's own.

    Args:
        channels: image channels.
        width: channels at the image's resolution; every level below has twice as many.
        levels: number of poolings, >= 1.
        depth: 3x3 convolutions per level of the encoder, and transposed ones of the decoder.
        pooling: ``"max"`` or ``"average"``, over 2x2 values.
        skips: add the encoder's values to the decoder's at every level, before its ReLU, as in
            RED-Net; False: the plain encoder-decoder.
        noise_map: append sigma / 255 as an input channel; the model then needs sigma.
        predicts: ``"noise"``: the result is ``x - net(x)``; ``"image"``: it is ``net(x)``.
        unshuffle: side of the squares of pixels that are channels of the finest level; 1: none.
    """

    family = "deconvnet"

    def __init__(
        self,
        channels: int = 1,
        width: int = 48,
        levels: int = 2,
        depth: int = 3,
        pooling: str = "max",
        skips: bool = True,
        noise_map: bool = False,
        predicts: str = "noise",
        unshuffle: int = 1,
    ) -> None:
        super().__init__(channels, needs_sigma=check_bool("noise_map", noise_map))
        self.width: int = check_positive_int("width", width)
        self.levels: int = check_positive_int("levels", levels, 1, MAX_LEVELS)
        self.depth: int = check_positive_int("depth", depth, 1, MAX_LAYERS)
        self.pooling: str = check_choice("pooling", pooling, tuple(_POOLING))
        self.skips: bool = check_bool("skips", skips)
        self.predicts: str = check_choice("predicts", predicts, ("image", "noise"))
        self.unshuffle: int = check_positive_int("unshuffle", unshuffle, maximum=MAX_UNSHUFFLE)
        self.stride: int = unshuffle * 2**levels
        self.pool: nn.Module = _POOLING[pooling](2)
        widths = [width * 2**level for level in range(levels + 1)]
        sub = channels * unshuffle**2
        inputs = [sub + int(self.needs_sigma), *widths]
        self.encoder: nn.ModuleList = nn.ModuleList(
            _convolutions(inputs[level], widths[level], depth) for level in range(levels + 1)
        )
        # From the lowest level up; a 4x4 kernel overlaps evenly, every pixel gets 2x2 values.
        self.up: nn.ModuleList = nn.ModuleList(
            ConvTranspose2d(widths[level + 1], widths[level], 4, stride=2, padding=1)
            for level in reversed(range(levels))
        )
        self.decoder: nn.ModuleList = nn.ModuleList(
            _transposed(widths[level], depth) for level in reversed(range(levels))
        )
        self.tail: ConvTranspose2d = ConvTranspose2d(width, sub, 3, padding=1)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "width": self.width,
            "levels": self.levels,
            "depth": self.depth,
            "pooling": self.pooling,
            "skips": self.skips,
            "noise_map": self.needs_sigma,
            "predicts": self.predicts,
            "unshuffle": self.unshuffle,
        }

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        x_and_map = unshuffle_with_noise_map(x, noise_map, self.unshuffle)
        features = self.encoder[0](x_and_map)  # (N, width, H, W), at 1 / unshuffle of x's size
        kept = []
        for level in list(self.encoder)[1:]:
            kept.append(features)
            features = level(self.pool(features))  # (N, 2 width, H/2, W/2), ...
        for up, level in zip(self.up, self.decoder, strict=True):
            skip = kept.pop()
            features = up(features)
            features = level(F.relu(features + skip if self.skips else features))
        output = shuffle(self.tail(features), self.unshuffle)
        return x - output if self.predicts == "noise" else output

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from."""
        initialise_layers(self, generator, [self.tail] if self.predicts == "noise" else ())


def _convolutions(inputs: int, width: int, depth: int) -> nn.Sequential:
    widths = [inputs] + [width] * depth
    return nn.Sequential(
        *[Conv2d(a, b, 3, padding=1, activation="relu") for a, b in pairwise(widths)]
    )


def _transposed(width: int, depth: int) -> nn.Sequential:
    layers = [ConvTranspose2d(width, width, 3, padding=1, activation="relu") for _ in range(depth)]
    return nn.Sequential(*layers)


@register_model
def deconvnet_gray(**kwargs: Any) -> DeconvNet:
    """Encoder-decoder with max pooling for gray images and one noise level."""
    return DeconvNet(**{"channels": 1, **kwargs})


@register_model
def deconvnet_color(**kwargs: Any) -> DeconvNet:
    """Encoder-decoder with max pooling for colour images and one noise level."""
    return DeconvNet(**{"channels": 3, **kwargs})


@register_model
def deconvnet_s_gray(**kwargs: Any) -> DeconvNet:
    """Small encoder-decoder with average pooling for gray images and any noise level."""
    small = {
        "width": 64, "levels": 1, "depth": 2, "pooling": "average", "noise_map": True,
        "unshuffle": 2,
    }  # fmt: skip
    return DeconvNet(**{"channels": 1, **small, **kwargs})
