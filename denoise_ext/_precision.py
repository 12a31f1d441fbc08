"""The precisions a network is computed in: one table for the engine, inference and the commands."""

from __future__ import annotations

from dataclasses import dataclass

ALGORITHMS = ("strict", "default", "fast")
"""Which algorithms convolutions may use; see `ops.conv2d`."""


@dataclass(frozen=True)
class Precision:
    """A name of `PRECISIONS`."""

    name: str
    algorithm: str
    """Of `ALGORITHMS`."""
    dtype: str | None
    """torch's name of the type that weights and intermediate tensors are stored in; None: the
    network's own."""
    block: int
    """Winograd's F(m x m, 3x3) computes blocks of m x m outputs. Tiles that begin at multiples of
    this number of pixels have the same blocks as the whole image: "fast" has m = 4 and 6."""


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("strict", "strict", None, 1),
        Precision("default", "default", None, 4),
        Precision("fast", "fast", None, 12),
        Precision("bfloat16", "default", "bfloat16", 4),
        Precision("float16", "default", "float16", 4),
    )
}
