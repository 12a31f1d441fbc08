"""Operators that write into given memory, by the kernel that is fastest on this GPU."""

from __future__ import annotations

from typing import Any

from denoise_ext.ops import _autotune


class Tuned:
    """``op`` by the fastest of our kernels that was measured for the geometry of a call.

    For plans, which compare themselves with PyTorch.  A CUDA graph records the measured kernel,
    for a plan's steps run once before they are recorded.
    """

    def __init__(self, op: Any) -> None:
        self.op = op

    def __call__(self, *arguments: Any) -> Any:
        """Run ``op(*arguments)``."""
        return _autotune.run(self.op, None, arguments)
