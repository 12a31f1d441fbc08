"""Finds convolutions in a graph and how far each can absorb what surrounds it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import fields, replace
from typing import Any

import torch

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse.activations import activation_of
from denoise_ext.engine.fuse.branches import Branch
from denoise_ext.engine.fuse.conv import ConvSite
from denoise_ext.engine.fuse.copies import copied_image
from denoise_ext.engine.fuse.ir import Constants

aten: Any = torch.ops.aten
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_ADDS = {aten.add.Tensor, aten.sub.Tensor}
NORMS = {aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default}
_PADS = {
    aten.constant_pad_nd.default: "constant",
    aten.reflection_pad2d.default: "reflect",
    aten.replication_pad2d.default: "replicate",
}


def find_convolutions(
    graph: Graph, constants: Constants, precision: str, apart: Set[tuple[str, str]] = frozenset()
) -> list[ConvSite]:
    """Find convolutions with constant weights, each with everything that one call can fuse.

    From last to first: of two convolutions that are added up, the later one finds the other's
    result ready and takes the sum.

    ``apart`` names, by module and label, sums of convolutions that had better be several.
    """
    search = _Search(graph, constants, precision)
    sites = []
    for node in reversed(graph.nodes):
        site = None if node in search.taken else search.site(node)
        if site is None:
            continue
        if site.splits and (site.module, site.label) in apart:
            site = search.site(node, sums=False)
            assert site is not None  # as before
        search.taken.update(site.nodes)
        sites.append(site)
    return sites[::-1]


class _Search:
    """A search for convolutions; ``taken``: the operators of those that were found."""

    def __init__(self, graph: Graph, constants: Constants, precision: str) -> None:
        self.graph, self.constants, self.precision = graph, constants, precision
        self.outputs = graph.output_values()
        self.taken: set[Node] = set()

    def site(self, node: Node, sums: bool = True) -> ConvSite | None:
        """The site that begins with ``node``; ``sums``: it may be a sum of convolutions."""
        site = _convolution(node, self.constants)
        if site is None:
            return None
        site.precision = self.precision
        while (following := only_user(site.output, self.outputs)) is not None:
            if following in self.taken or not _keeps_shape(following, site.output):
                break
            merged = sums and self._merge(site, following)
            if not merged and not _absorb(site, following, self.constants):
                break
            site.nodes.append(following)
            site.output = following.first
        _absorb_padding(site)
        while (copy := copied_image(site.input)) is not None:
            site.input = copy.args[0]
            site.before.insert(0, copy)
        _describe(site, self.graph)
        return site

    def _merge(self, site: ConvSite, node: Node) -> bool:
        """Add what ``node`` adds to ``site`` to its weights, if that is a convolution, too."""
        image, operands = site.input, _summands(node)
        if operands is None or site.activation != "none" or site.residual not in (None, image):
            return False
        mine: Branch | None = site.branch
        if site.residual is not None:
            mine = site.branch.plus(Branch.image(image, site.groups), site.output)
        branches = [mine if v is site.output else self._branch(v, site) for v in operands]
        if site.residual is None and not site.splits and image in operands:
            return False  # a skip connection alone costs nothing after a convolution
        total = _sum(node, *branches)
        if total is None:
            return False
        for f in fields(Branch):
            setattr(site, f.name, getattr(total, f.name))
        site.nodes.sort(key=lambda n: n.index)
        site.residual = None
        return True

    def _branch(self, value: Value, site: ConvSite) -> Branch | None:
        """``value`` as a convolution of what ``site`` reads, if nobody else reads parts of it."""
        if value is site.input:
            return Branch.image(value, site.groups)
        node = value.producer
        if node is None or node in self.taken or only_user(value, self.outputs) is None:
            return None
        start = _convolution(node, self.constants)
        if start is not None:
            return start.branch if _linear(start) and start.input is site.input else None
        if not all(v in self.constants or _keeps_shape(node, v) for v in node.inputs()):
            return None
        operands = _summands(node)
        if operands is not None:
            total = _sum(node, *(self._branch(v, site) for v in operands))
            return None if total is None else replace(total, nodes=[*total.nodes, node])
        for operand in node.inputs():
            scale = scale_of(node, operand, self.constants)
            branch = None if scale is None else self._branch(operand, site)
            if scale is not None and branch is not None:
                return branch.scaled(scale, value, [node])
        return None


def _keeps_shape(node: Node, value: Value) -> bool:
    return node.first.dtype == value.dtype and node.first.shape == value.shape


def _summands(node: Node) -> tuple[Value, Value] | None:
    """The two tensors that ``node`` adds up or subtracts."""
    if node.op not in _ADDS or node.argument("alpha") != 1:
        return None
    left, right = node.argument("self"), node.argument("other")
    known = isinstance(left, Value) and isinstance(right, Value) and left is not right
    return (left, right) if known else None


def _sum(node: Node, left: Branch | None, right: Branch | None) -> Branch | None:
    if left is None or right is None:
        return None
    if node.op is aten.sub.Tensor:
        right = right.scaled(("factor", -1.0), right.output, [])
    return left.plus(right, node.first)


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
    if node.op in _ADDS:
        return _absorb_sum(site, node)
    scale = scale_of(node, site.output, constants)
    if scale is None:
        return _absorb_activation(site, node, constants)
    if _linear(site):
        site.scales.append(scale)
    return _linear(site)


def absorb_after_shuffle(site: ConvSite, node: Node, constants: Constants) -> bool:
    """Make ``node`` part of ``site``, whose output's channels are not those of its weight."""
    if not _keeps_shape(node, site.output):
        return False
    if node.op in _ADDS:
        return _absorb_sum(site, node)
    return site.residual is None and _absorb_activation(site, node, constants)


