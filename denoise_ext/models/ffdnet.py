"""FFDNet: a plain CNN on the pixel-unshuffled image and a noise-level map.

Zhang, Zuo, Zhang: "FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising",
IEEE TIP 2018.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext._choices import check_choice
from denoise_ext.models.image_denoiser import (
    MAX_LAYERS,
    ImageDenoiser,
    check_positive_int,
    unshuffle_with_noise_map,
)
from denoise_ext.models.initialise import initialise_stack
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d


@register_architecture("ffdnet")
class FFDNet(ImageDenoiser):
    """FFDNet for gray (``channels=1``) or colour (``channels=3``) images; needs sigma.

    The image is unshuffled: 2x2 pixels become channels. The noise level sigma / 255 is appended as
    one more channel; a map is averaged over the 2x2 pixels. ``depth`` 3x3 convolutions of ``width``
    channels follow. The result is shuffled back.

    Args:
        channels: image channels.
        width: channels of the hidden layers.
        depth: number of convolutions, >= 2.
        predicts: ``"image"``: the network's output is the clean image, as published;
            ``"noise"``: it is the noise, and the result is ``x - net(x)``.
    """

    family = "ffdnet"
    stride = 2
    pad_mode = "replicate"  # as published

    def __init__(
        self, channels: int = 1, width: int = 64, depth: int = 15, predicts: str = "image"
    ) -> None:
        super().__init__(channels, needs_sigma=True)
        self.width: int = check_positive_int("width", width)
        self.depth: int = check_positive_int("depth", depth, 2, MAX_LAYERS)
        self.predicts: str = check_choice("predicts", predicts, ("image", "noise"))
        sub = channels * self.stride**2  # channels after the pixel-unshuffle
        widths = [sub + 1] + [width] * (depth - 1)
        layers: list[nn.Module] = [
            Conv2d(a, b, 3, padding=1, activation="relu") for a, b in pairwise(widths)
        ]
        layers.append(Conv2d(width, sub, 3, padding=1))
        self.body: nn.Sequential = nn.Sequential(*layers)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "width": self.width,
            "depth": self.depth,
            "predicts": self.predicts,
        }

    def initialise(self, generator: torch.Generator) -> None:
        """See :func:`~denoise_ext.models.initialise.initialise_stack`."""
        initialise_stack(self, generator)

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        assert noise_map is not None  # needs_sigma: the base class has checked it
        features = unshuffle_with_noise_map(x, noise_map)  # (N, 4C+1, H/2, W/2)
        output = F.pixel_shuffle(self.body(features), 2)  # (N, C, H, W)
        return x - output if self.predicts == "noise" else output


@register_model
def ffdnet_gray(**kwargs: Any) -> FFDNet:
    """FFDNet for gray images as published: 15 convolutions of 64 channels."""
    return FFDNet(**{"channels": 1, "width": 64, "depth": 15, **kwargs})


@register_model
def ffdnet_color(**kwargs: Any) -> FFDNet:
    """FFDNet for colour images as published: 12 convolutions of 96 channels."""
    return FFDNet(**{"channels": 3, "width": 96, "depth": 12, **kwargs})


@register_model
def ffdnet_gray_small(**kwargs: Any) -> FFDNet:
    """Gray FFDNet of 12 convolutions of 64 channels that predicts the noise."""
    return FFDNet(**{"channels": 1, "width": 64, "depth": 12, "predicts": "noise", **kwargs})


@register_model
def ffdnet_color_small(**kwargs: Any) -> FFDNet:
    """Colour FFDNet of 12 convolutions of 80 channels that predicts the noise."""
    return FFDNet(**{"channels": 3, "width": 80, "depth": 12, "predicts": "noise", **kwargs})
