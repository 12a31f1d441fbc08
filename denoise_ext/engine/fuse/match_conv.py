"""Finds convolutions in a graph and how far each can absorb what surrounds it."""

from __future__ import annotations

from typing import Any

import torch

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse.activations import activation_of
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.ir import Constants

aten: Any = torch.ops.aten
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_ADDS = {aten.add.Tensor, aten.sub.Tensor}
_NORMS = {aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default}
_PADS = {
    aten.constant_pad_nd.default: "constant",
    aten.reflection_pad2d.default: "reflect",
    aten.replication_pad2d.default: "replicate",
}


def find_convolutions(graph: Graph, constants: Constants, precision: str) -> list[ConvSite]:
    """Find convolutions with constant weights, each with everything that one call can fuse.

    From last to first: of two convolutions that are added up, the later one finds the other's
    result ready and takes the sum.
    """
    outputs = graph.output_values()
    taken: set[Node] = set()
    sites = []
    for node in reversed(graph.nodes):
        site = _convolution(node, constants)
        if site is None:
            continue
        site.precision = precision
        while (following := only_user(site.output, outputs)) is not None:
            if following in taken or not _absorb(site, following, constants):
                break
            site.nodes.append(following)
            site.output = following.first
        _absorb_padding(site)
        _describe(site, graph)
        taken.update(site.nodes)
        sites.append(site)
    return sites[::-1]


def _convolution(node: Node, constants: Constants) -> ConvSite | None:
    """The site of this node alone, or None."""
    name = node.op._schema.name
    own = name in ("denoise_ext::conv2d", "denoise_ext::conv_transpose2d")
    if not own and node.op is not aten.convolution.default:
        return None
    input, weight, bias = (node.argument(key) for key in ("input", "weight", "bias"))
    prelu = node.argument("prelu_weight") if own else None
    tensors = [v for v in (weight, bias, prelu) if v is not None]
    output = node.first
    if len(input.shape) != 4 or input.dtype not in _FLOATS or output.numel() == 0:
        return None
    if any(v not in constants or v.dtype != input.dtype for v in tensors):
        return None
    transposed = name.endswith("transpose2d") if own else node.argument("transposed")
    site = ConvSite(
        [node], output, [], "", "", input, weight, bias, _pair(node.argument("stride")),
        _pair(node.argument("padding")), _pair(node.argument("dilation")),
        groups=node.argument("groups"), transposed=transposed,
    )  # fmt: skip
    if transposed:
        site.output_padding = _pair(node.argument("output_padding"))
    if own:
        site.activation = node.argument("activation")
        site.negative_slope = node.argument("negative_slope")
        site.prelu_weight = prelu
        if not transposed:
            site.residual = node.argument("residual")
            site.residual_position = node.argument("residual_position")
    return site


def _absorb(site: ConvSite, node: Node, constants: Constants) -> bool:
    """Make ``node`` part of ``site`` if it can be; it is the only reader of the site's output."""
    if node.first.dtype != site.output.dtype or node.first.shape != site.output.shape:
        return False
    if node.op in _NORMS:
        return _absorb_norm(site, node, constants)
    if node.op in (aten.mul.Tensor, aten.div.Tensor):
        return _absorb_factor(site, node, constants)
    if node.op in _ADDS:
        return _absorb_sum(site, node)
    return _absorb_activation(site, node, constants)


def _linear(site: ConvSite) -> bool:
    return site.activation == "none" and site.residual is None


def _absorb_norm(site: ConvSite, node: Node, constants: Constants) -> bool:
    names = ("weight", "bias", "running_mean", "running_var")
    values = [node.argument(name) for name in names]
    training = node.op is aten.native_batch_norm.default and node.argument("training")
    known = all(v is None or v in constants for v in values)
    if not _linear(site) or training or not known or values[2] is None or values[3] is None:
        return False
    others = [v for v in node.results[1:] if v is not None]
    if node.argument("input") is not site.output or any(v.users for v in others):
        return False
    site.scales.append(("norm", *values, node.argument("eps")))
    return True


