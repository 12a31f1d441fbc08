"""Operators that write into given memory, by the kernel that is fastest on this GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

from denoise_ext.ops import _autotune


class Tuned:
    """``op`` by the fastest of our kernels that was measured for the geometry of a call.

    For plans, which compare themselves with PyTorch.  A CUDA graph records the measured kernel,
    for a plan's steps run once before they are recorded.

    Attributes:
        measured: what was measured for the last call's geometry; None: nothing.
    """

    def __init__(self, op: Any) -> None:
        self.op = op
        self.measured: _autotune.Choice | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Run ``op(*arguments)``."""
        choice = _autotune.choose(self.op, None, arguments)
        if choice is None:
            return self.op(*arguments)
        self.measured = choice if choice.seconds else None
        return _autotune.TUNER.follow(choice, partial(self.op, *arguments), None)
