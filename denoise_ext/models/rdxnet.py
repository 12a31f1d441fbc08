"""RDXNet: a recurrent DXNet that denoises video, one frame after the other.

* A frame is first averaged with what earlier frames left, then denoised. A small gate predicts from
  the difference of both, in units of the noise, how much of the past each pixel takes. The trunk
  that follows is conditioned on the noise that the average still has. The order is that of EMVD
  (Maggioni, Huang, Li, Xiao, Fu, Song: "Efficient Multi-Stage Video Denoising with Recurrent
  Spatio-Temporal Fusion", CVPR 2021).
* The past is moved to where it is now by block matching of the last output with the frame.
* The state is one tensor: the last output, the last average and the noise level of the average.
  Zeros mean that nothing is known, so a sequence begins with zeros.
* With ``look_ahead`` the trunk also takes the next frame, moved to this one by block matching. The
  frame that waits for its next one is part of the state, and results are a frame late.
* The trunk is DXNet's: bias-free, f(a x, a sigma) = a f(x, sigma). The gate looks at ratios alone.
* The trunk's output is the noise of the average. Noise of more dimensions than the trunk has
  features would stay. With ``bypass`` the average goes through a 1x1 convolution before the noise
  is subtracted. It keeps what films have: all of brightness, and colour at half the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext._choices import check_bool
from denoise_ext.models.image_denoiser import MAX_UNSHUFFLE, check_positive_int
from denoise_ext.models.network import Geometry, Network, Port, Signature, Tensors
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.models.residual_u_net import ResidualUNet
from denoise_ext.nn import BlockMatch, BlockWarp, Conv2d, GaussianBlur2d, RecurrentFuse

_BLOCK = 8  # of block matching, in pixels
_GATE_SIDE = 4  # pixels beside one another that are channels of the gate
_GATE_WIDTHS = {1: 16, 3: 32}  # hidden channels, by channels of the image
_GATE_BIAS = -1.0  # before training a pixel takes a quarter of the past
_LARGEST_RATIO = 16.0  # of a difference to the noise: anything beyond is motion
_LEAST_LEVEL = 1e-4  # of the noise, in units of white, where ratios are formed
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Differences of colours, red to blue and green to both. White noise keeps its level in them.
_OPPONENT = ((0.5**0.5, 0.0, -(0.5**0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
# How far a block's motion depends on pixels: +-19 for the vector, 4 for the window, 7 in the block;
# and the vector moves the state by 19.
_MATCH_REACH = 19 + 4 + 7


@register_architecture("rdxnet")
class RDXNet(Network):
    """Recurrent DXNet for gray (``channels=1``) or colour (``channels=3``) video; needs sigma.

    Inputs: ``image`` (N, channels, H, W), nominally in [0, 1], and ``noise_map``, sigma / 255.
    Output: ``image``. State: ``past`` (N, 2 channels + 1, H, W); with ``look_ahead`` also
    ``waiting`` (N, channels + 1, H, W), the last frame and whether there is one.

    Args:
        channels: image channels.
        widths: channels of the levels, the finest first.
        blocks: residual blocks of each level: on the way down and again on the way up for all but
            the coarsest.
        unshuffle: side of the squares of pixels that are channels of the finest level.
        look_ahead: take the next frame, too; `delay` is 1 then.
        bypass: a 1x1 convolution of the unshuffled average, from which the noise is subtracted.
    """

    match: BlockMatch
    warp: BlockWarp
    fuse: RecurrentFuse

    family = "rdxnet"

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (1, 1, 2),
        unshuffle: int = 2,
        look_ahead: bool = False,
        bypass: bool = False,
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels!r}")
        self.in_channels = channels
        self.unshuffle: int = check_positive_int("unshuffle", unshuffle, maximum=MAX_UNSHUFFLE)
        self.look_ahead: bool = check_bool("look_ahead", look_ahead)
        self.delay: int = int(self.look_ahead)
        state = {"past": Port(2 * channels + 1)}
        if self.look_ahead:
            state["waiting"] = Port(channels + 1)
        self.signature: Signature = Signature(
            {"image": Port(channels), "noise_map": Port(1, kind="condition")},
            {"image": Port(channels)},
            state,
        )
        sub = self.unshuffle**2
        seen = (3 + self.delay) * channels + 1  # by the trunk, for each pixel
        self.trunk: _Trunk = _Trunk(sub * seen, sub * channels, widths, blocks)
        self.bypass: Conv2d | None = None
        if check_bool("bypass", bypass):
            self.bypass = Conv2d(sub * channels, sub * channels, 1, bias=False)
        side, width = _GATE_SIDE**2, _GATE_WIDTHS[channels]
        self.gate: nn.Sequential = nn.Sequential(
            Conv2d(2 * channels * side + 1, width, 3, padding=1, activation="relu"),
            Conv2d(width, side, 3, padding=1, activation="sigmoid"),
        )
        self.match, self.warp, self.fuse = BlockMatch(), BlockWarp(), RecurrentFuse()
        self.smooth: GaussianBlur2d = GaussianBlur2d(5, 1.2, border_type="replicate")
        coarsest = self.unshuffle * 2 ** (len(self.trunk.widths) - 1)
        self.stride: int = lcm(_BLOCK, coarsest)
        self.geometry: Geometry | str | None = self._stated_geometry()

    def _stated_geometry(self, level_radius: int = 0) -> Geometry:
        """``level_radius``: how far from its own place the level of the noise reads its inputs."""
        radius = _MATCH_REACH + level_radius + self._gate_radius() + self._trunk_radius()
        return Geometry(self.stride + 2 * radius, radius, self.stride, ())

    def _gate_radius(self) -> int:
        """Two 3x3 convolutions at a quarter of the resolution, and the smoothing before."""
        return 2 * _GATE_SIDE + (_GATE_SIDE - 1) + self.smooth.kernel_size[0] // 2

    def _trunk_radius(self) -> int:
        """Convolutions of 3x3 of all levels, and what lies in a pixel of the coarsest one."""
        radius = 2 * self.unshuffle  # head and tail
        for level, count in enumerate(self.trunk.blocks):
            ways = 1 if level == len(self.trunk.blocks) - 1 else 2
            radius += 2 * ways * count * self.unshuffle * 2**level
        return radius + self.unshuffle * 2 ** (len(self.trunk.blocks) - 1) - 1

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            "family": self.family,
            "channels": self.in_channels,
            "widths": self.trunk.widths,
            "blocks": self.trunk.blocks,
            "unshuffle": self.unshuffle,
            "look_ahead": self.look_ahead,
            "bypass": self.bypass is not None,
        }

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        frame, following = inputs["image"], None
        if self.look_ahead:
            waiting, following = state["waiting"], frame
            frame, known = waiting[:, : self.in_channels], waiting[:, self.in_channels :]
        outputs, after = self._denoised(frame, inputs, state, following)
        if following is None:
            return outputs, after
        waiting = torch.cat([following, torch.ones_like(following[:, :1])], 1)
        # Where no frame has waited, nothing is known afterwards, either.
        past = after["past"] * known
        return outputs, {**after, "past": past, "waiting": waiting}

    def block_level(self, inputs: Tensors, state: Tensors) -> Tensor:
        """The level of a frame's noise, in its units, for block matching.

        (N, 1, H / 8, W / 8), or of 1 for all places.
        """
        noise = inputs["noise_map"]
        return noise if noise.shape[-2:] == (1, 1) else F.avg_pool2d(noise, _BLOCK)

    def levels(
        self, frame: Tensor, past: Tensor, inputs: Tensors, state: Tensors
    ) -> tuple[Tensor, Tensor | None, Tensors]:
        """The level of a frame's noise, (N, 1, H, W) or of 1 for all places, in the frame's units.

        The second one (N, 1, H, W), if any, is a factor on the level that the trunk takes. The
        third one is more to keep for the next frame. ``past`` is where the frame is.
        """
        return inputs["noise_map"], None, {}

    def _denoised(
        self, image: Tensor, inputs: Tensors, state: Tensors, following: Tensor | None
    ) -> tuple[Tensors, Tensors]:
        """The outputs of a frame (N, C, H, W), and the state after it."""
        channels = self.in_channels
        luma, past = _luma(image), state["past"]
        sigma = 255.0 * self.block_level(inputs, state) * _luma_noise(channels)
        past = self.warp(past, self.match(luma, _luma(past[:, :channels]), sigma))
        noise, detail, kept = self.levels(image, past, inputs, state)
        weight = self.gate(self._differences(image, noise, past))
        fused = self.fuse(image, past, weight, noise)  # (N, 2 C + 1, H, W)
        shown = [fused, image]
        if detail is not None:
            shown[:1] = [fused[:, : 2 * channels], fused[:, 2 * channels :] * detail]
        if following is not None:
            motion = self.match(luma, _luma(following), sigma)
            shown.append(self.warp(following, motion))
        # Apart, not after a concatenation: each can then be written where the trunk reads it.
        side, average = self.unshuffle, fused[:, channels : 2 * channels]
        residual = self.trunk(torch.cat([F.pixel_unshuffle(x, side) for x in shown], 1))
        if self.bypass is None:
            clean = average - F.pixel_shuffle(residual, side)
        else:
            clean = F.pixel_shuffle(self.bypass(F.pixel_unshuffle(average, side)) - residual, side)
        return {"image": clean}, {"past": torch.cat([clean, fused[:, channels:]], 1), **kept}

    def _differences(self, image: Tensor, noise: Tensor, past: Tensor) -> Tensor:
        """The gate's input, (N, 32 C + 1, H / 4, W / 4): ratios to the noise.

        How much the frame differs from the last output and from the last average, smoothed, in
        brightness and in the differences of colours; and the noise of the average.
        """
        channels = self.in_channels
        last, fused = past[:, :channels], past[:, channels : 2 * channels]
        planes = [image - last, image - fused]
        if channels == 3:
            planes = [plane for x in planes for plane in _opponents(x)]
        scale = 1.0 / noise.clamp(min=_LEAST_LEVEL)
        ratio = (self.smooth(torch.cat(planes, 1)).abs() * scale).clamp(max=_LARGEST_RATIO)
        level = past[:, 2 * channels :] * scale
        level = F.avg_pool2d(level.clamp(max=_LARGEST_RATIO), _GATE_SIDE)
        return torch.cat([F.pixel_unshuffle(ratio, _GATE_SIDE), level], 1)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Random weights to train from; before training a quarter of the past is taken."""
        self.trunk.initialise_levels(generator)
        if self.bypass is not None:
            nn.init.dirac_(self.bypass.weight)
        first, last = (cast("Conv2d", layer) for layer in self.gate)
        assert first.bias is not None and last.bias is not None
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu", generator=generator)
        nn.init.kaiming_normal_(last.weight, nonlinearity="linear", generator=generator)
        last.weight.mul_(0.1)
        first.bias.zero_()
        last.bias.fill_(_GATE_BIAS)


