"""Normalisations over channels or pixels, with scale, shift and activation: one operator call each.

A normalisation over channels is found by what it computes, whatever operators it was written with:
mean, difference, mean of squares, root, quotient.  PyTorch needs a pass over memory for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse.activations import activation_of
from denoise_ext.engine.fuse.ir import OUT, Constants, Site, Step, rms
from denoise_ext.engine.fuse.rearranged import Rearranged, rearranges
from denoise_ext.ops import kernel_devices

aten: Any = torch.ops.aten
_DEVICES = kernel_devices("layer_norm2d_out") & kernel_devices("group_norm_out")
_WIDE = (torch.float32, torch.float64)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Rounding errors of a sum grow like a random walk (conv.py); both sides round.
_WALK = 4.0
_VECTOR = 16  # values of a row, from which on the kernel reads rows where they are


@dataclass(eq=False)
class NormSite(Site):
    """A normalisation of a tensor (N, C, H, W); ``groups``: of channels, 0: over each pixel's."""

    input: Value
    groups: int
    weight: Value | None
    bias: Value | None
    eps: float
    activation: str = "none"
    negative_slope: float = 0.01
    centred: bool = True  # False: values are divided by their deviation, their mean stays

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return [self.input]

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["two passes" if self.groups else "one pass"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        weight, bias = (self._vector(value, constants) for value in (self.weight, self.bias))
        if not self.centred:
            args: tuple[Any, ...] = (self.input, weight, self.eps, OUT)
            function = torch.ops.denoise_ext.deviation_norm_out.default
            return Step(function, args, {}, [self.output], any_layout=True)
        rest = (weight, bias, self.eps, self.activation, self.negative_slope, OUT)
        if self.groups:
            function = torch.ops.denoise_ext.group_norm_out.default
            args = (self.input, self.groups, *rest)
        else:
            function, args = torch.ops.denoise_ext.layer_norm2d_out.default, (self.input, *rest)
        return Step(function, args, {}, [self.output], any_layout=True)

    def _vector(self, value: Value | None, constants: Constants) -> Tensor | None:
        """A number for each channel; ``instance_norm`` repeats them for each image."""
        if value is None:
            return None
        return constants[value].reshape(-1)[: self.input.shape[1]].contiguous()

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`.

        ``4 eps sqrt(n) r rms(weight)`` for n values that are normalised together, whose root mean
        square is r times their standard deviation: what a mean is off by, is of the size of the
        values.  Where the mean stays, a relative error of the deviation, which may be r times that
        of the sums (Chan et al. 1983), counts r times as much.  Narrow storage rounds after every
        operator of the original.
        """
        x = self._together(env(self.input).double())
        scale = (x.var(-1, correction=0) + self.eps).rsqrt()
        ratio = 1.0 + rms(x.square().mean(-1).sqrt() * scale)
        gain = 1.0 if self.weight is None else rms(env(self.weight))
        dtype = self.output.dtype
        eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        error = _WALK * eps * (x.shape[-1] + 16) ** 0.5 * ratio * gain
        error *= 1.0 if self.centred else ratio
        rounded = rms(env(self.output)) + (0.0 if self.bias is None else rms(env(self.bias)))
        error += _WALK * eps * rounded
        if dtype not in _WIDE:
            operators = 2 + len(self.before) + len(self.nodes)
            error += torch.finfo(dtype).eps * operators * (ratio * gain + rounded)
        return error

    def _together(self, x: Tensor) -> Tensor:
        """What is normalised together, along the last axis."""
        if self.groups:
            return x.reshape(x.shape[0], self.groups, -1)
        return x.flatten(2).transpose(1, 2)


@dataclass(eq=False)
class RowNormSite(NormSite):
    """PyTorch's own layer norm over the last axis: rows are pixels of an image in channels_last."""

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        weight, bias = (
            None if value is None else constants[value] for value in (self.weight, self.bias)
        )
        args = (self.input, weight, bias, self.eps)
        return Step(normalise_rows, args, {}, [self.output])

    def _together(self, x: Tensor) -> Tensor:
        return x


def normalise_rows(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """PyTorch's layer norm over the last axis."""
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    result = torch.ops.denoise_ext.layer_norm2d(pixels, weight, bias, eps, "none", 0.01)
    return result.permute(0, 2, 3, 1).reshape(x.shape)


def find_norms(graph: Graph, constants: Constants) -> list[NormSite]:
    """Find normalisations with constant weights, where this build has kernels for them."""
    outputs = graph.output_values()
    sites: list[NormSite] = []
    for node in graph.nodes:
        rows = _over_rows(node, constants, outputs)
        if rows is not None:
            sites.append(rows)
        site = _over_channels(node, constants, outputs) or _over_pixels(node, constants, outputs)
        if site is None:
            continue
        following = only_user(site.output, outputs) if site.centred else None
        found = None if following is None else activation_of(following, constants)
        if (
            following is not None
            and found is not None
            and following.first.shape == (site.output.shape)
        ):
            site.activation, site.negative_slope = found
            site.before.append(site.nodes[-1])
            site.nodes, site.output = [following], following.first
        if site.activation != "none":
            site.label += f" + {site.activation}"
        sites.append(site)
    return sites


def _fits(x: Value, output: Value, constants: Constants) -> bool:
    return (
        x.device.type in _DEVICES
        and x.dtype in _FLOATS
        and x.dtype == output.dtype
        and len(x.shape) == 4
        and x.shape == output.shape
        and x.numel() > 0
        and x not in constants
    )


def _between(first: Value, last: Node) -> list[Node]:
    """The operators that ``last`` needs from ``first`` on, without itself, in order."""
    found: set[Node] = set()
    open_ = [last]
    while open_:
        for value in open_.pop().inputs():
            node = value.producer
            if value is not first and node is not None and node not in found:
                found.add(node)
                open_.append(node)
    return sorted(found, key=lambda node: node.index)


# --- over the channels of a pixel -----------------------------------------------------------------


def _over_channels(node: Node, constants: Constants, outputs: set[Value]) -> NormSite | None:
    core = _normalised(node)
    if core is None:
        return None
    x, axis, eps, centred = core
    weight = bias = None
    following = only_user(node.first, outputs)
    if following is not None and following.op is aten.mul.Tensor:
        weight = per_channel(following, node.first, axis, constants)
    if weight is not None:
        assert following is not None
        node, following = following, only_user(following.first, outputs)
    if centred and following is not None and following.op is aten.add.Tensor:
        bias = per_channel(following, node.first, axis, constants)
    if bias is not None:
        assert following is not None
        node = following
    behind = _image_behind(x, axis)
    if behind is None:
        return None
    source, shown = behind
    last = _image_before(node, shown, outputs)
    if last is None or not _fits(source, last.first, constants):
        return None
    if any(v is not None and v.dtype != source.dtype for v in (weight, bias)):
        return None
    if not centred and (source.device.type != "cpu" or source.dtype not in _WIDE):
        return None
    before = [n for n in _between(source, last) if not _constant(n, constants)]
    label = f"layer norm {source.shape[1]}" + ("" if centred else " with its mean")
    return NormSite(
        [last], last.first, before, label, "", source, 0, weight, bias, eps, centred=centred
    )  # fmt: skip


def _constant(node: Node, constants: Constants) -> bool:
    return all(value in constants for value in node.results if value is not None)


def _normalised(node: Node) -> tuple[Value, int, float, bool] | None:
    """(x, axis, eps, centred) of ``(x - mean) / sqrt(variance + eps)``, or of x instead of that."""
    if node.op is aten.div.Tensor:
        left, right, root = node.args[0], node.args[1], aten.sqrt.default
        pairs = [(left, right)]
    elif node.op is aten.mul.Tensor:
        left, right, root = node.args[0], node.args[1], aten.rsqrt.default
        pairs = [(left, right), (right, left)]
    else:
        return None
    for difference, deviation in pairs:
        below = _producer(deviation, root)
        total = None if below is None else _producer(below.args[0], aten.add.Tensor)
        if total is None:
            continue
        variance, eps = total.args[0], total.args[1]
        positive = isinstance(eps, (int, float)) and eps >= 0 and total.argument("alpha") == 1
        x = _variance(variance)
        if not positive or x is None:
            continue
        centred = _difference(difference) == x
        if centred or difference is x[0]:
            return *x, float(eps), centred
    return None


def _producer(value: Any, op: Any) -> Node | None:
    """The node that makes ``value``, if it is one of ``op``."""
    node = value.producer if isinstance(value, Value) else None
    return node if node is not None and node.op is op else None


def _one_axis(node: Node) -> tuple[Value, int] | None:
    """What a reduction over one axis reads, and the axis; it must keep it as one of size 1."""
    x, axes = node.args[0], node.argument("dim")
    if axes is None or len(axes) != 1 or not node.argument("keepdim"):
        return None
    return x, axes[0] % len(x.shape)


def _mean(value: Any) -> tuple[Value, int] | None:
    node = _producer(value, aten.mean.dim)
    if node is None or node.argument("dtype") is not None:
        return None
    return _one_axis(node)


def _difference(value: Any) -> tuple[Value, int] | None:
    """(x, axis) of ``x - mean(x)``."""
    node = _producer(value, aten.sub.Tensor)
    if node is None or node.argument("alpha") != 1:
        return None
    found = _mean(node.args[1])
    return found if found is not None and found[0] is node.args[0] else None


def _variance(value: Any) -> tuple[Value, int] | None:
    """(x, axis) of the mean square of ``x - mean(x)``."""
    node = _producer(value, aten.var.correction)
    if node is not None:
        return _one_axis(node) if node.argument("correction") == 0 else None
    found = _mean(value)
    if found is None:
        return None
    squares, axis = found
    power = _producer(squares, aten.pow.Tensor_Scalar)
    product = _producer(squares, aten.mul.Tensor)
    if power is not None and power.args[1] == 2:
        source = _difference(power.args[0])
    elif product is not None and product.args[0] is product.args[1]:
        source = _difference(product.args[0])
    else:
        return None
    return source if source is not None and source[1] == axis else None


def per_channel(node: Node, known: Value, axis: int, constants: Constants) -> Value | None:
    """The other operand of ``node``, if it is a constant with a number for each channel."""
    left, right = node.args[0], node.args[1]
    other = right if left is known else left
    if not isinstance(other, Value) or other is known or other not in constants:
        return None
    if node.op is aten.add.Tensor and node.argument("alpha") != 1:
        return None
    rank, channels = len(known.shape), known.shape[axis]
    shape = (1,) * (rank - len(other.shape)) + other.shape
    wanted = tuple(channels if i == axis else 1 for i in range(rank))
    return other if shape == wanted and node.first.shape == known.shape else None


def _image_behind(x: Value, axis: int) -> tuple[Value, Rearranged] | None:
    """The image (N, C, H, W) whose channels ``x`` has along ``axis``, and how ``x`` shows it."""
    value = x
    chain: list[Node] = []
    while True:
        if len(value.shape) == 4 and value.shape[1] == x.shape[axis]:
            image = Rearranged.image(value.shape)
            shown = image.after_all(reversed(chain))
            if shown is not None and shown.axes[axis] == image.axes[1]:
                return value, shown
        node = value.producer
        if node is None or not rearranges(node):
            return None
        chain.append(node)
        value = node.args[0]


def _image_before(node: Node, shown: Rearranged, outputs: set[Value]) -> Node | None:
    """The node that gives ``node``'s result, laid out as ``shown``, the image's order again."""
    image = Rearranged.image(shown.sizes)
    while shown != image or node.first.shape != image.sizes:
        following = only_user(node.first, outputs)
        if following is None:
            return None
        after = shown.after(following)
        if after is None:
            return None
        node, shown = following, after
    return node


# --- over the last axis ---------------------------------------------------------------------------


def _over_rows(node: Node, constants: Constants, outputs: set[Value]) -> RowNormSite | None:
    if node.op is not aten.native_layer_norm.default:
        return None
    x, shape = node.args[0], node.argument("normalized_shape")
    given = [v for v in (node.argument("weight"), node.argument("bias")) if v is not None]
    if any(v.users or v in outputs for v in node.results[1:] if v is not None):
        return None
    fits = x.device.type == "cpu" and x.dtype in _WIDE and x.numel() > 0 and x not in constants
    if not fits or len(shape) != 1 or shape[0] < _VECTOR:
        return None
    if any(v not in constants or v.dtype != x.dtype for v in given):
        return None
    label, eps = f"layer norm {shape[0]}", float(node.argument("eps"))
    weight, bias = node.argument("weight"), node.argument("bias")
    return RowNormSite([node], node.first, [], label, "", x, 0, weight, bias, eps)


# --- over the pixels of a group -------------------------------------------------------------------


def _over_pixels(node: Node, constants: Constants, outputs: set[Value]) -> NormSite | None:
    if node.op is aten.native_group_norm.default:
        x, groups = node.args[0], node.argument("group")
        last = node
        label = f"group norm {groups}"
    elif node.op is aten.native_batch_norm.default and node.argument("training"):
        running = (node.argument("running_mean"), node.argument("running_var"))
        found = _instances(node, outputs)
        if found is None or running != (None, None):
            return None
        x, last = found
        groups, label = x.shape[1], "instance norm"
    else:
        return None
    if any(value.users or value in outputs for value in node.results[1:] if value is not None):
        return None
    weight, bias = node.argument("weight"), node.argument("bias")
    if not _fits(x, last.first, constants):
        return None
    given = [value for value in (weight, bias) if value is not None]
    if any(value not in constants or value.dtype != x.dtype for value in given):
        return None
    if not all(_is_repeated(constants[value], x.shape[1]) for value in given):
        return None
    before = [n for n in _between(x, last) if not _constant(n, constants)]
    eps = float(node.argument("eps"))
    return NormSite([last], last.first, before, label, "", x, groups, weight, bias, eps)


def _is_repeated(values: Tensor, channels: int) -> bool:
    """Whether all images have the same numbers for their channels."""
    images = values.reshape(-1, channels)
    return torch.equal(images, images[:1].expand_as(images))


def _instances(node: Node, outputs: set[Value]) -> tuple[Value, Node] | None:
    """What an ``instance_norm`` reads, and its last operator.

    Each image's channels are channels of one image to the batch norm ``node``: (1, N C, H, W).
    """
    given = node.args[0]
    if len(given.shape) != 4 or given.shape[0] != 1:
        return None
    view, back = _producer(given, aten.view.default), only_user(node.first, outputs)
    if view is not None and len(view.args[0].shape) == 4:
        n, c, *size = view.args[0].shape
        # Of a transpose the sizes may be the same, too.
        regroups = back is not None and back.op is aten.view.default
        if regroups and given.shape == (1, n * c, *size):
            assert back is not None
            return _behind_copy(view.args[0]), back
    return _behind_copy(given), node  # of one image


def _behind_copy(x: Value) -> Value:
    copy = _producer(x, aten.clone.default)
    return x if copy is None else copy.args[0]
