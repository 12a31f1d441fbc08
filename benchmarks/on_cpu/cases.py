"""What a case is: one piece of work, and everyone who can do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Call = Callable[[], object]
OURS = "denoise_ext"  # the contender that ratios and targets are about
FAST, PACKED = f"{OURS} precision=fast", f"{OURS} packed, out="
CHANNELS_LAST = "torch channels_last"
NCHW = "torch NCHW"
COMPILED = "torch.compile, frozen"
ONNX_RUNTIME = "ONNX Runtime"
OPENVINO = "OpenVINO"


class Absent(Exception):
    """Why a contender does not take part: not installed, or without the feature."""


@dataclass(frozen=True)
class Contender:
    """One way to do a case's work."""

    name: str
    # Everything that is done once comes before the clock: weights, compilation, buffers.
    make: Callable[[], Call]
    # The result as a tensor of the case's shape, to be compared; None: another function (a network
    # with weights of its own) of the same size.
    result: Callable[[object], Tensor] | None = torch.as_tensor
    # {"operations", "moved_bytes"} where they are not the case's: a network of another size.
    rates: dict[str, float] | None = None

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)


@dataclass(frozen=True)
class Work:
    """A case with its data. The first contender's result is what the others' must be."""

    contenders: list[Contender]
    operations: float  # multiplications and additions of the direct algorithm
    moved_bytes: float  # every input and output once
    tolerance: float  # largest difference, as a part of the largest value of the result


@dataclass(frozen=True)
class Target:
    """``ours`` is ``least`` times faster than the fastest of ``rivals``."""

    least: float
    rivals: tuple[str, ...]
    ours: str = OURS


@dataclass(frozen=True)
class Case:
    """``build(tiny)`` makes the work; tiny for a dry run."""

    name: str
    build: Callable[[bool], Work]
    targets: tuple[Target, ...] = ()
    weight: float = 1.0  # share of its subject's time


def uniform(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(shape, generator=generator)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def channels_last_module(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)


def bytes_of(*tensors: Tensor) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
