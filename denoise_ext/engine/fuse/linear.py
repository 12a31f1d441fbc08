"""Linear layers on the CPU, with what follows them: one call of oneDNN on weights packed once.

``x W + b -> factors of channels -> activation or + residual``.  PyTorch packs W at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse.activations import STEEPEST, activation_of
from denoise_ext.engine.fuse.ir import Constants, Site, Step, rms
from denoise_ext.engine.fuse.norm import per_channel
from denoise_ext.engine.fuse.onednn import ACTIVATIONS, LINEAR_PLUS, PACK_LINEAR, multiply

aten: Any = torch.ops.aten
_WALK = 4.0  # rounding errors of a sum grow like a random walk (conv.py); both sides round
_VIEWS = (aten.view.default, aten._unsafe_view.default)
_SHOWS = (*_VIEWS, aten.t.default, aten.unsqueeze.default)


@dataclass(eq=False)
class LinearSite(Site):
    """A product of rows (n, C) and a constant matrix (C, K)."""

    input: Value
    weight: Value
    bias: Value | None
    shape: tuple[int, ...]  # of the result, K last
    order: tuple[int, ...]  # of the dimensions of ``shape`` in the output
    factors: Value | None = None
    activation: str = "none"
    residual: Value | None = None

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return [self.input] + ([] if self.residual is None else [self.residual])

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["packed"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        packed, bias = self._packed(constants)
        args = (
            self.input, packed, bias, self.activation, self.residual, self.shape, self.order,
        )  # fmt: skip
        return Step(_linear, args, {}, [self.output])

    def _packed(self, constants: Constants) -> tuple[Tensor, Tensor | None]:
        """The weight as oneDNN reads it and the bias, both times the factors."""
        bias = None if self.bias is None else constants[self.bias].reshape(-1)
        factors = None
        if self.factors is not None:
            factors = constants[self.factors].double().reshape(-1)
            bias = None if bias is None else (bias.double() * factors).to(bias.dtype)
        own = _key(self.weight, self.factors)
        packed = constants.packed.get(("packed", "linear", own)) if own is not None else None
        if packed is None:
            weight = constants[self.weight].t().contiguous()  # (K, C)
            if factors is not None:
                weight = (weight.double() * factors[:, None]).to(weight.dtype)
            packed = PACK_LINEAR(weight, self.input.shape[0])
            constants.packed["packed", "linear", own] = packed
        return packed, bias

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`.

        ``4 eps sqrt(C) rms(sum's terms, bias, result, what is added)``, as of convolutions.
        """
        x, weight = env(self.input).double(), env(self.weight).double()
        factors = 1.0
        if self.factors is not None:
            factors = max(1.0, float(env(self.factors).abs().max()))
        per_row = x.square().mean(0) @ weight.square()  # (K,), of terms that are uncorrelated
        total = float(per_row.mean()) ** 0.5
        total += 0.0 if self.bias is None else rms(env(self.bias))
        total *= factors * STEEPEST.get(self.activation, 1.0)
        # Twice the output: the activation may have cut off half of the sum.
        total += 2 * rms(env(self.output))
        total += 0.0 if self.residual is None else rms(env(self.residual))
        return _WALK * torch.finfo(torch.float32).eps * (x.shape[1] + 16) ** 0.5 * total


def _linear(
    rows: Tensor, packed: Tensor, bias: Tensor | None, activation: str, residual: Tensor | None,
    shape: tuple[int, ...], order: tuple[int, ...],
) -> Tensor:  # fmt: skip
    if residual is None:
        result = multiply(rows, packed, bias, activation)
    else:
        inverse = sorted(range(len(order)), key=order.__getitem__)
        added = residual.permute(inverse).reshape(-1, shape[-1])
        result = LINEAR_PLUS(rows, added, packed, bias, "add")
    return result.view(shape).permute(order)


def find_linears(graph: Graph, constants: Constants, taken: Set[Node]) -> list[LinearSite]:
    """Find products with constant matrices; ``taken``: operators of other sites.

    From last to first: of two that are added up, the later one finds the other's result ready.
    """
    if PACK_LINEAR is None:
        return []
    outputs = graph.output_values()
    used = set(taken)
    sites = []
    for node in reversed(graph.nodes):
        site = None if node in used else _linear_site(node, constants)
        if site is None:
            continue
        _extend(site, constants, outputs, used)
        used.update(site.nodes)
        _describe(site, graph)
        sites.append(site)
    return sites[::-1]


