"""Guided DXNet with a second task: the normals of the surface that a depth map shows.

One trunk has two heads, the depth without noise and the normals. Edges of depth and bends of a
surface are found once for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F

from denoise_ext._choices import check_bool
from denoise_ext.models.dxnet_guided import DXNetGuided
from denoise_ext.models.network import Port, Signature, Tensors
from denoise_ext.models.registry import register_architecture, register_model
from denoise_ext.nn import Conv2d


@register_architecture("dxnet_normals")
class DXNetNormals(DXNetGuided):
    """Guided DXNet whose outputs are ``image`` and ``normals`` (N, 3, H, W), or these alone.

    Normals are not of length 1. They are those of `metrics.surface_normals`.

    Args:
        guide_channels, guide_width, widths, blocks: as of `DXNetGuided`.
        image: False: there is no output ``image``, as in networks for one task.
    """

    family = "dxnet_normals"

    def __init__(
        self,
        guide_channels: int = 3,
        guide_width: int = 32,
        widths: Sequence[int] = (64, 80),
        blocks: Sequence[int] = (2, 3),
        image: bool = True,
    ) -> None:
        super().__init__(1, guide_channels, guide_width, widths, blocks)
        self.gives_image: bool = check_bool("image", image)
        self.normals: Conv2d = Conv2d(self.widths[0], 4 * 3, 3, padding=1, bias=False)
        outputs = {"normals": Port(3)}
        if image:
            outputs = {"image": Port(1), **outputs}
        else:
            del self.tail
        self.signature: Signature = Signature(self.signature.inputs, outputs)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds this network."""
        facts = super().config
        del facts["channels"]
        return {**facts, "image": self.gives_image}

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        features = self.features(inputs)
        made = {"normals": F.pixel_shuffle(self.normals(features), 2)}
        if self.gives_image:
            made["image"] = inputs["image"] - F.pixel_shuffle(self.tail(features), 2)
        return made, state


@register_model
def dxnet_s_normals(**kwargs: Any) -> DXNetNormals:
    """Small guided DXNet for depth and surface normals: two levels of 64 and 80 channels."""
    return DXNetNormals(**{"widths": (64, 80), "blocks": (2, 3), **kwargs})
