"""RRDBNet: residual blocks of dense blocks, the generator of ESRGAN and Real-ESRGAN.

Wang, Yu, Wu, Gu, Liu, Dong, Qiao, Loy: "ESRGAN: Enhanced Super-Resolution Generative Adversarial
Networks", ECCV Workshops 2018.
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

_SLOPE = 0.2
_BRANCH = 0.2  # what a branch is multiplied by before it is added


def _conv(inputs: int, outputs: int, active: bool = False) -> Conv2d:
    activation = "leaky_relu" if active else "none"
    return Conv2d(inputs, outputs, 3, padding=1, activation=activation, negative_slope=_SLOPE)


class _Dense(nn.Module):
    """Five convolutions, each of all that is before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for index in range(1, 5):
            made = _conv(width + (index - 1) * growth, growth, active=True)
            self.add_module(f"conv{index}", made)
        self.conv5 = _conv(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            found.append(conv(torch.cat(found, 1)))
        return x + _BRANCH * self.conv5(torch.cat(found, 1))


class _Block(nn.Module):
    """Three dense blocks in a residual one."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + _BRANCH * self.rdb3(self.rdb2(self.rdb1(x)))


@register_architecture("rrdb")
class RRDB(ImageUpscaler):
    """RRDBNet for gray (``channels=1``) or colour (``channels=3``) images; blind.

    The ``state_dict`` has the keys of Real-ESRGAN; other published keys are translated on loading.

    Args:
        channels: image channels.
        doublings: how often the features are doubled in size, each time by a convolution.
        unshuffle: side of the squares of pixels that become channels first: 1, 2 or 4. The image is
            enlarged 2^doublings / unshuffle times.
        width: channels between the blocks.
        growth: channels that each convolution of a dense block adds.
        blocks: residual blocks of three dense blocks.
    """

    def __init__(
        self,
        channels: int = 3,
        doublings: int = 2,
        unshuffle: int = 1,
        width: int = 64,
        growth: int = 32,
        blocks: int = 23,
    ) -> None:
        check_positive_int("doublings", doublings, maximum=3)
        if unshuffle not in (1, 2, 4) or isinstance(unshuffle, bool):
            raise ValueError(f"unshuffle must be 1, 2 or 4, got {unshuffle!r}")
        super().__init__(channels, needs_sigma=False, scale=2**doublings // unshuffle)
        self.doublings, self.unshuffle, self.stride = doublings, unshuffle, unshuffle
        self.width = check_positive_int("width", width)
        self.growth = check_positive_int("growth", growth)
        self.blocks = check_positive_int("blocks", blocks, maximum=MAX_LAYERS)
        self.conv_first = _conv(channels * unshuffle**2, width)
        self.body = nn.Sequential(*(_Block(width, growth) for _ in range(blocks)))
        self.conv_body = _conv(width, width)
        for index in range(1, doublings + 1):
            self.add_module(f"conv_up{index}", _conv(width, width, active=True))
        self.conv_hr = _conv(width, width, active=True)
        self.conv_last = _conv(width, channels)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "doublings": self.doublings,
            "unshuffle": self.unshuffle,
            "width": self.width,
            "growth": self.growth,
            "blocks": self.blocks,
        }

    def enlarge(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageUpscaler.enlarge`."""
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        first = self.conv_first(x)
        features = first + self.conv_body(self.body(first))
        for index in range(1, self.doublings + 1):
            larger = F.interpolate(features, scale_factor=2, mode="nearest")
            features = self.get_submodule(f"conv_up{index}")(larger)
        return self.conv_last(self.conv_hr(features))

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from; the ends of dense blocks are small."""
        ends = [module.conv5 for module in self.modules() if isinstance(module, _Dense)]
        initialise_layers(self, generator, ends)
