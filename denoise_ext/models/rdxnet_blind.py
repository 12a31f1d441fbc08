"""RDXNet with an estimator of the noise level inside: blind, for the noise of cameras.

The estimator and the trunk are those of the blind DXNet (`dxnet_blind`). A map of the noise level
is estimated from each frame, from what it differs in from the last output, and from the last level.
The trunk takes the level that the average of frames still has. One frame alone is denoised as by
the blind DXNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models.dxnet_blind import (
    centre_first_filters,
    level_estimator,
)
from denoise_ext.models.initialise import initialise_layers
from denoise_ext.models.network import Geometry, Port, Signature, Tensors
from denoise_ext.models.rdxnet import RDXNet
from denoise_ext.models.registry import register_architecture, register_model

_BLOCK = 8  # pixels; single values of the estimate are noisy, means over blocks are not
_LEAST_LEVEL = 1e-4  # in units of white


@register_architecture("rdxnet_blind")
class RDXNetBlind(RDXNet):
    """RDXNet that estimates a map of the noise level itself; takes no sigma.

    Input: ``image`` (N, channels, H, W), nominally in [0, 1]. Outputs: ``image``, and
    ``noise_level``, the estimate, (N, 1, H / 8, W / 8). State: RDXNet's, and ``level``, the last
    estimate.

    Args:
        channels, widths, blocks, look_ahead: as of `RDXNet`.
        estimator_width, estimator_depth: as of `DXNetBlind`.
    """

    family = "rdxnet_blind"

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (64, 80),
        blocks: Sequence[int] = (2, 5),
        look_ahead: bool = False,
        estimator_width: int = 48,
        estimator_depth: int = 6,
    ) -> None:
        super().__init__(channels, widths, blocks, 2, look_ahead)
        level = Port(1, scale=Fraction(1, _BLOCK))
        state = {**self.signature.state, "level": level}
        self.signature: Signature = Signature(
            {"image": Port(channels)}, {"image": Port(channels), "noise_level": level}, state
        )
        # the frame, what it differs in from the last output, and the last level
        self.estimator: nn.Sequential = level_estimator(
            4 * 2 * channels + 1, estimator_width, estimator_depth
        )
        self.estimator_width: int = estimator_width
        self.estimator_depth: int = estimator_depth
        smoothing = self.smooth.kernel_size[0] // 2 * _BLOCK + _BLOCK - 1
        # a 3x3 at half the resolution, the others at a quarter, and 4x4 pixels of a quarter
        self.geometry: Geometry | str | None = self._stated_geometry(
            2 + 4 * (estimator_depth - 3) + 3 + smoothing
        )

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        config = {**super().config, "estimator_width": self.estimator_width}
        for fixed in ("unshuffle", "bypass"):  # 2, the resolution of the estimated level; none
            del config[fixed]
        return {**config, "estimator_depth": self.estimator_depth}

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See `Network.compute`."""
        outputs, state = super().compute(inputs, state)
        return {**outputs, "noise_level": state["level"]}, state

    def block_level(self, inputs: Tensors, state: Tensors) -> Tensor:
        """See `RDXNet.block_level`; that of the last frame."""
        return state["level"]

    def levels(
        self, frame: Tensor, past: Tensor, inputs: Tensors, state: Tensors
    ) -> tuple[Tensor, Tensor, Tensors]:
        """See `RDXNet.levels`; estimated. The estimate's detail is for the trunk alone."""
        known = past[:, -1:] != 0
        change = torch.where(known, frame - past[:, : self.in_channels], 0.0)
        shown = [F.pixel_unshuffle(x, 2) for x in (frame, change)]
        before = F.interpolate(state["level"], scale_factor=_BLOCK / 2)
        estimate = self.estimator(torch.cat([*shown, before], 1)).abs()  # (N, 1, H / 2, W / 2)
        blocks = self.smooth(F.avg_pool2d(estimate, _BLOCK // 2)).clamp(min=_LEAST_LEVEL)
        level = F.interpolate(blocks, scale_factor=float(_BLOCK))
        return level, F.interpolate(estimate, scale_factor=2.0) / level, {"level": blocks}

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As of `RDXNet`. The estimator's first answer is about the size of noise."""
        super().initialise(generator)
        initialise_layers(self.estimator, generator)
        centre_first_filters(self.estimator)


@register_model
def rdxnet_m_photo(**kwargs: Any) -> RDXNetBlind:
    """Blind colour RDXNet for video: the estimator and the trunk of `dxnet_s_photo`."""
    return RDXNetBlind(**{"channels": 3, "widths": (64, 80), "blocks": (2, 5), **kwargs})
