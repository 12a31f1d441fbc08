"""What a row of the tables of kernels is: a call of ours, and what one would use instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.cases import OURS, Call, Contender, Target, Work, channels_last, uniform

Tensors = dict[str, Tensor]
Shape = tuple[int, int, int, int]
HD = (1080, 1920)
DRY = (9, 17)  # rows and columns: no multiple of any tile

# Results agree to this part of the largest value: a few roundings of the output's type, and for
# float32 a Winograd algorithm's or an FFT's own error.
TOLERANCE = {
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
    torch.float32: 2e-4,
    torch.uint8: 2.5 / 255,  # OpenCV computes them in fixed point, others in float32
}

# tf32 keeps 10 bits of the fraction: rounded, a factor is off by 2^-11 of itself, cut off by 2^-10,
# so a product by up to 2^-9 = 2e-3.
TF32_TOLERANCE = 2.0**-9


@dataclass(frozen=True)
class Way:
    """One way to compute a case's result from its tensors."""

    run: Callable[[Tensors], Tensor]
    # Done once, before the clock: a layout, a weight that could be kept.
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors
    compiled: bool = False  # by torch.compile


@dataclass(frozen=True)
class KernelCase:
    """One call of one of our operators and everything it is compared with."""

    name: str
    group: str
    needs: str  # the native operator; a build without its CUDA kernel leaves the case out
    # (batch, channels, height, width) of the input
    shape: tuple[int, int, int, int]
    dry_shape: tuple[int, int, int, int]
    dtype: torch.dtype
    make: Callable[[tuple[int, int, int, int], torch.device, int], Tensors]
    ours: Callable[[Tensors], Tensor]
    others: dict[str, Way]
    moved_bytes: Callable[[tuple[int, int, int, int]], int]  # each tensor once
    operations: Callable[[tuple[int, int, int, int]], int]  # multiply and add count as two
    # For ops.explain: the operator and its arguments; None for a whole network.
    explained: Callable[[Tensors], tuple[Callable, tuple, dict]] | None = None
    targets: tuple[Target, ...] = ()  # on an H200
    tf32: bool = False  # factors may be rounded to tf32, by every contender

    def work(
        self, shape: Shape, sets: list[Tensors], compile: Callable[[Callable], Callable]
    ) -> Work:
        """Every contender makes a call for each set of tensors; `compile`: torch.compile."""

        def make(way: Way) -> list[Call]:
            run = compile(way.run) if way.compiled else way.run
            return [partial(run, way.prepare(tensors)) for tensors in sets]

        ways = {OURS: Way(self.ours), **self.others}
        contenders = [Contender(name, partial(make, way)) for name, way in ways.items()]
        return Work(contenders, self.operations(shape), self.moved_bytes(shape), self.tolerance)

    @property
    def tolerance(self) -> float:
        return TF32_TOLERANCE if self.tf32 else TOLERANCE[self.dtype]

    @property
    def arithmetic(self) -> str:
        """Which of the measured ceilings bounds its arithmetic from above."""
        half = self.dtype in (torch.float16, torch.bfloat16) and "conv" in self.needs
        return "tf32" if self.tf32 else "bf16" if half else "float32"


def micros(most: float) -> Target:
    """At most so many microseconds."""
    return Target(1.0, seconds=1e-6 * most)


def all_in(layout: torch.memory_format) -> Callable[[Tensors], Tensors]:
    """Bring every four-dimensional tensor into a memory layout."""

    def convert(tensors: Tensors) -> Tensors:
        return {
            name: x.contiguous(memory_format=layout) if x.dim() == 4 else x
            for name, x in tensors.items()
        }

    return convert


def both_layouts(run: Callable[[Tensors], Tensor]) -> dict[str, Way]:
    return {
        "torch eager NCHW": Way(run, all_in(torch.contiguous_format)),
        "torch eager channels_last": Way(run, all_in(torch.channels_last)),
    }


def random_weight(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of a convolution, so that values neither grow nor vanish."""
    fan_in = shape[1] * shape[2] * shape[3]
    w = uniform(shape, device, 7, -1.0, 1.0) * (3.0 / fan_in) ** 0.5
    return channels_last(w.to(dtype))
