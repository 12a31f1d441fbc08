"""What a case is: one piece of work, and every contender that can do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], object]
OURS = "denoise_ext"  # the contender that ratios and targets are about


class Absent(Exception):
    """Why a contender does not take part: not installed, or without the feature."""


@dataclass(frozen=True)
class Contender:
    """One way to do a case's work."""

    name: str
    # Everything that is done once comes before the clock: weights, compilation, buffers. On a GPU
    # the result is a list of calls, one for each set of tensors.
    make: Callable[[], Any]
    # The result as a tensor of the case's shape, to be compared; None: another function (a network
    # with weights of its own) of the same size.
    result: Callable[[object], Tensor] | None = torch.as_tensor
    # {"operations", "moved_bytes"} where they are not the case's: a network of another size.
    rates: dict[str, float] | None = None


@dataclass(frozen=True)
class Work:
    """A case with its data. The first contender's result is what the others' must be."""

    contenders: list[Contender]
    operations: float  # multiplications and additions of the direct algorithm
    moved_bytes: float  # every input and output once
    tolerance: float  # largest difference, as a part of the largest value of the result


@dataclass(frozen=True)
class Target:
    """``ours`` is ``least`` times as fast as the fastest of ``rivals``, as a time or as copying."""

    least: float
    rivals: tuple[str, ...] = ()
    ours: str = OURS
    seconds: float | None = None
    copying: bool = False  # of the bytes that the case moves, at the measured bandwidth


@dataclass(frozen=True)
class Case:
    """``build(tiny)`` makes the work; tiny for a dry run."""

    name: str
    build: Callable[[bool], Work]
    targets: tuple[Target, ...] = ()
    weight: float = 1.0  # share of its suite's time


def uniform(
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    if torch.device(device).type == "meta":  # a shape without values
        return torch.empty(shape, device=device)
    generator = torch.Generator(device).manual_seed(seed)
    return low + (high - low) * torch.rand(shape, device=device, generator=generator)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def channels_last_module(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)


def bytes_of(*tensors: Tensor) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
