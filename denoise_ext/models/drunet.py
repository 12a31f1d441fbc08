"""DRUNet: a residual U-Net with a noise-level map, without biases.

Zhang, Li, Zuo, Zhang, Van Gool, Timofte: "Plug-and-Play Image Restoration with Deep ImageDenoiser
Prior", IEEE TPAMI 2021.  Without biases a network scales with its input (Mohan et al.: "Robust and
Interpretable Blind Image Denoising via Bias-Free Convolutional Neural Networks", ICLR 2020), and
works at noise levels it was not trained for.
"""

from __future__ import annotations

from typing import Any

import torch
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
from denoise_ext.nn import Conv2d, ConvTranspose2d


@register_architecture("drunet")
class DRUNet(ImageDenoiser):
    """DRUNet for gray (``channels=1``) or colour (``channels=3``) images.

    The ``state_dict`` has the keys of KAIR's DRUNet.

    Args:
        channels: image channels.
        widths: channels of every resolution, the image's own first; each one further down has half
            the rows and columns.
        blocks: residual blocks per resolution, of the encoder and of the decoder.
        noise_map: append sigma / 255 as an input channel, as published; the model then needs
            sigma. Otherwise it is blind.
        bias: give the convolutions biases; published: none.
    """

    family = "drunet"

    def __init__(
        self,
        channels: int = 1,
        widths: list[int] | tuple[int, ...] = (64, 128, 256, 512),
        blocks: int = 4,
        noise_map: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(channels, needs_sigma=check_bool("noise_map", noise_map))
        self.widths: list[int] = check_positive_ints("widths", widths)
        self.blocks: int = check_positive_int("blocks", blocks, 1, MAX_LAYERS)
        self.bias: bool = check_bool("bias", bias)
        self.levels: int = len(self.widths) - 1
        self.stride: int = 2**self.levels
        inputs = channels + int(self.needs_sigma)
        self.m_head: Conv2d = Conv2d(inputs, self.widths[0], 3, padding=1, bias=self.bias)
        for level in range(self.levels):
            here, below = self.widths[level : level + 2]
            self.add_module(f"m_down{level + 1}", self._down(here, below))
            self.add_module(f"m_up{level + 1}", self._up(below, here))
        self.m_body: nn.Sequential = nn.Sequential(*self._blocks(self.widths[-1]))
        self.m_tail: Conv2d = Conv2d(self.widths[0], channels, 3, padding=1, bias=self.bias)

    def _blocks(self, width: int) -> list[nn.Module]:
        return [ResidualBlock(width, self.bias) for _ in range(self.blocks)]

    def _down(self, here: int, below: int) -> nn.Sequential:
        return nn.Sequential(*self._blocks(here), Conv2d(here, below, 2, stride=2, bias=self.bias))

    def _up(self, below: int, here: int) -> nn.Sequential:
        return nn.Sequential(
            ConvTranspose2d(below, here, 2, stride=2, bias=self.bias), *self._blocks(here)
        )

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "widths": self.widths,
            "blocks": self.blocks,
            "noise_map": self.needs_sigma,
            "bias": self.bias,
        }

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        features = self.m_head(append_noise_map(x, noise_map))  # (N, widths[0], H, W)
        kept = [features]
        for level in range(self.levels):
            features = self.get_submodule(f"m_down{level + 1}")(features)
            kept.append(features)  # (N, widths[level + 1], H / 2**(level + 1), ...)
        features = self.m_body(features)
        for level in reversed(range(self.levels)):
            features = self.get_submodule(f"m_up{level + 1}")(features + kept.pop())
        return self.m_tail(features + kept.pop())

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from."""
        branches = [m.res["2"] for m in self.modules() if isinstance(m, ResidualBlock)]
        initialise_layers(self, generator, branches)


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        # KAIR's Sequential, in which the ReLU is number 1.
        self.res: nn.ModuleDict = nn.ModuleDict(
            {
                "0": Conv2d(width, width, 3, padding=1, bias=bias, activation="relu"),
                "2": Conv2d(width, width, 3, padding=1, bias=bias),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        return x + self.res["2"](self.res["0"](x))


@register_model
def drunet_gray(**kwargs: Any) -> DRUNet:
    """DRUNet for gray images as published."""
    return DRUNet(**{"channels": 1, **kwargs})


@register_model
def drunet_color(**kwargs: Any) -> DRUNet:
    """DRUNet for colour images as published."""
    return DRUNet(**{"channels": 3, **kwargs})
