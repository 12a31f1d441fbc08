"""DXNet with a second input: an aligned picture of the same scene that shows where edges are.

A photograph guides a depth map, visible light guides infrared. A convolution and a residual block
at half the resolution make features of the guide. They join the image's features at the head. Of a
black guide they are zero: that is how the network runs without a guide.

There are no biases, but the guide does not scale with the image. So f(a x, a sigma, g) differs from
a f(x, sigma, g), unlike in `DXNet`. Training varies the contrast instead.

A guide joined to the features of the image: Li, Huang, Ahuja, Yang: "Deep Joint Image Filtering",
ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models.image_denoiser import check_positive_int, unshuffle_with_noise_map
from denoise_ext.models.network import Network, Port, Signature, Tensors
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.models.residual_u_net import ResidualBlock, ResidualUNet
from denoise_ext.nn import Conv2d


@register_architecture("dxnet_guided")
class DXNetGuided(ResidualUNet, Network):
    """DXNet for gray images with a gray or colour guide of the same size.

    Inputs: ``image``, ``noise_map`` (sigma / 255) and ``guide``; output: ``image``. A noise map of
    0 means an image that was enlarged: what is blurred along the guide's edges is sharpened.

    Args:
        channels: image channels.
        guide_channels: channels of the guide.
        guide_width: channels of the guide's own features.
        widths, blocks: as of `DXNet`.
    """

    family = "dxnet_guided"

    def __init__(
        self,
        channels: int = 1,
        guide_channels: int = 3,
        guide_width: int = 32,
        widths: Sequence[int] = (64, 80),
        blocks: Sequence[int] = (2, 3),
    ) -> None:
        super().__init__()
        self.in_channels: int = check_positive_int("channels", channels)
        self.guide_channels: int = check_positive_int("guide_channels", guide_channels)
        self.guide_width: int = check_positive_int("guide_width", guide_width)
        image = Port(channels)
        self.signature: Signature = Signature(
            {
                "image": image,
                "noise_map": Port(1, kind="condition"),
                "guide": Port(guide_channels),
            },
            {"image": image},
        )
        sub = 4 * channels  # channels after the pixel-unshuffle
        self.guide: nn.Sequential = nn.Sequential(
            # A ReLU here could die early, while the guide is no help yet: it sees no sign.
            Conv2d(4 * guide_channels, guide_width, 3, padding=1, bias=False),
            ResidualBlock(guide_width),
        )
        self.add_levels(sub + 1 + guide_width, sub, widths, blocks)
        self.stride: int = 2 ** len(self.widths)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "guide_channels": self.guide_channels,
            "guide_width": self.guide_width,
            "widths": self.widths,
            "blocks": self.blocks,
        }

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        error = self.tail(self.features(inputs))  # (N, 4C, H/2, W/2)
        return {"image": inputs["image"] - F.pixel_shuffle(error, 2)}, state

    def features(self, inputs: Tensors) -> Tensor:
        """(N, widths[0], H/2, W/2), what the tail makes the output of."""
        guide = self.guide(F.pixel_unshuffle(inputs["guide"], 2))
        image = unshuffle_with_noise_map(inputs["image"], inputs["noise_map"])
        return self.run_trunk(torch.cat([image, guide], dim=1))

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from, as of `DXNet`."""
        self.initialise_levels(generator)


@register_model
def dxnet_s_guided(**kwargs: Any) -> DXNetGuided:
    """Small guided DXNet: a gray image, a colour guide, two levels of 64 and 80 channels."""
    return DXNetGuided(**{"widths": (64, 80), "blocks": (2, 3), **kwargs})