def _linear(site: ConvSite) -> bool:
    return site.activation == "none" and site.residual is None


def scale_of(node: Node, value: Value, constants: Constants) -> tuple[Any, ...] | None:
    """What ``node`` multiplies the channels of ``value`` with, as in a :class:`Branch`."""
    if node.op in NORMS:
        return _norm_of(node, value, constants)
    if node.op in (aten.mul.Tensor, aten.div.Tensor):
        return _factor_of(node, value, constants)
    return None


def _norm_of(node: Node, value: Value, constants: Constants) -> tuple[Any, ...] | None:
    names = ("weight", "bias", "running_mean", "running_var")
    values = [node.argument(name) for name in names]
    training = node.op is aten.native_batch_norm.default and node.argument("training")
    known = all(v is None or v in constants for v in values)
    if training or not known or values[2] is None or values[3] is None:
        return None
    others = [v for v in node.results[1:] if v is not None]
    if node.argument("input") is not value or any(v.users for v in others):
        return None
    return ("norm", *values, node.argument("eps"))


def _factor_of(node: Node, value: Value, constants: Constants) -> tuple[Any, ...] | None:
    left, right = node.argument("self"), node.argument("other")
    factor = right if left is value else left
    if isinstance(factor, bool) or factor is value:
        return None
    if node.op is aten.div.Tensor and left is not value:
        return None
    if isinstance(factor, Value):  # for each channel, such as a trained scale of a residual branch
        channels = value.shape[1]
        shapes = [(1, channels, 1, 1), (channels, 1, 1)]
        fits = factor in constants and factor.shape in shapes and factor.dtype == value.dtype
        fits = fits and node.op is aten.mul.Tensor and value.shape[0] > 0
        return ("factors", factor) if fits else None
    if factor == 0:
        return None
    return ("factor", 1.0 / factor if node.op is aten.div.Tensor else float(factor))


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
    branches = [*site.branch.all()]
    if len(branches) > 1:
        parts.append(f"{len(branches)} branches")
    if any(kind == "norm" for branch in branches for kind, *_ in branch.scales):
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
        found = next(iter(found.producer.inputs()), None)
    return None if found is None else found.source


def _pair(values: list[int]) -> tuple[int, int]:
    return (values[0], values[-1])
