"""SRNet: this package's own network that enlarges images, noisy ones too.

* All blocks run at the resolution of the input. Only the last convolution makes s^2 values for each
  pixel, which become s x s pixels (Shi et al., "Real-Time Single Image and Video Super-Resolution
  Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016).
* The blocks are those of EDSR (Lim, Son, Kim, Nah, Lee, CVPR Workshops 2017), without biases.
* The network adds detail to an interpolated image. One 5x5 convolution interpolates, as in WDSR (Yu
  et al., 2018). Training starts with bicubic weights.
* The noise level is one more input channel: 0 for clean images.
* No bias anywhere: f(a x, a sigma) = a f(x, sigma) for a > 0, as in DXNet.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models.image_denoiser import (
    MAX_LAYERS,
    ImageUpscaler,
    append_noise_map,
    check_positive_int,
)
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.models.residual_u_net import ResidualBlock
from denoise_ext.nn import Conv2d
from denoise_ext.resampling import contributions

_SKIP = 5  # taps: four of the cubic kernel, on either side of the pixel


@register_architecture("srnet")
class SRNet(ImageUpscaler):
    """SRNet for gray (``channels=1``) or colour (``channels=3``) images.

    Args:
        channels: image channels.
        scale: rows and columns of the output for one of the input, 2 to 8.
        width: channels of the blocks.
        blocks: residual blocks of two 3x3 convolutions.
    """

    def __init__(self, channels: int = 3, scale: int = 2, width: int = 48, blocks: int = 8) -> None:
        super().__init__(channels, needs_sigma=True, scale=scale)
        self.width = check_positive_int("width", width)
        self.blocks = check_positive_int("blocks", blocks, maximum=MAX_LAYERS)
        made = channels * scale * scale
        self.head = Conv2d(channels + 1, width, 3, padding=1, bias=False)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.tail = Conv2d(width, made, 3, padding=1, bias=False)
        self.skip = Conv2d(channels, made, _SKIP, padding=_SKIP // 2, bias=False)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "scale": self.scale,
            "width": self.width,
            "blocks": self.blocks,
        }

    def enlarge(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageUpscaler.enlarge`."""
        features = self.body(self.head(append_noise_map(x, noise_map)))
        parts = self.skip(x) + self.tail(features)  # (N, C s^2, H, W)
        return F.pixel_shuffle(parts, self.scale)

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from; the skip begins as bicubic interpolation."""
        ends = [block.conv2 for block in self.body]
        initialise_layers(self, generator, [*ends, self.tail])
        weights = bicubic_weights(self.scale).to(self.skip.weight)
        with torch.no_grad():
            self.skip.weight.zero_()
            for channel in range(self.in_channels):
                mine = slice(channel * self.scale**2, (channel + 1) * self.scale**2)
                self.skip.weight[mine, channel] = weights


def bicubic_weights(scale: int) -> Tensor:
    """(s^2, 5, 5): the kernels that interpolate the s x s pixels of each pixel, row by row."""
    places, weights = contributions(_SKIP, Fraction(scale))
    middle = slice(_SKIP // 2 * scale, (_SKIP // 2 + 1) * scale)
    taps = torch.zeros(scale, _SKIP, dtype=weights.dtype)
    taps.scatter_add_(1, places[middle], weights[middle])
    return torch.einsum("ai,bj->abij", taps, taps).reshape(scale * scale, _SKIP, _SKIP)


def _srnet_s(scale: int, kwargs: dict[str, Any]) -> SRNet:
    return SRNet(**{"channels": 3, "scale": scale, "width": 48, "blocks": 8, **kwargs})


@register_model
def srnet_s_x2(**kwargs: Any) -> SRNet:
    """Small colour SRNet to twice the size: 8 blocks of 48 channels."""
    return _srnet_s(2, kwargs)


@register_model
def srnet_s_x3(**kwargs: Any) -> SRNet:
    """Small colour SRNet to three times the size: 8 blocks of 48 channels."""
    return _srnet_s(3, kwargs)


@register_model
def srnet_s_x4(**kwargs: Any) -> SRNet:
    """Small colour SRNet to four times the size: 8 blocks of 48 channels."""
    return _srnet_s(4, kwargs)
