"""DXNet with an estimator of the noise level inside: blind, for noise that nobody has measured.

The noise of a camera's JPEG is correlated and differs from place to place: no single level
describes it. A few convolutions at half the resolution estimate a map of levels from the image, and
DXNet takes this map instead of a given one. The estimator has no biases either, so the whole stays
homogeneous: f(a x) = a f(x) for a > 0. An estimator in front of a non-blind network: Guo, Yan,
Zhang, Zuo, Zhang: "Toward Convolutional Blind Denoising of Real Photographs" (CBDNet), CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models.dxnet import DXNet
from denoise_ext.models.image_denoiser import MAX_LAYERS, check_positive_int
from denoise_ext.models.network import Port, Signature, Tensors
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d, ConvTranspose2d

MAX_NOISE_SCALE = 2.0


@register_architecture("dxnet_blind")
class DXNetBlind(DXNet):
    """DXNet that estimates a map of the noise level itself; takes no sigma.

    ``network.noise_scale`` (0 to 2, 1.0 by default) multiplies the estimate: below 1 noise is left
    in, above 1 more is taken for noise. It is a setting, not a weight: no checkpoint holds it.

    Args:
        channels, widths, blocks: as of `DXNet`.
        estimator_width: channels of the estimator's hidden layers.
        estimator_depth: convolutions of the estimator, >= 3: the first at half the resolution, one
            of 2x2 and stride 2, others at a quarter, one transposed back.
    """

    family = "dxnet_blind"

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (64, 80),
        blocks: Sequence[int] = (2, 5),
        estimator_width: int = 48,
        estimator_depth: int = 6,
    ) -> None:
        super().__init__(channels, widths, blocks)
        self.needs_sigma = False
        outputs = {"image": Port(channels), "noise_level": Port(1, scale=Fraction(1, 2))}
        self.signature: Signature = Signature({"image": Port(channels)}, outputs)
        self.estimator: nn.Sequential = level_estimator(
            4 * channels, estimator_width, estimator_depth
        )
        self.estimator_width: int = estimator_width
        self.estimator_depth: int = estimator_depth
        self.stride: int = max(self.stride, 4)
        self._noise_scale = 1.0

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        return {
            **super().config,
            "estimator_width": self.estimator_width,
            "estimator_depth": self.estimator_depth,
        }

    @property
    def noise_scale(self) -> float:
        """Factor on the estimated level, 0 to 2."""
        return self._noise_scale

    @noise_scale.setter
    def noise_scale(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"noise_scale must be a number, got {value!r}")
        if not 0 <= value <= MAX_NOISE_SCALE:  # NaN too
            raise ValueError(f"noise_scale must be in [0, {MAX_NOISE_SCALE:g}], got {value}")
        self._noise_scale = float(value)

    def noise_level(self, x: Tensor) -> Tensor:
        """The estimated standard deviation of the noise, in units of x: (N, 1, H/2, W/2), >= 0."""
        return self.estimator(F.pixel_unshuffle(x, 2)).abs()

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Image and estimate, the latter not scaled.

        For training, ``inputs`` may hold ``noise_scale``, (N, 1, 1, 1), in place of the setting.
        """
        level = self.noise_level(inputs["image"])
        scale = inputs.get("noise_scale", self.noise_scale)
        scaled = level if isinstance(scale, float) and scale == 1.0 else level * scale
        return {"image": super().denoise(inputs["image"], scaled), "noise_level": level}, state

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """See :meth:`ImageDenoiser.denoise`; ``noise_map`` is not looked at."""
        return self.compute({"image": x}, {})[0]["image"]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As of `DXNet`. The estimator's first answer is about the size of noise."""
        super().initialise(generator)
        centre_first_filters(self.estimator)


def level_estimator(channels: int, width: int, depth: int) -> nn.Sequential:
    """Convolutions without biases, (N, channels, H, W) to (N, 1, H, W), H and W even.

    Args:
        channels: of the input.
        width: channels of the hidden layers.
        depth: convolutions, >= 3; see `DXNetBlind`.

    Raises:
        TypeError, ValueError: not whole numbers, or out of range.
    """
    check_positive_int("estimator_width", width)
    check_positive_int("estimator_depth", depth, 3, MAX_LAYERS)
    coarse = [
        Conv2d(width, width, 3, padding=1, bias=False, activation="relu") for _ in range(depth - 3)
    ]
    return nn.Sequential(
        Conv2d(channels, width, 3, padding=1, bias=False, activation="relu"),
        Conv2d(width, width, 2, stride=2, bias=False, activation="relu"),
        *coarse,
        ConvTranspose2d(width, 1, 2, stride=2, bias=False),
    )


@torch.no_grad()
def centre_first_filters(estimator: nn.Sequential) -> None:
    """The first filters see no constant, so the first answer has the size of the finest details."""
    first = cast("nn.Conv2d", estimator[0]).weight
    first.sub_(first.mean(dim=(1, 2, 3), keepdim=True))


@register_model
def dxnet_s_photo(**kwargs: Any) -> DXNetBlind:
    """Blind colour DXNet for photographs: `dxnet_s_color` and an estimator of the noise level."""
    return DXNetBlind(**{"channels": 3, "widths": (64, 80), "blocks": (2, 5), **kwargs})
