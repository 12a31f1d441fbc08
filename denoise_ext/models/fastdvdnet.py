"""FastDVDnet: two stages of small U-Nets over five frames, without motion estimation.

Tassano, Delon, Veit: "FastDVDnet: Towards Real-Time Deep Video Denoising Without Flow Estimation",
CVPR 2020.  The first stage denoises each frame with its two neighbours, the second stage does the
same with three results of the first.  Published, the first stage runs three times for every frame.
Here the state holds two of these results, so that it runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext.models.image_denoiser import check_positive_int, check_positive_ints
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.network import Network, Port, Signature, Tensors
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d

_FRAMES = 3  # of a stage
_LEVELS = 3


@register_architecture("fastdvdnet")
class FastDVDnet(Network):
    """FastDVDnet for gray (``channels=1``) or colour (``channels=3``) video; needs sigma.

    Inputs: ``image`` (N, channels, H, W), nominally in [0, 1], and ``noise_map``, sigma / 255.
    Output: ``image``, of the frame two calls before.  State: ``frames``, the last two of them, and
    ``denoised``, the last two results of the first stage.

    The ``state_dict`` has the published keys, batch normalisation folded into the convolutions.

    Args:
        channels: image channels.
        widths: channels of the three levels, the finest first.
        frame_width: channels of each frame in the first convolution.
    """

    family = "fastdvdnet"
    delay = 2

    def __init__(
        self, channels: int = 3, widths: Sequence[int] = (32, 64, 128), frame_width: int = 30
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels!r}")
        self.in_channels = channels
        self.widths: list[int] = check_positive_ints("widths", widths)
        if len(self.widths) != _LEVELS:
            raise ValueError(f"widths must be {_LEVELS} numbers, got {widths!r}")
        self.frame_width: int = check_positive_int("frame_width", frame_width)
        self.signature: Signature = Signature(
            {"image": Port(channels), "noise_map": Port(1, kind="condition")},
            {"image": Port(channels)},
            {"frames": Port(2 * channels), "denoised": Port(2 * channels)},
        )
        self.stride = 2 ** (_LEVELS - 1)
        self.temp1: _Stage = _Stage(channels, self.widths, self.frame_width)
        self.temp2: _Stage = _Stage(channels, self.widths, self.frame_width)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "widths": self.widths,
            "frame_width": self.frame_width,
        }

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        image, channels = inputs["image"], self.in_channels
        size = (len(image), 1, *image.shape[-2:])
        noise = inputs["noise_map"].expand(size)
        frames = torch.cat([state["frames"], image], 1)
        denoised = torch.cat([state["denoised"], self.temp1(frames, noise)], 1)
        result = self.temp2(denoised, noise)
        return {"image": result}, {
            "frames": frames[:, channels:].contiguous(),
            "denoised": denoised[:, channels:].contiguous(),
        }

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from."""
        initialise_layers(self, generator, [self.temp1.last, self.temp2.last])


class _Stage(nn.Module):
    """Denoises the middle one of three frames."""

    def __init__(self, channels: int, widths: list[int], frame_width: int) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.channels = channels
        self.inc: _Block = _Block(
            {
                "0": Conv2d(
                    _FRAMES * (channels + 1), _FRAMES * frame_width, 3, padding=1, groups=_FRAMES,
                    activation="relu",
                ),
                "3": _conv(_FRAMES * frame_width, fine),
            }
        )  # fmt: skip
        self.downc0: _Block = _Block({"0": _conv(fine, middle, stride=2), "3": _pair(middle)})
        self.downc1: _Block = _Block({"0": _conv(middle, coarse, stride=2), "3": _pair(coarse)})
        self.upc2: _Block = _up(coarse, middle)
        self.upc1: _Block = _up(middle, fine)
        self.outc: _Block = _Block(
            {"0": _conv(fine, fine), "3": Conv2d(fine, channels, 3, padding=1)}
        )

    @property
    def last(self) -> Conv2d:
        """The convolution that predicts the noise."""
        return self.outc.convblock["3"]  # type: ignore[return-value]

    def forward(self, frames: Tensor, noise: Tensor) -> Tensor:
        """(N, 3 C, H, W) and (N, 1, H, W) to (N, C, H, W)."""
        split = frames.split(self.channels, 1)
        fine = self.inc(torch.cat([part for frame in split for part in (frame, noise)], 1))
        middle = self.downc0(fine)
        middle = middle + self.upc2(self.downc1(middle))
        return split[1] - self.outc(fine + self.upc1(middle))


class _Block(nn.Module):
    """Layers in a row, numbered as published: batch normalisation and ReLU have numbers too."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.convblock: nn.ModuleDict = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) through all layers."""
        for layer in self.convblock.values():
            x = layer(x)
        return x


def _conv(inputs: int, outputs: int, stride: int = 1) -> Conv2d:
    return Conv2d(inputs, outputs, 3, stride=stride, padding=1, activation="relu")


def _pair(width: int) -> _Block:
    return _Block({"0": _conv(width, width), "3": _conv(width, width)})


def _up(inputs: int, outputs: int) -> _Block:
    grown = Conv2d(inputs, 4 * outputs, 3, padding=1)
    return _Block({"0": _pair(inputs), "1": grown, "2": nn.PixelShuffle(2)})


@register_model
def fastdvdnet_color(**kwargs: Any) -> FastDVDnet:
    """FastDVDnet for colour video as published."""
    return FastDVDnet(**{"channels": 3, **kwargs})


@register_model
def fastdvdnet_gray(**kwargs: Any) -> FastDVDnet:
    """FastDVDnet for gray video, otherwise as published."""
    return FastDVDnet(**{"channels": 1, **kwargs})
