"""Weights of convolutions that are made of the module's: scaled, and added up over branches.

A sum of convolutions of one image is one convolution (Ding et al. 2021, RepVGG).  Its weight is the
sum of theirs, with zeros around the smaller ones.  The image itself is a convolution, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from denoise_ext.engine.capture.graph import Node, Value
from denoise_ext.engine.fuse.ir import Constants, rms


@dataclass(eq=False)
class Branch:
    """A convolution of an image, and what its result is multiplied with and added to.

    ``scales``, in order: ("norm", gamma, beta, mean, variance, eps), ("factor", number),
    ("factors", a number for each channel) or ("plus", a branch within it, its first tap).
    """

    output: Value
    weight: Value | None  # None: the image itself
    bias: Value | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool
    scales: list[tuple[Any, ...]]
    nodes: list[Node]

    @classmethod
    def image(cls, image: Value, groups: int) -> Branch:
        """The image itself: in each channel, one tap that is 1."""
        return cls(image, None, None, (1, 1), (0, 0), (1, 1), groups, False, [], [])

    def plus(self, other: Branch, output: Value) -> Branch | None:
        """The sum of both, which is ``output``; None if it is no convolution of their size."""
        for main, added in ((self, other), (other, self)):
            first = main._first_tap(added)
            if first is not None and (main.weight is not None or added.weight is None):
                scales = [*main.scales, ("plus", added, first)]
                nodes = [*self.nodes, *other.nodes]
                return replace(main, output=output, scales=scales, nodes=nodes)
        return None

    def scaled(self, scale: tuple[Any, ...], output: Value, nodes: list[Node]) -> Branch:
        """This one with one more of its ``scales``, whose result is ``output``."""
        scales = [*self.scales, scale]
        return replace(self, output=output, scales=scales, nodes=[*self.nodes, *nodes])

    def _first_tap(self, other: Branch) -> tuple[int, int] | None:
        """Where the taps of ``other`` begin among these; None where some are beside them."""
        if (self.stride, self.groups) != (other.stride, other.groups):
            return None
        if self.transposed or other.transposed:
            return None
        first = []
        for axis in range(2):
            taps, of_other = self._taps()[axis], other._taps()[axis]
            step = self.dilation[axis]
            if of_other > 1 and other.dilation[axis] != step:
                return None
            shift = self.padding[axis] - other.padding[axis]
            if shift % step or not 0 <= shift // step <= taps - of_other:
                return None
            first.append(shift // step)
        return first[0], first[1]

    def _taps(self) -> tuple[int, ...]:
        return (1, 1) if self.weight is None else self.weight.shape[2:]

    def all(self) -> Iterator[Branch]:
        """This one, and all that are added to it."""
        yield self
        for kind, *values in self.scales:
            if kind == "plus":
                yield from values[0].all()

    def folded(self, constants: Constants) -> tuple[Tensor, Tensor]:
        """Weight and bias with the scales multiplied in and the branches added, in float64."""
        channels = self.output.shape[1]
        if self.weight is None:
            w = _one_for_each(channels, channels // self.groups, self.output.device)
        else:
            w = constants.as_given(self.weight).double()
        b = constants[self.bias].double() if self.bias is not None else w.new_zeros(channels)
        for kind, *values in self.scales:
            if kind == "plus":
                branch, (top, left) = values
                added, shift = branch.folded(constants)
                below, right = w.shape[2] - added.shape[2] - top, w.shape[3] - added.shape[3] - left
                w, b = w + F.pad(added, (left, right, top, below)), b + shift
                continue
            if kind == "factor":
                w, b = w * values[0], b * values[0]
                continue
            if kind == "factors":
                factors = constants[values[0]].double().reshape(-1)
                w, b = w * self._per_output(factors), b * factors
                continue
            *tensors, eps = values
            gamma, beta = (None if v is None else constants[v].double() for v in tensors[:2])
            mean, variance = (constants[v].double() for v in tensors[2:])
            factor = (variance + eps).rsqrt()
            if gamma is not None:
                factor = factor * gamma
            w = w * self._per_output(factor)
            b = (b - mean) * factor
            if beta is not None:
                b = b + beta
        return w, b

    def _per_output(self, factor: Tensor) -> Tensor:
        """``factor`` (K,) in a shape that multiplies the weight's output channels."""
        if not self.transposed:
            return factor.view(-1, 1, 1, 1)
        assert self.weight is not None  # a branch that is the image is not transposed
        # weight: (C, K / groups, kH, kW), groups one after the other along C
        per_group = factor.view(self.groups, 1, -1)
        rows = self.weight.shape[0] // self.groups
        return per_group.expand(-1, rows, -1).reshape(self.weight.shape[0], -1, 1, 1)

    def key(self) -> Any:
        """The key of the folded weight among the module's tensors, or None."""
        parts: list[Any] = []
        for value in (self.weight, self.bias):
            if value is not None and value.source is None:
                return None
            parts.append(None if value is None else value.source)
        for kind, *values in self.scales:
            for part in values:
                if isinstance(part, Value):
                    if part.source is None:
                        return None
                    part = ("source", part.source)
                if isinstance(part, Branch):
                    part = part.key()
                    if part is None:
                        return None
                parts.append((kind, part))
        return tuple(parts)

    def magnitude(self, squares: Tensor, env: Callable[[Value], Tensor]) -> float:
        """The size of the terms of its sums, which they are rounded to.

        ``squares``: mean squares of the image's channels.  Where branches are added, their results
        count, too: they may be larger than the sum.
        """
        total = self._product(squares, env)
        if self.bias is not None:
            total += rms(env(self.bias))
        scale = 1.0
        for kind, *values in self.scales:
            if kind == "plus":
                branch = values[0]
                total = total * max(scale, 1.0) + branch.magnitude(squares, env)
                total, scale = total + rms(env(branch.output)), 1.0
            elif kind == "factor":
                scale *= abs(values[0])
            elif kind == "factors":
                scale *= float(env(values[0]).abs().max())
            else:
                gamma, _, _, variance, eps = values
                factor = (env(variance).double() + eps).rsqrt()
                if gamma is not None:
                    factor = factor * env(gamma).double()
                scale *= float(factor.abs().max())
        return total * max(scale, 1.0)

    def _product(self, squares: Tensor, env: Callable[[Value], Tensor]) -> float:
        """Root mean square of the convolution's results.

        Of a sum of uncorrelated terms: sum of the image's mean squares times the weights' squares;
        zeros around the image would make it less.
        """
        if self.weight is None:
            return float(squares.mean()) ** 0.5
        # (K, C / groups), transposed (C, K / groups)
        weights = env(self.weight).double().square().sum((2, 3)).unflatten(0, (self.groups, -1))
        terms = "gc,gck->gk" if self.transposed else "gc,gkc->gk"
        mean = torch.einsum(terms, squares.view(self.groups, -1), weights)
        return float(mean.mean()) ** 0.5


def _one_for_each(channels: int, per_group: int, device: torch.device) -> Tensor:
    """The weight (channels, per_group, 1, 1) of a convolution that gives the image itself."""
    w = torch.zeros(channels, per_group, 1, 1, dtype=torch.float64, device=device)
    index = torch.arange(channels, device=device)
    w[index, index % per_group] = 1.0
    return w
