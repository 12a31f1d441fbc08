"""The parts of a large image that are looked at in place of the whole."""

from __future__ import annotations

import math

from torch import Tensor

_PIXELS = 1 << 19  # that are looked at: larger images through tiles spread over them
_TILE = 128  # their side


def sample_of(channel: Tensor) -> list[Tensor]:
    """(H, W), or of a large one tiles spread over it."""
    return [channel[place] for place in sample_places(*channel.shape)]


def sample_places(
    height: int, width: int, most: int = _PIXELS, side: int = _TILE
) -> list[tuple[slice, slice]]:
    """The whole image if it has at most so many pixels, else tiles spread over it."""
    if height * width <= most:
        return [(slice(None), slice(None))]
    tiles = most // side**2
    rows = min(max(1, round(math.sqrt(tiles * height / width))), tiles, -(-height // side))
    columns = min(max(1, tiles // rows), -(-width // side))
    ys, xs = _starts(height, rows, side), _starts(width, columns, side)
    return [(slice(y, y + side), slice(x, x + side)) for y in ys for x in xs]


def _starts(size: int, count: int, side: int) -> list[int]:
    """Where so many tiles begin, evenly from edge to edge."""
    return [i * (size - min(size, side)) // max(count - 1, 1) for i in range(count)]
