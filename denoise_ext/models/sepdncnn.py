"""SepDnCNN: DnCNN with depthwise-separable hidden layers.

DnCNN: Zhang et al., IEEE TIP 2017 (see ``dncnn.py``).  Separable convolutions: Howard et al.:
"MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
arXiv:1704.04861.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext._choices import check_bool, check_choice
from denoise_ext.models.image_denoiser import (
    MAX_LAYERS,
    MAX_UNSHUFFLE,
    ImageDenoiser,
    check_positive_int,
    shuffle,
    unshuffle_with_noise_map,
)
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d, DepthwiseSeparableConv2d


def _separable(width: int, activation: str) -> DepthwiseSeparableConv2d:
    return DepthwiseSeparableConv2d(width, width, 3, padding=1, activation=activation)


class SeparableBlock(nn.Module):
    """``x + conv(relu(conv(x)))`` of 3x3 depthwise-separable convolutions, of x's shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1: DepthwiseSeparableConv2d = _separable(width, "relu")
        self.conv2: DepthwiseSeparableConv2d = _separable(width, "none")

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.conv2(self.conv1(x))


@register_architecture("sepdncnn")
class SepDnCNN(ImageDenoiser):
    """DnCNN whose hidden 3x3 convolutions are one 3x3 filter per channel, then a 1x1 convolution.

    The first and the last layer are full convolutions: they have few channels on one side, and
    little is to be won there. With 17 layers of 64 channels it takes 142 GFLOP per megapixel where
    DnCNN takes 1,108, and has 73,217 parameters where DnCNN has 555,137 (gray). The time does not
    follow: the filters per channel read and write a feature map for 9 products per value, and wait
    for memory. Both accelerated, an image of 512x512 takes 0.32 s where DnCNN takes 0.40 (two cores
    of an AMD EPYC, Zen 4; ``benchmarks/results``).

    Args:
        channels: image channels.
        width: channels of the hidden layers.
        depth: number of layers, >= 2; the receptive field is that of a DnCNN of this depth.
        noise_map: append sigma / 255 as an input channel; the model then needs sigma.
        predicts: ``"noise"``: the result is ``x - net(x)``; ``"image"``: it is ``net(x)``.
        unshuffle: side of the squares of pixels that are channels of the layers; 1: none.
        skips: two hidden layers each are a residual block, which adds its input; their number,
            ``depth - 2``, is then even.
    """

    family = "sepdncnn"

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        depth: int = 17,
        noise_map: bool = False,
        predicts: str = "noise",
        unshuffle: int = 1,
        skips: bool = False,
    ) -> None:
        super().__init__(channels, needs_sigma=check_bool("noise_map", noise_map))
        self.width: int = check_positive_int("width", width)
        self.depth: int = check_positive_int("depth", depth, 2, MAX_LAYERS)
        self.predicts: str = check_choice("predicts", predicts, ("image", "noise"))
        self.unshuffle: int = check_positive_int("unshuffle", unshuffle, maximum=MAX_UNSHUFFLE)
        self.stride: int = unshuffle
        self.skips: bool = check_bool("skips", skips)
        if skips and depth % 2:
            raise ValueError(f"depth must be even with skips, got {depth}")
        sub = channels * unshuffle**2
        hidden: list[nn.Module] = (
            [SeparableBlock(width) for _ in range(depth // 2 - 1)]
            if skips
            else [_separable(width, "relu") for _ in range(depth - 2)]
        )
        self.body: nn.Sequential = nn.Sequential(
            Conv2d(sub + int(self.needs_sigma), width, 3, padding=1, activation="relu"),
            *hidden,
            Conv2d(width, sub, 3, padding=1),
        )

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "width": self.width,
            "depth": self.depth,
            "noise_map": self.needs_sigma,
            "predicts": self.predicts,
            "unshuffle": self.unshuffle,
            "skips": self.skips,
        }

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        output = self.body(unshuffle_with_noise_map(x, noise_map, self.unshuffle))
        output = shuffle(output, self.unshuffle)
        return x - output if self.predicts == "noise" else output

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from."""
        blocks = [module for module in self.body if isinstance(module, SeparableBlock)]
        last = [self.body[-1]] if self.predicts == "noise" else []
        initialise_layers(self, generator, [*(block.conv2.pointwise for block in blocks), *last])


@register_model
def sepdncnn_gray(**kwargs: Any) -> SepDnCNN:
    """Separable DnCNN for gray images and one noise level: 17 layers of 64 channels."""
    return SepDnCNN(**{"channels": 1, **kwargs})


@register_model
def sepdncnn_color(**kwargs: Any) -> SepDnCNN:
    """Separable DnCNN for colour images and one noise level: 17 layers of 64 channels."""
    return SepDnCNN(**{"channels": 3, **kwargs})


@register_model
def sepdncnn_s_gray(**kwargs: Any) -> SepDnCNN:
    """Small separable DnCNN for gray images and any noise level: residual blocks on 2x2 pixels."""
    small = {"width": 64, "depth": 16, "noise_map": True, "unshuffle": 2, "skips": True}
    return SepDnCNN(**{"channels": 1, **small, **kwargs})
