"""Convolutions followed by a pixel shuffle, and what follows that: see `shuffle`."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse import shuffle
from denoise_ext.engine.fuse.branches import Branch
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import OUT, Constants, Step
from denoise_ext.engine.fuse.match_conv import absorb_after_shuffle

aten: Any = torch.ops.aten
_ALGORITHMS = ("direct", "winograd2", "winograd4", "winograd6")


@dataclass(eq=False)
class ShuffledSite(ConvSite):
    """A :class:`ConvSite` whose ``output`` is the shuffled image."""

    factor: int = 1
    convolved: Value = field(kw_only=True)  # what would be shuffled

    @property
    def branch(self) -> Branch:
        """See :class:`ConvSite`."""
        return replace(super().branch, output=self.convolved)

    @property
    def splits(self) -> bool:
        """See :class:`Site`."""
        return True

    def variants(self) -> list[str]:
        """See :class:`Site`: those that write images of any strides."""
        return [name for name in self._algorithms() if name in _ALGORITHMS]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        weight, bias = self.folded(constants)
        own = self._key()
        parts: list[Tensor | None] = []
        for row in range(self.factor):
            channels = shuffle.channels_of(weight.shape[0], self.factor, row)
            of_row = weight[channels]
            key = ("packed", variant, own, "shuffled", self.factor, row)
            packed = constants.packed.get(key) if own is not None else None
            if packed is None:
                packed = torch.ops.denoise_ext.conv2d_pack(
                    of_row, variant, 1, "default", self.stride, self.padding, False
                )
                constants.packed[key] = packed
            of_bias = None if bias is None else bias[channels]
            parts += [of_row, packed, of_bias, self._slopes(channels, constants)]
        geometry = (self.stride, self.padding, self.dilation, 1, self.border)
        epilogue = (self.activation, self.negative_slope, self.residual_position)
        args = (
            self.input, self.factor, geometry, epilogue, self.residual, (variant, self.precision),
            OUT, *parts,
        )  # fmt: skip
        return Step(
            shuffle.convolve, args, {}, [self.output], any_layout=True, any_output=False
        )  # fmt: skip

    def _slopes(self, channels: Tensor, constants: Constants) -> Tensor | None:
        """Of PReLU before the shuffle, after it, or one for all."""
        if self.prelu_weight is None:
            return None
        slopes = constants[self.prelu_weight].reshape(-1)
        if slopes.numel() == self.convolved.shape[1]:
            return slopes[channels]
        return slopes if slopes.numel() == 1 else slopes.repeat(self.factor)


def fuse_shuffles(
    graph: Graph, constants: Constants, sites: list[ConvSite], apart: Set[tuple[str, str]]
) -> list[ConvSite]:
    """Fuse pixel shuffles into the ``sites`` before them; ``apart``: not into these."""
    outputs = graph.output_values()
    taken = {node for site in sites for node in site.nodes}
    result = []
    for site in sites:
        new = _shuffled(site, constants, outputs, taken)
        if new is not None and (new.module, new.label) not in apart:
            taken.update(new.nodes)
            site = new
        result.append(site)
    return result


def _shuffled(
    site: ConvSite, constants: Constants, outputs: set[Value], taken: set[Node]
) -> ShuffledSite | None:
    node = only_user(site.output, outputs)
    if node is None or node.op is not aten.pixel_shuffle.default or type(site) is not ConvSite:
        return None
    plain = not site.transposed and site.groups == 1 and site.stride == (1, 1)
    if not plain or site.residual is not None or site.weight.device.type != "cpu":
        return None
    if site.splits or node.first.numel() == 0:
        return None
    parts: dict[str, Any] = {f.name: getattr(site, f.name) for f in fields(site)}
    parts |= {
        "nodes": [*site.nodes, node], "before": [*site.before], "scales": [*site.scales],
        "output": node.first, "label": f"{site.label} + pixel shuffle",
    }  # fmt: skip
    new = ShuffledSite(**parts, factor=node.args[1], convolved=site.output)
    while (following := only_user(new.output, outputs)) is not None and following not in taken:
        if not absorb_after_shuffle(new, following, constants):
            break
        new.nodes.append(following)
        new.output = following.first
    if new.nodes[-1] is node:
        return None  # a convolution and a native shuffle are faster, where no pass is saved
    new.label += f" + {new.activation}" if new.activation != site.activation else ""
    new.label += " + residual" if new.residual is not None else ""
    return new
