"""Divides a graph into sites that the engine has operators for, and what is left as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_ext.engine.graph import Graph, Node, Value
from denoise_ext.engine.match_conv import find_convolutions
from denoise_ext.engine.steps import OUT, Constants, Site, Step

aten = torch.ops.aten

# The same operators, writing into given memory of any strides.
_OUT_VARIANTS = {
    aten.sigmoid.default: aten.sigmoid.out,
    aten.tanh.default: aten.tanh.out,
    aten.leaky_relu.default: aten.leaky_relu.out,
    aten.silu.default: aten.silu.out,
    aten.gelu.default: aten.gelu.out,
    aten.add.Tensor: aten.add.out,
    aten.sub.Tensor: aten.sub.out,
    aten.mul.Tensor: aten.mul.out,
    aten.upsample_nearest2d.default: aten.upsample_nearest2d.out,
    aten.upsample_bilinear2d.default: aten.upsample_bilinear2d.out,
    aten.avg_pool2d.default: aten.avg_pool2d.out,
}


@dataclass(eq=False)
class PlannedSite(Site):
    """PyTorch's own operator, writing into the plan's memory."""

    replaces = False

    inputs: list[Value]
    function: Callable
    args: tuple
    kwargs: dict

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return self.inputs

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["planned memory"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        kwargs = {**self.kwargs, "out": OUT}
        return Step(self.function, self.args, kwargs, [self.output], any_layout=True)

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> None:
        """See :class:`Site`: the same operator."""


@dataclass(eq=False)
class ConcatSite(Site):
    """Channels put side by side; what can be is written there in the first place."""

    replaces = False

    inputs: list[Value]

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return self.inputs

    def variants(self) -> list[str]:
        """See :class:`Site`: none of its own."""
        return []


def find_sites(graph: Graph, constants: Constants, precision: str) -> list[Site]:
    """The sites of ``graph``, none overlapping another."""
    sites: list[Site] = list(find_convolutions(graph, constants, precision))
    taken = {node for site in sites for node in site.nodes}
    for node in graph.nodes:
        if node in taken or any(value in constants for value in node.results):
            continue
        site = _concat(node) or _planned(node, constants)
        if site is not None:
            sites.append(site)
    return sorted(sites, key=lambda site: site.nodes[-1].index)


def _concat(node: Node) -> ConcatSite | None:
    output = node.results[0]
    if node.op is not aten.cat.default or node.argument("dim") not in (1, -3):
        return None
    inputs = node.args[0]
    if len(output.shape) != 4 or any(
        len(v.shape) != 4 or v.dtype != output.dtype or v.numel() == 0 for v in inputs
    ):
        return None
    return ConcatSite([node], output, [], f"cat of {len(inputs)}", "", list(inputs))


def _planned(node: Node, constants: Constants) -> PlannedSite | None:
    function, args = _OUT_VARIANTS.get(node.op), node.args
    if node.op is aten.relu.default:  # which has none
        function, args = aten.clamp_min.out, (*node.args, 0)
    output = node.results[0]
    if function is None or len(output.shape) != 4 or output.numel() == 0:
        return None
    inputs = list(node.inputs())
    if any(v.dtype != output.dtype or not v.dtype.is_floating_point for v in inputs):
        return None
    name = node.op._schema.name.partition("::")[2]
    return PlannedSite([node], output, [], name, "", inputs, function, args, node.kwargs)
