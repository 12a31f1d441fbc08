"""The calls of the operators that are small enough for the CUDA emulator."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Call

# Work that takes the emulator seconds is left to test_ops_forward.py, in one order.
MOST_INPUT_ELEMENTS = 20_000
CALLS = [
    pytest.param(case, call, id=f"{case.name}-{name}")
    for case in CASES.values()
    for name, call in case.calls.items()
    if torch.Size(call.shapes["input"]).numel() <= MOST_INPUT_ELEMENTS
]
LAYOUTS = {torch.float32: "contiguous", torch.float16: "channels_last"}


def conv(input: tuple[int, ...], weight: tuple[int, ...], outputs: int, **options: object) -> Call:
    """A convolution, also transposed, with a bias for each of its outputs."""
    return Call({"input": input, "weight": weight, "bias": (outputs,)}, options)