def _linear_site(node: Node, constants: Constants) -> LinearSite | None:
    if node.op is aten.addmm.default:
        bias, x, weight = node.args[:3]
        if node.argument("beta") != 1 or node.argument("alpha") != 1:
            return None
    elif node.op is aten.mm.default:
        bias, (x, weight) = None, node.args[:2]
    else:
        return None
    given = [value for value in (weight, bias) if value is not None]
    if x in constants or any(value not in constants for value in given):
        return None
    if any(v.dtype != torch.float32 or v.device.type != "cpu" for v in (x, *given)):
        return None
    output = node.first
    if output.numel() == 0 or x.numel() == 0:
        return None
    if bias is not None and bias.shape != (output.shape[1],):
        return None
    return LinearSite([node], output, [], "", "", x, weight, bias, output.shape, (0, 1))


def _extend(site: LinearSite, constants: Constants, outputs: set[Value], used: set[Node]) -> None:
    """Take in what follows, as long as one call computes it."""
    shape, order, seen = site.shape, site.order, list(site.nodes)
    value = site.output
    while (node := only_user(value, outputs)) is not None and node not in used:
        ordered = order == tuple(range(len(order)))
        if node.op in _VIEWS and ordered and node.first.shape[-1] == shape[-1]:
            shape = node.first.shape
            order = tuple(range(len(shape)))
        elif node.op is aten.permute.default:
            order = tuple(order[axis] for axis in node.args[1])
        elif not _absorb(site, node, value, order.index(len(shape) - 1), constants):
            return
        else:
            site.nodes, site.output = [*seen, node], node.first
            site.shape, site.order = shape, order
        seen.append(node)
        value = node.first


def _absorb(
    site: LinearSite, node: Node, value: Value, axis: int, constants: Constants
) -> bool:  # fmt: skip
    """Make ``node``, which reads ``value`` with channels along ``axis``, part of ``site``."""
    plain = site.activation == "none" and site.residual is None
    if not plain or node.first.shape != value.shape or node.first.dtype != value.dtype:
        return False
    if node.op is aten.mul.Tensor and site.factors is None:
        factors = per_channel(node, value, axis, constants)
        if factors is not None and factors.dtype == value.dtype:
            site.factors = factors
        return site.factors is not None
    if node.op is aten.add.Tensor and node.argument("alpha") == 1:
        added = per_channel(node, value, axis, constants)
        if added is not None and site.bias is site.factors is None and added.dtype == value.dtype:
            site.bias = added  # a layer of rows that are not dense: PyTorch adds it afterwards
            return True
        left, right = node.args[:2]
        other = right if left is value else left
        fits = isinstance(other, Value) and other is not value and other.shape == value.shape
        if not fits or other.dtype != value.dtype or other in constants:
            return False
        site.residual = other
        return True
    found = activation_of(node)
    if found is None or found[0] not in ACTIVATIONS:
        return False
    site.activation = found[0]
    return True


def _key(weight: Value, factors: Value | None) -> Any:
    """Which of the module's tensors the weight and the factors are, or None."""
    parts = [_shown(value) for value in (weight, factors) if value is not None]
    return None if None in parts else tuple(parts)


def _shown(value: Value) -> tuple[int, str] | None:
    """One of the module's tensors, and how ``value`` shows all of it."""
    if value.source is not None:
        return value.source, ""
    node = value.producer
    if node is None or node.op not in _SHOWS or node.args[0].source is None:
        return None
    return node.args[0].source, f"{node.op} {value.shape}"


def _describe(site: LinearSite, graph: Graph) -> None:
    shown = _shown(site.weight)
    site.module = "" if shown is None else graph.source_names[shown[0]].rpartition(".")[0]
    parts = [f"linear {site.weight.shape[0]}->{site.weight.shape[1]}"]
    parts += ["factors"] if site.factors is not None else []
    parts += [site.activation] if site.activation != "none" else []
    parts += ["residual"] if site.residual is not None else []
    site.label = " + ".join(parts)
