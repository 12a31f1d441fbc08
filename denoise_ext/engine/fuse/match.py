"""Divides a graph into sites that the engine has operators for, and what is left as it is."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value
from denoise_ext.engine.fuse.affine import affine, find_affines
from denoise_ext.engine.fuse.attention import find_attention
from denoise_ext.engine.fuse.copies import planned_copy
from denoise_ext.engine.fuse.einsum_attention import find_einsum_attention
from denoise_ext.engine.fuse.gdn import find_gdns
from denoise_ext.engine.fuse.ir import OUT, Constants, Out, Site, Step
from denoise_ext.engine.fuse.lengths import find_lengths
from denoise_ext.engine.fuse.linear import find_linears
from denoise_ext.engine.fuse.match_conv import find_convolutions
from denoise_ext.engine.fuse.match_gate import fuse_gates
from denoise_ext.engine.fuse.match_shuffle import fuse_shuffles
from denoise_ext.engine.fuse.norm import find_norms
from denoise_ext.engine.fuse.resampled import fuse_resampling
from denoise_ext.engine.fuse.stacked import sum_of_images

aten: Any = torch.ops.aten

# The same operators, writing into given memory; element by element, so whatever its strides.
_POINTWISE = {
    aten.sigmoid.default: aten.sigmoid.out,
    aten.tanh.default: aten.tanh.out,
    aten.leaky_relu.default: aten.leaky_relu.out,
    aten.silu.default: aten.silu.out,
    aten.add.Tensor: aten.add.out,
    aten.sub.Tensor: aten.sub.out,
    aten.mul.Tensor: aten.mul.out,
    aten.div.Tensor: aten.div.out,
    aten.pow.Tensor_Scalar: aten.pow.Tensor_Scalar_out,
    aten.abs.default: aten.abs.out,
    aten.neg.default: aten.neg.out,
    aten.exp.default: aten.exp.out,
    aten.sqrt.default: aten.sqrt.out,
    aten.rsqrt.default: aten.rsqrt.out,
    aten.clamp.default: aten.clamp.out,
    aten.hardtanh.default: aten.hardtanh.out,
    aten.hardswish.default: aten.hardswish.out,
    aten.hardsigmoid.default: aten.hardsigmoid.out,
    aten.elu.default: aten.elu.out,
    aten.mish.default: aten.mish.out,
    aten.softplus.default: aten.softplus.out,
    aten.clamp_min.default: aten.clamp_min.out,
    aten.clamp_max.default: aten.clamp_max.out,
    aten.maximum.default: aten.maximum.out,
    aten.minimum.default: aten.minimum.out,
}
# These add up in the order of memory.
_REDUCING = {
    aten.mean.dim: aten.mean.out,
    aten.sum.dim_IntList: aten.sum.IntList_out,
}
# PyTorch's own pixel_shuffle goes pixel by pixel.
_SHUFFLES = {
    aten.pixel_shuffle.default: "pixel_shuffle_out",
    aten.pixel_unshuffle.default: "pixel_unshuffle_out",
}
# Operators of this package that have such a form on the CPU.
_WITH_OUT = ("block_warp", "recurrent_fuse")
# These copy what is not dense.
_DENSE = {
    aten.upsample_nearest2d.default: aten.upsample_nearest2d.out,
    aten.upsample_bilinear2d.default: aten.upsample_bilinear2d.out,
    aten.avg_pool2d.default: aten.avg_pool2d.out,
}


@dataclass(eq=False)
class PlannedSite(Site):
    """PyTorch's own operator, writing into the plan's memory."""

    call: Step

    replaces = False

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return self.call.reads()

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["planned memory"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        return self.call

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> None:
        """See :class:`Site`: the same numbers."""


@dataclass(eq=False)
class ConcatSite(Site):
    """A concatenation of channels; its inputs are written in place if possible."""

    replaces = False

    inputs: list[Value]

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return self.inputs

    def variants(self) -> list[str]:
        """See :class:`Site`: none of its own."""
        return []


def find_sites(
    graph: Graph,
    constants: Constants,
    precision: str,
    apart: Set[tuple[str, str]] = frozenset(),
) -> list[Site]:
    """The sites of ``graph``, none overlapping another.

    ``apart``: convolutions, by module and label, that are not fused with upsampling, pooling, a
    shuffle or a gate, or not added up.
    """
    convolutions = find_convolutions(graph, constants, precision, apart)
    convolutions = fuse_resampling(graph, constants, convolutions, apart)
    convolutions = fuse_shuffles(graph, constants, convolutions, apart)
    sites: list[Site] = [*fuse_gates(graph, convolutions, apart)]
    sites += find_norms(graph, constants)
    sites += find_gdns(graph, constants)
    attention = find_attention(graph, constants)
    found = {node for site in attention for node in (*site.before, *site.nodes)}
    einsums = find_einsum_attention(graph, constants)
    sites += [*attention, *(site for site in einsums if found.isdisjoint(site.nodes))]
    sites += find_lengths(graph, constants)
    matched = {node for site in sites for node in site.nodes}
    linears = find_linears(graph, constants, matched)
    sites += linears
    matched.update(node for site in linears for node in site.nodes)
    affines = find_affines(graph, constants, matched)
    sites += affines
    matched.update(node for site in affines for node in site.nodes)
    outputs = graph.output_values()
    for node in graph.nodes:
        if node in matched or any(value in constants for value in node.results):
            continue
        site = _concat(node) or _copied(node, outputs) or _planned(node, constants)
        if site is not None:
            sites.append(site)
    return sorted(sites, key=lambda site: site.nodes[-1].index)


def _concat(node: Node) -> ConcatSite | None:
    output = node.first
    if node.op is not aten.cat.default or node.argument("dim") not in (1, -3):
        return None
    inputs = node.args[0]
    if len(output.shape) != 4 or any(
        len(v.shape) != 4 or v.dtype != output.dtype or v.numel() == 0 for v in inputs
    ):
        return None
    return ConcatSite([node], output, [], f"cat of {len(inputs)}", "", list(inputs))


def _copied(node: Node, outputs: set[Value]) -> PlannedSite | None:
    found = planned_copy(node, outputs)
    if found is None:
        return None
    nodes, step = found
    output = nodes[-1].first
    if output.numel() == 0 or not output.dtype.is_floating_point:
        return None
    return PlannedSite(nodes, output, [], "copy", "", step)


def _planned(node: Node, constants: Constants) -> PlannedSite | None:
    output = node.first
    if len(output.shape) != 4 or output.numel() == 0 or not output.dtype.is_floating_point:
        return None
    name = node.op._schema.name.partition("::")[2]
    if node.op.namespace == "denoise_ext" and name in _WITH_OUT and output.device.type == "cpu":
        function = getattr(torch.ops.denoise_ext, f"{name}_out").default
        own = Step(function, (*node.args, OUT), {}, [output], any_layout=True)
        return PlannedSite([node], output, [], name, "", own)
    if any(v.dtype != output.dtype for v in node.inputs()):
        return None
    step = sum_of_images(node) or _planned_step(node, output)
    if step is None:
        return None
    return PlannedSite([node], output, [], name, "", step)


def _planned_step(node: Node, output: Value) -> Step | None:
    kwargs = {**node.kwargs, "out": OUT}
    if node.op is aten.relu.default:  # has no such form
        return Step(aten.clamp_min.out, (*node.args, 0), {"out": OUT}, [output], any_layout=True)
    if node.op is aten.gelu.default:
        return Step(_gelu, node.args, kwargs, [output], any_layout=True)
    function = _POINTWISE.get(node.op) or _REDUCING.get(node.op)
    if function is not None:
        return Step(function, node.args, kwargs, [output], any_layout=True)
    if node.op is aten.upsample_nearest2d.default:
        factors = _whole_factors(node, output)
        if factors is not None:
            return Step(
                _repeat_pixels, (node.args[0], *factors, OUT), {}, [output], any_layout=True
            )
    if node.op in _SHUFFLES and output.device.type == "cpu" and output.dtype.is_floating_point:
        function = getattr(torch.ops.denoise_ext, _SHUFFLES[node.op]).default
        return Step(function, (*node.args, OUT), {}, [output], any_layout=True)
    if node.op in _DENSE:
        function = _DENSE[node.op]
        return Step(function, node.args, kwargs, [output], any_layout=True, any_output=False)
    if node.op is aten.max_pool2d_with_indices.default and not any(
        value.users for value in node.results[1:] if value is not None
    ):
        function = aten.max_pool2d_with_indices.out
        return Step(
            function, node.args, {**node.kwargs, "out": OUT, "indices": Out(1)}, node.results,
            any_layout=True, any_output=False,
        )  # fmt: skip
    return None


def _whole_factors(node: Node, output: Value) -> tuple[int, int] | None:
    """How often each pixel is repeated along y and x, where that is a whole number."""
    (h, w), (out_h, out_w) = node.args[0].shape[2:], output.shape[2:]
    factors = (out_h // h, out_w // w)
    # A scale of 2.2 doubles 4 pixels to 8, but not each of them.
    scales = (node.argument("scales_h"), node.argument("scales_w"))
    fits = all(s is None or s == f for s, f in zip(scales, factors, strict=True))
    if not fits or out_h % h or out_w % w:
        return None
    return (
        factors
        if _repeats(h, factors[0], scales[0]) and _repeats(w, factors[1], scales[1])
        else None
    )


def _repeats(size: int, factor: int, scale: float | None) -> bool:
    """Whether PyTorch's pixel i is that of i // factor: it computes i / factor in float32.

    For factors such as 41, whose reciprocal rounds down, the first pixel of a block falls into the
    block before.
    """
    if factor <= 2:
        return True  # computed with integers
    step = torch.tensor(1 / scale if scale else size / (size * factor), dtype=torch.float32)
    output = torch.arange(size * factor)
    source = (output.float() * step).floor().long().clamp(max=size - 1)
    return torch.equal(source, output // factor)


def _gelu(input: Tensor, *, out: Tensor, **options: Any) -> None:
    """GELU; PyTorch's own form (2.13, oneDNN) leaves ``out`` unwritten where strides differ."""
    if input.stride() != out.stride():
        input = out.copy_(input)
    aten.gelu.out(input, **options, out=out)


def _repeat_pixels(input: Tensor, factor_y: int, factor_x: int, out: Tensor) -> None:
    """Nearest-neighbour upsampling as one copy: ``out`` may be a slice of other channels."""
    n, c, h, w = input.shape
    pixels = out.unflatten(3, (w, factor_x)).unflatten(2, (h, factor_y))
    pixels.copy_(input[:, :, :, None, :, None].expand(n, c, h, factor_y, w, factor_x))


# Steps that write each element where they read it: quick where all have one layout.
POINTWISE_STEPS = frozenset(
    {
        *_POINTWISE.values(), aten.clamp_min.out, _gelu, affine,
        torch.ops.denoise_ext.deviation_norm_out.default,
        torch.ops.denoise_ext.layer_norm2d_out.default,
        torch.ops.denoise_ext.group_norm_out.default,
        torch.ops.denoise_ext.gdn_out.default,
    }
)  # fmt: skip
