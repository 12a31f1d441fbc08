"""Streams of y4m, written here by hand."""

from __future__ import annotations

import numpy as np

# tag -> columns and rows that share a number of chroma (None: gray), bits
FORMATS: dict[str, tuple[tuple[int, int] | None, int]] = {
    "420jpeg": ((2, 2), 8), "420mpeg2": ((2, 2), 8), "420paldv": ((2, 2), 8), "420": ((2, 2), 8),
    "422": ((2, 1), 8), "444": ((1, 1), 8), "411": ((4, 1), 8), "mono": (None, 8),
    "420p10": ((2, 2), 10), "422p10": ((2, 1), 10), "444p10": ((1, 1), 10),
    "420p12": ((2, 2), 12), "444p16": ((1, 1), 16), "mono10": (None, 10), "mono16": (None, 16),
}  # fmt: skip


def planes_of(tag: str, frames: int, width: int, height: int) -> list[list[np.ndarray]]:
    """Random planes of every frame."""
    shared, bits = FORMATS[tag]
    rng = np.random.default_rng(0)
    shapes = [(height, width)]
    if shared is not None:
        shapes += [(-(-height // shared[1]), -(-width // shared[0]))] * 2
    kind = np.uint8 if bits == 8 else "<u2"
    low, high = 1 << (bits - 2), 3 << (bits - 2)
    return [
        [rng.integers(low, high, shape).astype(kind) for shape in shapes] for _ in range(frames)
    ]


def y4m(
    tag: str = "420jpeg", frames: int = 3, width: int = 21, height: int = 13,
    words: str = "F30000:1001 Ip A1:1",
) -> bytes:  # fmt: skip
    """A whole stream."""
    header = f"YUV4MPEG2 W{width} H{height} {words} C{tag}\n".encode()
    parts = [header]
    for planes in planes_of(tag, frames, width, height):
        parts += [b"FRAME\n", *(plane.tobytes() for plane in planes)]
    return b"".join(parts)
