"""Convolutions whose halves of channels are multiplied: see `gate`."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse import gate
from denoise_ext.engine.fuse.activations import STEEPEST, activation_of
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import OUT, Constants, Site, Step, rms

aten: Any = torch.ops.aten
# Of the operator: those of a few instructions would need code of their own.
_GATES = frozenset({
    "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "hardswish", "hardsigmoid", "relu6",
})  # fmt: skip
_HALVING = (aten.split.Tensor, aten.split_with_sizes.default, aten.slice.Tensor)
_FEWEST_CHANNELS = 16  # of a half, depthwise: a vector
_FEWEST_FILTERS = 5  # of a half: fewer have another kernel, which has no gate


@dataclass(eq=False)
class GatedSite(Site):
    """A convolution, and the product of its halves."""

    conv: ConvSite
    halves: tuple[Value, Value]
    function: str  # of the gate
    gated_first: bool  # the activation is the first half's
    activation: Node | None

    @property
    def splits(self) -> bool:
        """See :class:`Site`."""
        return True

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return self.conv.reads()

    def variants(self) -> list[str]:
        """See :class:`Site`: without "gated", the product is a pass of its own."""
        return ["gated", *(["onednn"] if "onednn" in self.conv.variants() else [])]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        if variant == "onednn":
            step = self.conv.step(variant, constants)
            args = (self.activation, self.gated_first, OUT, *step.args)
            return Step(gate.multiply_afterwards, args, {}, [self.output])
        weight, bias = self.conv.folded(constants)
        parts = [
            part for half in (int(self.gated_first), int(not self.gated_first))
            for part in self._half(weight, bias, half, constants)
        ]  # fmt: skip
        geometry = (self.conv.stride, self.conv.padding, self.conv.dilation)
        args = (self.conv.input, self.gated_first, self.function, geometry, OUT, *parts)
        return Step(gate.convolve, args, {}, [self.output], any_layout=True)

    def _half(
        self, weight: Tensor, bias: Tensor | None, half: int, constants: Constants
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Weight, packed weight and bias of one half."""
        own = weight.chunk(2)[half]
        packed = None
        if self.conv.groups == 1:
            key = ("packed", "direct", self.conv.branch.key(), f"half {half}")
            packed = constants.packed.get(key) if key[2] is not None else None
            if packed is None:
                packed = constants.packed[key] = torch.ops.denoise_ext.conv2d_pack(own, "direct")
        return own, packed, None if bias is None else bias.chunk(2)[half]

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`.

        Each half's error times the other half, of the channel where that is largest: then it does
        not matter which channel the errors are in.
        """
        error = self.conv.error_bound("direct", env)
        left, right = (
            float(env(half).double().square().mean((0, 2, 3)).max()) ** 0.5 for half in self.halves
        )
        error *= STEEPEST.get(self.function, 1.0) * (left + right)
        return error + 4 * torch.finfo(self.output.dtype).eps * rms(env(self.output))


def fuse_gates(
    graph: Graph, sites: list[ConvSite], apart: Set[tuple[str, str]]
) -> list[ConvSite | GatedSite]:
    """Fuse products of halves into the ``sites`` before them; ``apart``: not into these."""
    outputs = graph.output_values()
    result: list[ConvSite | GatedSite] = []
    for site in sites:
        new = _gated(site, outputs) if _fits(site) else None
        result.append(site if new is None or (new.module, new.label) in apart else new)
    return result


def _fits(site: ConvSite) -> bool:
    filters, channels = site.weight.shape[:2]
    if type(site) is not ConvSite or site.transposed or site.border != "constant":
        return False
    if site.activation != "none" or site.residual is not None or filters % 2:
        return False
    if site.weight.device.type != "cpu" or site.weight.dtype not in (torch.float32, torch.float64):
        return False
    if site.groups > 1:
        depthwise = site.groups == site.input.shape[1] == filters and channels == 1
        return depthwise and filters // 2 >= _FEWEST_CHANNELS
    # Larger kernels have Winograd's algorithm, which saves more.
    return set(site.weight.shape[2:]) == {1} and filters // 2 >= _FEWEST_FILTERS


def _gated(site: ConvSite, outputs: set[Value]) -> GatedSite | None:
    found = _halves(site.output, outputs)
    if found is None:
        return None
    halves, nodes = found
    users = [only_user(half, outputs) for half in halves]
    for first in (False, True):
        last, other = users[not first], users[first]
        if last is None or other is None:
            return None
        known, activation, name = activation_of(last), None, "none"
        if known is not None and known[0] in _GATES:
            name, activation = known[0], last
            last = only_user(activation.first, outputs)
        if (
            last is None
            or last is not other
            or last.op is not aten.mul.Tensor
            or last.first.shape != halves[0].shape
        ):
            continue
        nodes = [*site.nodes, *nodes, *([] if activation is None else [activation]), last]
        label = f"{site.label} + {'' if activation is None else name + ' '}gate"
        return GatedSite(
            nodes, last.first, [*site.before], label, site.module, site, halves, name, first,
            activation,
        )  # fmt: skip
    return None


def _halves(
    value: Value, outputs: set[Value]
) -> tuple[tuple[Value, Value], list[Node]] | None:  # fmt: skip
    """Both halves of the channels of ``value``, if nothing else reads it, and what makes them."""
    nodes = list(dict.fromkeys(value.users))
    half = value.shape[1] // 2
    if value in outputs or any(node.op not in _HALVING for node in nodes):
        return None
    if any(node.argument("dim") not in (1, -3) for node in nodes):
        return None
    if len(nodes) == 1 and nodes[0].op is not aten.slice.Tensor:
        made = [v for v in nodes[0].results if v is not None]
        alike = [v.shape[1] for v in made] == [half, half]
        return ((made[0], made[1]), nodes) if alike else None
    begins = {node.argument("start") or 0: node for node in nodes if node.op is aten.slice.Tensor}
    if len(nodes) != 2 or set(begins) not in ({0, half}, {0, -half}):
        return None
    first, second = begins.pop(0).first, begins.popitem()[1].first
    alike = first.shape[1] == second.shape[1] == half and all(
        node.argument("step") == 1 for node in nodes
    )
    return ((first, second), nodes) if alike else None