def _absorb_factor(site: ConvSite, node: Node, constants: Constants) -> bool:
    left, right = node.argument("self"), node.argument("other")
    factor = right if left is site.output else left
    if not _linear(site) or isinstance(factor, bool) or factor is site.output:
        return False
    if node.op is aten.div.Tensor and left is not site.output:
        return False
    if isinstance(factor, Value):
        return node.op is aten.mul.Tensor and _absorb_channel_factors(site, factor, constants)
    if factor == 0:
        return False
    site.scales.append(("factor", 1.0 / factor if node.op is aten.div.Tensor else float(factor)))
    return True


def _absorb_channel_factors(site: ConvSite, factors: Value, constants: Constants) -> bool:
    """A constant for each channel, such as a trained scale of a residual branch."""
    channels = site.output.shape[1]
    shapes = [(1, channels, 1, 1), (channels, 1, 1)]
    if factors not in constants or factors.shape not in shapes or not site.output.shape[0]:
        return False
    if factors.dtype != site.output.dtype:
        return False
    site.scales.append(("factors", factors))
    return True


def _absorb_activation(site: ConvSite, node: Node, constants: Constants) -> bool:
    if site.activation != "none":
        return False
    if node.op is aten._prelu_kernel.default:
        weight = node.argument("weight")
        if weight not in constants or weight.numel() not in (1, site.output.shape[1]):
            return False
        site.activation, site.prelu_weight = "prelu", weight
        return True
    found = activation_of(node)
    if found is None:
        return False
    site.activation, site.negative_slope = found
    return True


def _absorb_sum(site: ConvSite, node: Node) -> bool:
    """A skip connection: ``y + r``, ``r + y`` or ``r - y``, r of the same shape."""
    left, right = node.argument("self"), node.argument("other")
    mine = left is site.output
    other = right if mine else left
    fits = (
        isinstance(other, Value)
        and other is not site.output
        and other.shape == site.output.shape
        and other.dtype == site.output.dtype
    )
    on_cuda = site.output.device.type == "cuda"  # no kernel for transposed convolutions adds there
    if not fits or site.residual is not None or node.argument("alpha") != 1:
        return False
    if site.transposed and on_cuda:
        return False
    if node.op is aten.sub.Tensor:
        if mine or site.activation != "none":
            return False
        site.scales.append(("factor", -1.0))
    site.residual = other
    site.residual_position = "before" if site.activation == "none" else "after"
    return True


def _absorb_padding(site: ConvSite) -> None:
    """Fuse a mirrored or repeated border into the convolution."""
    node = site.input.producer
    if node is None or node.op not in _PADS or site.transposed:
        return
    border = _PADS[node.op]
    if border != "constant" and site.input.device.type != "cpu":
        return  # whose kernels pad with zeros alone
    left, right, *rest = node.args[1]
    if len(rest) not in (0, 2) or left != right or left < 0:
        return
    above, below = rest or (0, 0)
    if above != below or above < 0:
        return
    if border == "constant":
        if any(value not in (0, None) for value in node.args[2:]):
            return
        rows, columns = site.padding
        site.padding = (rows + above, columns + left)
    elif site.padding != (0, 0):
        return
    else:
        site.padding, site.border = (above, left), border
    site.input = node.args[0]
    site.before.append(node)


def _describe(site: ConvSite, graph: Graph) -> None:
    source = _origin(site.weight)
    site.module = graph.source_names[source].rpartition(".")[0] if source is not None else ""
    kind = "conv_transpose2d" if site.transposed else "conv2d"
    kernel = "x".join(map(str, site.weight.shape[2:]))
    parts = [f"{kind} {kernel} {site.input.shape[1]}->{site.output.shape[1]}"]
    if site.stride != (1, 1):
        parts.append(f"stride {site.stride[0]}")
    if site.groups > 1:
        parts.append(f"groups {site.groups}")
    if site.border != "constant":
        parts.append(site.border)
    if any(kind == "norm" for kind, *_ in site.scales):
        parts.append("batch norm")
    residual = [] if site.residual is None else ["residual"]
    activation = [] if site.activation == "none" else [site.activation]
    before = site.residual_position == "before"
    parts += residual + activation if before else activation + residual
    site.label = " + ".join(parts)


def _origin(value: Value) -> int | None:
    """The position of the module's tensor that ``value`` is computed of first."""
    found: Value | None = value
    while found is not None and found.source is None and found.producer is not None:
        found = next(found.producer.inputs(), None)
    return None if found is None else found.source


def _pair(values: list[int]) -> tuple[int, int]:
    return (values[0], values[-1])
