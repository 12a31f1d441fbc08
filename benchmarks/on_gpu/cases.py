"""What is timed: a table of calls, each beside what one would use without this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
class Contender:
    """One way to compute a case's result."""

    run: Callable[[Tensors], Tensor]
    # Done once, before the clock: a layout, a weight that could be kept.
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors
    compiled: bool = False  # by torch.compile
    # What a dry run gets instead of a result, where there is no such operator on the CPU.
    dry_error: type[Exception] | None = None


@dataclass(frozen=True)
class Targets:
    """What our operator should reach on an H200."""

    microseconds: float | None = None
    # (contender, its time is at least so many times ours)
    ratio: tuple[str, float] | None = None
    copy_fraction: float | None = None  # of the measured bandwidth of copying


@dataclass(frozen=True)
class Case:
    """One call of one of our operators and everything it is held against."""

    name: str
    group: str
    needs: str  # the native operator; a build without its CUDA kernel leaves the case out
    # (batch, channels, height, width) of the input
    shape: tuple[int, int, int, int]
    dry_shape: tuple[int, int, int, int]
    dtype: torch.dtype
    make: Callable[[tuple[int, int, int, int], torch.device, int], Tensors]
    ours: Callable[[Tensors], Tensor]
    others: dict[str, Contender]
    moved_bytes: Callable[[tuple[int, int, int, int]], int]  # each tensor once
    operations: Callable[[tuple[int, int, int, int]], int]  # multiply and add count as two
    # For ops.explain: the operator and its arguments; None for a whole network.
    explained: Callable[[Tensors], tuple[Callable, tuple, dict]] | None = None
    targets: Targets = Targets()
    tf32: bool = False  # factors may be rounded to tf32, by everyone

    @property
    def contenders(self) -> dict[str, Contender]:
        return {"denoise_ext": Contender(self.ours), **self.others}

    @property
    def tolerance(self) -> float:
        return TF32_TOLERANCE if self.tf32 else TOLERANCE[self.dtype]

    @property
    def arithmetic(self) -> str:
        """Which of the measured ceilings bounds its arithmetic from above."""
        half = self.dtype in (torch.float16, torch.bfloat16) and "conv" in self.needs
        return "tf32" if self.tf32 else "bf16" if half else "float32"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def all_in(layout: torch.memory_format) -> Callable[[Tensors], Tensors]:
    """Bring every four-dimensional tensor into a memory layout."""

    def convert(tensors: Tensors) -> Tensors:
        return {
            name: x.contiguous(memory_format=layout) if x.dim() == 4 else x
            for name, x in tensors.items()
        }

    return convert


def uniform(
    shape: tuple[int, ...], device: torch.device, seed: int, low: float = 0.0, high: float = 1.0
) -> Tensor:
    if device.type == "meta":  # only shapes are asked for
        return torch.empty(shape, device=device)
    generator = torch.Generator(device).manual_seed(seed)
    return low + (high - low) * torch.rand(shape, device=device, generator=generator)


def random_weight(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of a convolution, so that values neither grow nor vanish."""
    fan_in = shape[1] * shape[2] * shape[3]
    w = uniform(shape, device, 7, -1.0, 1.0) * (3.0 / fan_in) ** 0.5
    return channels_last(w.to(dtype))
