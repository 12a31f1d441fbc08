"""NAFNet: a U-Net whose blocks have no activation function, but a product of two halves.

Chen, Chu, Zhang, Sun: "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext._choices import check_bool
from denoise_ext.models.image_denoiser import (
    MAX_LAYERS,
    ImageDenoiser,
    append_noise_map,
    check_positive_int,
    check_positive_ints,
)
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d


@register_architecture("nafnet")
class NAFNet(ImageDenoiser):
    """NAFNet for gray (``channels=1``) or colour (``channels=3``) images.

    The ``state_dict`` has the keys of the authors' implementation.  Every block scales its channels
    by their means over the whole image (channel attention).  Pixels depend on the whole image, so
    the result cannot be computed in tiles.  The authors' NAFNetLocal uses means over a window with
    the same weights.  This variant is not implemented here.

    Args:
        channels: image channels.
        width: channels at the image's resolution; every level below has twice as many.
        encoder_blocks: blocks of every level of the encoder, the image's own resolution first;
            the image is halved after each.
        middle_blocks: blocks at the lowest resolution.
        decoder_blocks: blocks of every level of the decoder, the lowest first; as many levels as
            the encoder.
        noise_map: append sigma / 255 as an input channel; the model then needs sigma. Published:
            blind.
    """

    family = "nafnet"

    def __init__(
        self,
        channels: int = 3,
        width: int = 32,
        encoder_blocks: list[int] | tuple[int, ...] = (2, 2, 4, 8),
        middle_blocks: int = 12,
        decoder_blocks: list[int] | tuple[int, ...] = (2, 2, 2, 2),
        noise_map: bool = False,
    ) -> None:
        super().__init__(channels, needs_sigma=check_bool("noise_map", noise_map))
        self.width: int = check_positive_int("width", width)
        self.encoder_blocks: list[int] = check_positive_ints(
            "encoder_blocks", encoder_blocks, MAX_LAYERS
        )
        self.middle_blocks: int = check_positive_int("middle_blocks", middle_blocks, 1, MAX_LAYERS)
        self.decoder_blocks: list[int] = check_positive_ints(
            "decoder_blocks", decoder_blocks, MAX_LAYERS
        )
        levels = len(self.encoder_blocks)
        if len(self.decoder_blocks) != levels:
            raise ValueError(
                f"decoder_blocks must name as many levels as encoder_blocks ({levels}), got "
                f"{self.decoder_blocks}"
            )
        self.stride: int = 2**levels
        widths = [width * 2**level for level in range(levels + 1)]
        self.intro: Conv2d = Conv2d(channels + int(self.needs_sigma), width, 3, padding=1)
        self.encoders: nn.ModuleList = nn.ModuleList(map(_blocks, widths, self.encoder_blocks))
        self.downs: nn.ModuleList = nn.ModuleList(
            Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1]
        )
        self.middle_blks: nn.Sequential = _blocks(widths[-1], self.middle_blocks)
        self.ups: nn.ModuleList = nn.ModuleList(
            nn.Sequential(Conv2d(w, 2 * w, 1, bias=False), nn.PixelShuffle(2))
            for w in reversed(widths[1:])
        )
        self.decoders: nn.ModuleList = nn.ModuleList(
            map(_blocks, reversed(widths[:-1]), self.decoder_blocks)
        )
        self.ending: Conv2d = Conv2d(width, channels, 3, padding=1)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "width": self.width,
            "encoder_blocks": self.encoder_blocks,
            "middle_blocks": self.middle_blocks,
            "decoder_blocks": self.decoder_blocks,
            "noise_map": self.needs_sigma,
        }

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        features = self.intro(append_noise_map(x, noise_map))  # (N, width, H, W)
        kept = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features = encoder(features)
            kept.append(features)
            features = down(features)  # (N, 2 width, H/2, W/2), ...
        features = self.middle_blks(features)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            features = decoder(up(features) + kept.pop())
        return x + self.ending(features)

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from."""
        initialise_layers(self, generator, [self.ending])
        for block in self.modules():
            if isinstance(block, NAFBlock):  # every block starts as the identity
                nn.init.zeros_(block.beta)
                nn.init.zeros_(block.gamma)


class NAFBlock(nn.Module):
    """Two residual branches: a gated depthwise one with channel attention, a gated 1x1 one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1: LayerNorm2d = LayerNorm2d(width)
        self.conv1: Conv2d = Conv2d(width, 2 * width, 1)
        self.conv2: Conv2d = Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.sca: nn.Sequential = nn.Sequential(GlobalMean(), Conv2d(width, width, 1))
        self.conv3: Conv2d = Conv2d(width, width, 1)
        self.norm2: LayerNorm2d = LayerNorm2d(width)
        self.conv4: Conv2d = Conv2d(width, 2 * width, 1)
        self.conv5: Conv2d = Conv2d(width, width, 1)
        self.beta: nn.Parameter = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma: nn.Parameter = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        y = simple_gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(y * self.sca(y)) * self.beta
        y = simple_gate(self.conv4(self.norm2(x)))
        return x + self.conv5(y) * self.gamma


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of every pixel.

    Sums are float32 for half-precision images too; no copy is made of channels_last ones.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.ones(width))
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        pixels = x.permute(0, 2, 3, 1)  # (N, H, W, width)
        pixels = F.layer_norm(pixels, self.weight.shape, self.weight, self.bias, self.eps)
        return pixels.permute(0, 3, 1, 2)


class GlobalMean(nn.Module):
    """The mean of every channel over the whole image, summed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


def simple_gate(x: Tensor) -> Tensor:
    """The product of the two halves of the channels: (N, 2C, H, W) to (N, C, H, W)."""
    a, b = x.chunk(2, dim=1)
    return a * b


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[NAFBlock(width) for _ in range(count)])


@register_model
def nafnet_gray(**kwargs: Any) -> NAFNet:
    """NAFNet of width 32 for gray images, blind."""
    return NAFNet(**{"channels": 1, **kwargs})


@register_model
def nafnet_color(**kwargs: Any) -> NAFNet:
    """NAFNet of width 32 for colour images, as published for camera noise; blind."""
    return NAFNet(**{"channels": 3, **kwargs})
