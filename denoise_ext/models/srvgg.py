"""SRVGGNetCompact: a chain of convolutions with PReLU, and the pixels of the nearest one added.

Wang, Xie, Dong, Shan: "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
Data", ICCV Workshops 2021; networks realesr-general-x4v3, realesr-animevideov3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models.image_denoiser import MAX_LAYERS, ImageUpscaler, check_positive_int
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.registry import register_architecture
from denoise_ext.nn import Conv2d


@register_architecture("srvgg")
class SRVGG(ImageUpscaler):
    """SRVGGNetCompact for gray (``channels=1``) or colour (``channels=3``) images; blind.

    Args:
        channels: image channels.
        scale: rows and columns of the output for one of the input.
        width: channels of the chain.
        depth: convolutions of the chain, the last one not counted.
    """

    def __init__(self, channels: int = 3, scale: int = 4, width: int = 64, depth: int = 17) -> None:
        super().__init__(channels, needs_sigma=False, scale=scale)
        self.width = check_positive_int("width", width)
        self.depth = check_positive_int("depth", depth, maximum=MAX_LAYERS)
        self.body = nn.Sequential(
            *(
                Conv2d(
                    width if index else channels, width, 3, padding=1,
                    activation="prelu", prelu_parameters=width,
                )
                for index in range(depth)
            )
        )  # fmt: skip
        self.tail = Conv2d(width, channels * scale * scale, 3, padding=1)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "scale": self.scale,
            "width": self.width,
            "depth": self.depth,
        }

    def enlarge(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageUpscaler.enlarge`."""
        detail = F.pixel_shuffle(self.tail(self.body(x)), self.scale)
        return detail + F.interpolate(x, scale_factor=self.scale, mode="nearest")

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from; the network begins near the nearest pixels."""
        initialise_layers(self, generator, [self.tail])
