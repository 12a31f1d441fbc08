"""DXNet: this package's own network, a bias-free residual U-Net shaped for its kernels.

* All blocks are 3x3 convolutions. Their channel counts suit the Winograd kernels (multiples of 16).
* They run on the pixel-unshuffled image: at half the resolution a convolution costs a quarter.
* Coarser levels enlarge the receptive field cheaply. Each level has one strided and one transposed
  2x2 convolution for resampling.
* Every second convolution of a block ends in the addition of the block's input. The fused kernels
  add it in their epilogue, so that a block writes two feature maps, not three.
* No bias anywhere: f(a x, a sigma) = a f(x, sigma) for a > 0. What was learned on [0, 1] holds for
  16-bit, float and HDR data of any range, and noise levels outside the trained ones degrade
  gracefully (Mohan, Kadkhodaie, Simoncelli, Fernandez-Granda: "Robust and interpretable blind image
  denoising via bias-free convolutional neural networks", ICLR 2020).

The pieces are those of FFDNet (Zhang, Zuo, Zhang, IEEE TIP 2018: unshuffled image, noise map) and
DRUNet (Zhang, Li, Zuo, Zhang, Van Gool, Timofte, IEEE TPAMI 2021: residual U-Net without biases).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.models.image_denoiser import ImageDenoiser, unshuffle_with_noise_map
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.models.residual_u_net import ResidualUNet


@register_architecture("dxnet")
class DXNet(ResidualUNet, ImageDenoiser):
    """DXNet for gray (``channels=1``) or colour (``channels=3``) images; needs sigma.

    The image is rearranged to half the resolution (2x2 pixels become channels) and the noise level
    sigma / 255 appended as one more channel (a map is averaged over the 2x2 pixels). Level l of the
    U-Net has 1 / 2^(l + 1) of the image's resolution. The network's output is the noise.

    Args:
        channels: image channels.
        widths: channels of the levels, the finest first.
        blocks: residual blocks of each level: on the way down and again on the way up for all but
            the coarsest.
    """

    family = "dxnet"

    def __init__(
        self, channels: int = 1, widths: Sequence[int] = (64, 80), blocks: Sequence[int] = (2, 5)
    ) -> None:
        super().__init__(channels, needs_sigma=True)
        sub = channels * 4  # channels after the pixel-unshuffle
        self.add_levels(sub + 1, sub, widths, blocks)
        self.stride: int = 2 ** len(self.widths)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "widths": self.widths,
            "blocks": self.blocks,
        }

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`."""
        assert noise_map is not None  # needs_sigma: the base class has checked it
        noise = self.run_levels(unshuffle_with_noise_map(x, noise_map))  # (N, 4C, H/2, W/2)
        return x - F.pixel_shuffle(noise, 2)

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from (He et al. 2015; the ends of residual branches scaled)."""
        self.initialise_levels(generator)


@register_model
def dxnet_xs_gray(**kwargs: Any) -> DXNet:
    """Gray DXNet for video in real time: three thin levels, a thirteenth of the small one's
    arithmetic."""
    return DXNet(**{"channels": 1, "widths": (16, 32, 64), "blocks": (1, 1, 2), **kwargs})


@register_model
def dxnet_xs_color(**kwargs: Any) -> DXNet:
    """Colour DXNet for video in real time: three thin levels."""
    return DXNet(**{"channels": 3, "widths": (16, 32, 64), "blocks": (1, 1, 2), **kwargs})


@register_model
def dxnet_s_gray(**kwargs: Any) -> DXNet:
    """Small gray DXNet: two levels of 64 and 80 channels, a sixth of DnCNN's arithmetic."""
    return DXNet(**{"channels": 1, "widths": (64, 80), "blocks": (2, 3), **kwargs})


@register_model
def dxnet_s_color(**kwargs: Any) -> DXNet:
    """Small colour DXNet: two levels of 64 and 80 channels."""
    return DXNet(**{"channels": 3, "widths": (64, 80), "blocks": (2, 5), **kwargs})


@register_model
def dxnet_s_texture(**kwargs: Any) -> DXNet:
    """`dxnet_s_color`, trained on for natural fine detail, part of which it makes up."""
    return dxnet_s_color(**kwargs)


@register_model
def dxnet_m_gray(**kwargs: Any) -> DXNet:
    """Medium gray DXNet: the levels of `dxnet_s_gray`, with three times as many blocks."""
    return DXNet(**{"channels": 1, "widths": (64, 80), "blocks": (5, 12), **kwargs})


@register_model
def dxnet_m_color(**kwargs: Any) -> DXNet:
    """Medium colour DXNet: the levels of `dxnet_s_color`, with more than twice as many blocks."""
    return DXNet(**{"channels": 3, "widths": (64, 80), "blocks": (5, 12), **kwargs})


@register_model
def dxnet_l_gray(**kwargs: Any) -> DXNet:
    """Large gray DXNet: three levels of 128, 192 and 256 channels."""
    return DXNet(**{"channels": 1, "widths": (128, 192, 256), "blocks": (4, 4, 6), **kwargs})


@register_model
def dxnet_l_color(**kwargs: Any) -> DXNet:
    """Large colour DXNet: three levels of 128, 192 and 256 channels."""
    return DXNet(**{"channels": 3, "widths": (128, 192, 256), "blocks": (4, 4, 6), **kwargs})
