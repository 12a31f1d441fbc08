"""SPAN: convolutions whose results are weighed by themselves, without parameters for that.

Wan, Yu, Liu, Zuo, Sun, Lv, Liu, Liu, Zuo: "Swift Parameter-free Attention Network for Efficient
Super-Resolution", CVPR Workshops 2024.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext._choices import check_bool
from denoise_ext.models.image_denoiser import ImageUpscaler, check_positive_int
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.registry import register_architecture
from denoise_ext.nn import Conv2d

_MEAN = (0.4488, 0.4371, 0.4040)  # of the authors' training images
_RANGE = 255.0
_BLOCKS = 6


class _Block(nn.Module):
    """Three convolutions; the last one's result decides how much of it and of the input is kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and its first convolution's."""
        first = self.c1_r(x)
        last = self.c3_r(F.silu(self.c2_r(F.silu(first))))
        return (last + x) * (torch.sigmoid(last) - 0.5), first


@register_architecture("span")
class SPAN(ImageUpscaler):
    """SPAN for gray (``channels=1``) or colour (``channels=3``) images; blind.

    Its convolutions are those of inference: three in a row and one beside them, which training has,
    are folded into one on loading.

    Args:
        channels: image channels.
        scale: rows and columns of the output for one of the input.
        width: channels of the blocks.
        normalise: take the mean of the authors' images off, and scale to 0-255; for colour only.
    """

    def __init__(
        self, channels: int = 3, scale: int = 4, width: int = 48, normalise: bool = True
    ) -> None:
        super().__init__(channels, needs_sigma=False, scale=scale)
        self.width: int = check_positive_int("width", width)
        self.normalise: bool = check_bool("normalise", normalise)
        if normalise and channels != len(_MEAN):
            raise ValueError(f"normalise needs {len(_MEAN)} channels, got {channels}")
        self.conv_1: Conv2d = Conv2d(channels, width, 3, padding=1)
        for index in range(1, _BLOCKS + 1):
            self.add_module(f"block_{index}", _Block(width))
        self.conv_cat: Conv2d = Conv2d(4 * width, width, 1)
        self.conv_2: Conv2d = Conv2d(width, width, 3, padding=1)
        self.upsampler: Conv2d = Conv2d(width, channels * scale * scale, 3, padding=1)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "scale": self.scale,
            "width": self.width,
            "normalise": self.normalise,
        }

    def enlarge(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageUpscaler.enlarge`."""
        if self.normalise:
            x = (x - x.new_tensor(_MEAN).reshape(1, -1, 1, 1)) * _RANGE
        features = made = self.conv_1(x)
        results = []
        for index in range(1, _BLOCKS + 1):
            made, first = self.get_submodule(f"block_{index}")(made)
            results.append(made)
        parts = [features, self.conv_2(made), results[0], first]
        return F.pixel_shuffle(self.upsampler(self.conv_cat(torch.cat(parts, 1))), self.scale)

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from."""
        initialise_layers(self, generator, [self.upsampler])
