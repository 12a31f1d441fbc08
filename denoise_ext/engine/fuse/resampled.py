"""Convolutions between two levels of a U-Net, with the upsampling and the pooling beside them.

``upsample 2x -> concatenation -> convolution ... activation -> pooling 2x2``: an image that has
been upsampled exists nowhere, it is read from the coarse one; one only pooled is never written.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import OUT, Constants, Out, Step

aten: Any = torch.ops.aten
_ALGORITHMS = ("winograd2", "winograd4", "winograd6")
_POOLINGS = {
    aten.max_pool2d_with_indices.default: "max",
    aten.avg_pool2d.default: "average",
}
# A block's largest error is at most the root of the sum of its four squares: for all blocks, twice
# the root mean square.
_POOLED = 2.0


@dataclass(eq=False)
class ResampledSite(ConvSite):
    """A :class:`ConvSite` that reads ``coarse`` and ``fine`` instead of their concatenation.

    With ``pooling``, ``output`` is the pooled image; ``also`` has the full one if others read it.
    """

    coarse: Value | None = None  # upsampled 2x to the nearest
    fine: Value | None = None
    fine_first: bool = False  # in the concatenation
    pooling: str | None = None

    @property
    def splits(self) -> bool:
        """See :class:`Site`."""
        return True

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        images = [value for value in (self.coarse, self.fine) if value is not None]
        return images + ([self.residual] if self.residual is not None else [])

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return [name for name in self._algorithms() if name in _ALGORITHMS]

    def _out_step(
        self, algorithm: str, weight: Tensor, bias: Tensor | None, epilogue: tuple[Any, ...],
        constants: Constants,
    ) -> Step:  # fmt: skip
        turned = weight
        if self.fine_first:  # the operator reads the coarse image's channels first
            first = self._first_channels()
            turned = torch.cat((weight[:, first:], weight[:, :first]), 1)
        packed = self._packed(algorithm, turned, constants)
        out: Out | None
        if self.pooling is None:
            results, out, pooled = [self.output], OUT, None
        else:
            results, pooled = [self.output, *self.also], OUT
            out = Out(1) if self.also else None
        args = (
            self.coarse, self.fine, weight, packed, bias, self.border, *epilogue, self.residual,
            self.residual_position, self.pooling or "max", out, pooled,
        )  # fmt: skip
        function = torch.ops.denoise_ext.conv2d_resampled_out.default
        return Step(function, args, {}, results, any_layout=True)

    def _key(self) -> Any:
        """See :class:`ConvSite`: with the order of the channels that are packed."""
        key = super()._key()
        return key if key is None or not self.fine_first else (key, self._first_channels())

    def _first_channels(self) -> int:
        assert self.fine is not None  # with `fine_first`
        return self.fine.shape[1]

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`."""
        bound = super().error_bound(variant, env)
        return bound if self.pooling is None else _POOLED * bound


def fuse_resampling(
    graph: Graph, constants: Constants, sites: list[ConvSite], apart: Set[tuple[str, str]]
) -> list[ConvSite]:
    """Fuse upsampling and pooling into ``sites`` that allow it.

    ``apart`` names, by module and label, those that had better not.
    """
    outputs = graph.output_values()
    result = []
    for site in sites:
        new = _resampled(site, constants, outputs)
        result.append(site if new is None or (new.module, new.label) in apart else new)
    return result


def _resampled(
    site: ConvSite, constants: Constants, outputs: set[Value]
) -> ResampledSite | None:  # fmt: skip
    # With few channels the direct algorithm is better, which has no such form.
    if site.transposed or site.variants()[0] not in _ALGORITHMS or site.padding != (1, 1):
        return None
    parts = {f.name: getattr(site, f.name) for f in fields(site)}
    parts |= {"nodes": [*site.nodes], "before": [*site.before]}  # of its own: `site` stays
    new = ResampledSite(**parts, fine=site.input)
    upsampled = _fuse_upsampling(new, constants, outputs)
    pooled = _fuse_pooling(new, outputs)
    return new if upsampled or pooled else None


# --- upsampling -----------------------------------------------------------------------------------


def _fuse_upsampling(site: ResampledSite, constants: Constants, outputs: set[Value]) -> bool:
    node = _made_for_one(site.input, outputs)
    paddings = [padding.first for padding in site.before]
    if node is None or any(_made_for_one(value, outputs) is None for value in paddings):
        return False
    if node.op is not aten.cat.default:
        return _fuse_coarse(site, node, None, constants)
    parts = list(node.args[0])
    if len(parts) != 2 or node.argument("dim") not in (1, -3) or parts[0] is parts[1]:
        return False
    for coarse, fine in (parts, parts[::-1]):
        upsampling = _made_for_one(coarse, outputs)
        if upsampling is None or fine in constants or fine.dtype != coarse.dtype:
            continue
        # torch.cat takes empty tensors of one dimension, too.
        if len(fine.shape) != 4 or fine.shape[1] == 0:
            continue
        if _fuse_coarse(site, upsampling, fine, constants):
            site.fine_first = coarse is parts[1]
            site.before.insert(1, node)
            site.label = f"cat + {site.label}"
            return True
    return False


def _fuse_coarse(
    site: ResampledSite, node: Node, fine: Value | None, constants: Constants
) -> bool:  # fmt: skip
    if node.op is not aten.upsample_nearest2d.default or node.args[0] in constants:
        return False
    coarse, doubled = node.args[0], node.first.shape
    scales = (node.argument("scales_h"), node.argument("scales_w"))
    # A scale of 2.2 makes 8 pixels of 4, too, but not two of each.
    if any(scale not in (None, 2.0) for scale in scales) or coarse.numel() == 0:
        return False
    if doubled[2:] != (2 * coarse.shape[2], 2 * coarse.shape[3]):
        return False
    site.coarse, site.fine = coarse, fine
    site.before.insert(0, node)
    site.label = f"upsample + {site.label}"
    return True


def _made_for_one(value: Value, outputs: set[Value]) -> Node | None:
    """The operator that makes ``value``, if one operator is all that reads it."""
    if value in outputs or len(value.users) != 1:
        return None
    return value.producer


# --- pooling --------------------------------------------------------------------------------------


def _fuse_pooling(site: ResampledSite, outputs: set[Value]) -> bool:
    full = site.output
    pools = [node for node in full.users if _pools_by_two(node, outputs)]
    if full in outputs or len(pools) != 1 or min(full.shape[2:]) < 2:
        return False
    pool, rest = pools[0], [node for node in full.users if node is not pools[0]]
    if any(node.index < pool.index for node in rest):
        return False  # it would have to wait for the pooling
    site.pooling = _POOLINGS[pool.op]
    site.output, site.also = pool.first, [full] if rest else []
    site.nodes.append(pool)
    site.label += f" + {site.pooling} pool"
    return True


def _pools_by_two(node: Node, outputs: set[Value]) -> bool:
    if node.op not in _POOLINGS or node.argument("ceil_mode"):
        return False
    if any(value.users or value in outputs for value in node.results[1:] if value is not None):
        return False  # somebody reads the indices
    if _POOLINGS[node.op] == "max":
        plain = set(node.argument("dilation")) == {1}
    else:
        plain = node.argument("divisor_override") in (None, 4)
    stride = node.argument("stride") or node.argument("kernel_size")
    return (
        plain
        and set(node.argument("kernel_size")) == {2}
        and set(stride) == {2}
        and set(node.argument("padding")) == {0}
    )