class _Trunk(ResidualUNet):
    """The U-Net that denoises the average."""

    def __init__(
        self, in_channels: int, out_channels: int, widths: Sequence[int], blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.add_levels(in_channels, out_channels, widths, blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the noise that is left in the average."""
        return self.run_levels(x)


def _luma(image: Tensor) -> Tensor:
    """(N, C, H, W) to (N, 1, H, W)."""
    if image.shape[1] == 1:
        return image
    red, green, blue = image.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def _opponents(image: Tensor) -> list[Tensor]:
    """(N, 3, H, W) to three planes (N, 1, H, W): brightness, and two differences of colours.

    White noise has the same level in all of them.
    """
    level = _luma_noise(3)
    rows = (tuple(weight / level for weight in _LUMA), *_OPPONENT)
    red, green, blue = image.split(1, 1)
    return [a * red + b * green + c * blue for a, b, c in rows]


def _luma_noise(channels: int) -> float:
    """The noise of luma, for noise of 1 in each channel."""
    return 1.0 if channels == 1 else sum(weight**2 for weight in _LUMA) ** 0.5


@register_model
def rdxnet_s_gray(**kwargs: Any) -> RDXNet:
    """Small gray RDXNet for video: DXNet's trunk of three thin levels."""
    defaults = {"channels": 1, "widths": (16, 32, 64), "blocks": (1, 1, 2), "unshuffle": 2}
    return RDXNet(**{**defaults, **kwargs})


@register_model
def rdxnet_s_color(**kwargs: Any) -> RDXNet:
    """Small colour RDXNet for video: DXNet's trunk of three thin levels."""
    defaults = {"channels": 3, "widths": (16, 32, 64), "blocks": (1, 1, 2), "unshuffle": 2}
    return RDXNet(**{**defaults, **kwargs})


@register_model
def rdxnet_xs_gray(**kwargs: Any) -> RDXNet:
    """Gray RDXNet for large video in real time: two levels, a quarter of the resolution first."""
    defaults = {"channels": 1, "widths": (32, 48), "blocks": (1, 2), "unshuffle": 4}
    return RDXNet(**{**defaults, **kwargs})


@register_model
def rdxnet_xs_color(**kwargs: Any) -> RDXNet:
    """Colour RDXNet for large video in real time: two levels, a quarter of the resolution first.

    48 values of a square of pixels from 32 features: the average has a bypass.
    """
    defaults = {
        "channels": 3, "widths": (32, 48), "blocks": (1, 2), "unshuffle": 4, "bypass": True,
    }  # fmt: skip
    return RDXNet(**{**defaults, **kwargs})
