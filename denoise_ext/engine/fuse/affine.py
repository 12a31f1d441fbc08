"""Batch norms that no convolution takes in, with the activation after them, on the CPU.

Pre-activation networks have them before convolutions (DenseNet).  The numbers that channels are
multiplied with and shifted by are computed once, and the result is written in any layout.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value, only_user
from denoise_ext.engine.fuse.activations import IN_PLACE, STEEPEST, activation_of
from denoise_ext.engine.fuse.branches import Branch
from denoise_ext.engine.fuse.ir import OUT, Constants, Site, Step, rms
from denoise_ext.engine.fuse.match_conv import NORMS, scale_of

# Of a value on either side: root, quotient, two products, the shift's two, product and sum.
_ROUNDINGS = 8
_WIDE = (torch.float32, torch.float64)


@dataclass(eq=False)
class AffineSite(Site):
    """An image's channels, each multiplied with a number and shifted by one."""

    input: Value
    branch: Branch
    activation: str = "none"

    def reads(self) -> list[Value]:
        """See :class:`Site`."""
        return [self.input]

    def variants(self) -> list[str]:
        """See :class:`Site`."""
        return ["folded"]

    def step(self, variant: str, constants: Constants) -> Step:
        """See :class:`Site`."""
        scale, shift = self.branch.folded(constants)
        dtype, shape = self.input.dtype, (1, -1, 1, 1)
        args = (self.input, scale.to(dtype).view(shape), shift.to(dtype).view(shape))
        return Step(affine, (*args, self.activation, OUT), {}, [self.output], any_layout=True)

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float:
        """See :class:`Site`.

        A few roundings of the product, of what the mean is multiplied to, of the shift and the sum.
        """
        ((_, gamma, beta, mean, variance, eps),) = self.branch.scales
        scale = (env(variance).double() + eps).rsqrt()
        if gamma is not None:
            scale = scale * env(gamma).double()
        x = env(self.input).double()
        total = rms(x * scale.view(1, -1, 1, 1)) + rms(env(mean).double() * scale)
        total += 0.0 if beta is None else rms(env(beta))
        total = total * STEEPEST.get(self.activation, 1.0) + rms(env(self.output))
        return _ROUNDINGS * torch.finfo(self.input.dtype).eps * total


def affine(x: Tensor, scale: Tensor, shift: Tensor, activation: str, out: Tensor) -> None:
    """``activation(x * scale + shift)``."""
    torch.addcmul(shift, x, scale, out=out)
    if activation != "none":
        IN_PLACE[activation](out)


def find_affines(graph: Graph, constants: Constants, taken: Set[Node]) -> list[AffineSite]:
    """Find batch norms with constant statistics; ``taken``: operators of other sites."""
    outputs = graph.output_values()
    sites = []
    for node in graph.nodes:
        site = None if node in taken else _affine_site(node, constants)
        if site is None:
            continue
        following = only_user(site.output, outputs)
        found = None if following is None else activation_of(following)
        if following is not None and found is not None and found[0] in IN_PLACE:
            site.activation = found[0]
            site.nodes, site.output = [*site.nodes, following], following.first
            site.label += f" + {site.activation}"
        sites.append(site)
    return sites


def _affine_site(node: Node, constants: Constants) -> AffineSite | None:
    if node.op not in NORMS:
        return None
    x, output = node.argument("input"), node.first
    fits = x.device.type == "cpu" and x.dtype in _WIDE and x not in constants
    if not fits or len(x.shape) != 4 or output.numel() == 0:
        return None
    scale = scale_of(node, x, constants)
    if scale is None or any(v is not None and v.dtype != x.dtype for v in scale[1:5]):
        return None
    branch = Branch.image(x, x.shape[1]).scaled(scale, output, [node])
    label = f"batch norm {x.shape[1]}"
    return AffineSite([node], output, [], label, "", x, branch)
