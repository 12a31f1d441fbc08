"""Cut an image into tiles whose joined results equal the result of the whole image.

Each tile is computed from a window of the image. A pixel of the result is kept if everything that
it depends on (`Geometry.radius`) lies inside the window. Pixels at the image's own border are kept,
too: the network pads there as it does for the whole image. Windows begin at multiples of
`Geometry.stride` and of the blocks of the kernels. All windows of an image have one size, so that
one plan and one block of memory serve all tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from denoise_ext._precision import PRECISIONS
from denoise_ext.models.network import Network, Port, Tensors


@dataclass(frozen=True)
class Span:
    """One axis of a tile: computed from pixels [start, stop), kept in [first, last)."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a tile."""

    rows: Span
    columns: Span


@dataclass(frozen=True)
class Grid:
    """The tiles of an image, row by row; every pixel is kept by exactly one of them."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        return (Tile(rows, columns) for rows in self.rows for columns in self.columns)


@dataclass(frozen=True)
class Rule:
    """The constraints of a network on its tiles."""

    radius: int
    """Overlap in pixels: how far a pixel of the result reads."""
    alignment: int
    """Windows begin at multiples of so many pixels."""
    seam: int = 1
    """Tiles meet at multiples of so many pixels, where every port has a whole number of values."""

    @property
    def overlap(self) -> int:
        """What neighbouring windows share at least: the radius of both, and room for a seam."""
        return 2 * self.radius + self.seam - 1

    @property
    def smallest(self) -> int:
        """Side of the smallest window that is sure to be of use, whatever the image's size."""
        return self.overlap + 2 * self.alignment - 1


def rule(radius: int, stride: int, precision: str, seam: int = 1) -> Rule:
    """The rule for a network of that `Geometry`, computed with that precision.

    ``seam``: the alignment of its ports, `Signature.alignment`.
    """
    return Rule(radius, stride * PRECISIONS[precision].block, seam)


def grid(height: int, width: int, window: tuple[int, int], tiles: Rule) -> Grid:
    """Tiles for an image, each from a window of at most (rows, columns) `window`.

    Raises:
        ValueError: a window that is smaller than the image and than `tiles.smallest`.
    """
    return Grid(spans(height, window[0], tiles), spans(width, window[1], tiles))


def spans(size: int, most: int, tiles: Rule) -> tuple[Span, ...]:
    """Cut one axis into the fewest windows of at most `most` pixels.

    The windows are as small as that number of them allows.
    """
    if size <= most:
        return (Span(0, size, 0, size),)
    if most < tiles.smallest:
        raise ValueError(
            f"a tile of {most} pixels is too small for this network: it needs an overlap of"
            f" {tiles.radius} on each side and an alignment of {tiles.alignment}, which makes"
            f" {tiles.smallest}"
        )
    unit = tiles.alignment
    # As far from a multiple of the alignment as the image: the last window then begins at one.
    length = most - (most - size) % unit
    count = 1 + -(-(size - length) // _step(length, tiles))
    while size - length + unit <= (count - 1) * _step(length - unit, tiles):
        length -= unit
    last = size - length
    starts = [i * (last // unit) // (count - 1) * unit for i in range(count)]
    return tuple(_with_seams(starts, length, size, tiles.seam))


def _step(length: int, tiles: Rule) -> int:
    """How far apart windows may begin."""
    return (length - tiles.overlap) // tiles.alignment * tiles.alignment


def _with_seams(starts: list[int], length: int, size: int, seam: int) -> Iterator[Span]:
    """Neighbours meet in the middle of what both have, or at the nearest place for a seam."""
    middles = ((a + length + b) // 2 for a, b in pairwise(starts))
    seams = [0, *(-(-(place - (seam - 1) // 2) // seam) * seam for place in middles), size]
    for i, start in enumerate(starts):
        yield Span(start, start + length, seams[i], seams[i + 1])


def window_for(height: int, width: int, pixels: float) -> tuple[int, int]:
    """(rows, columns) of the largest window of at most so many pixels: square where it fits."""
    side = max(1, math.isqrt(int(pixels)))
    columns = min(width, side)
    rows = min(height, int(pixels) // columns)
    return max(rows, 1), min(width, max(int(pixels) // max(rows, 1), 1))


Places = dict[str, tuple[slice, slice]]
"""Rows and columns of each port."""
Read = Callable[[Places], Tensors]
"""Gives the inputs at these places."""
Write = Callable[[Places, Tensors], None]
"""Takes the outputs that belong at these places."""
Compute = Callable[[Tensors, Tensors | None], tuple[Tensors, Tensors]]


def run_tiles(
    network: Network,
    compute: Compute,
    tiles: Grid,
    read: Read,
    write: Write,
    state: Tensors | None = None,
) -> Tensors:
    """Compute outputs and next state tile by tile; returns the next state.

    Inputs and outputs are read and written part by part. The state is kept for whole images. The
    tiles of the next call read windows of this state, so that seams cannot drift apart in time.

    Args:
        network: the tensors have its signature.
        compute: returns outputs and next state: `Network.compute_any_size`, or a plan of it.
        tiles: from a `rule` with the network's geometry, for the size of its reference input.
        state: whole, not changed; None: the network's `initial_state`.
    """
    signature = network.signature
    after: Tensors = {}
    size = (tiles.rows[-1].last, tiles.columns[-1].last)
    full = (network.padded(size[0]), network.padded(size[1]))
    for tile in tiles:
        spans = (tile.rows, tile.columns)
        inputs = read({name: _window(port, spans) for name, port in signature.inputs.items()})
        before = state
        if state:
            padded = [replace(s, stop=s.start + network.padded(s.stop - s.start)) for s in spans]
            before = {
                name: state[name][(..., *_window(port, padded))]
                for name, port in signature.state.items()
            }
        results, next_state = compute(inputs, before)
        places, parts = {}, {}
        for name, port in signature.outputs.items():
            places[name], parts[name] = _kept(port, spans, results[name])
        write(places, parts)
        # What the padding of the whole image makes of the state is kept too.
        rows, columns = (
            replace(span, last=most) if span.last == end else span
            for span, end, most in zip(spans, size, full, strict=True)
        )
        spans = (rows, columns)
        for name, port in signature.state.items():
            place, part = _kept(port, spans, next_state[name])
            _put(after, name, part, place, (port.size(full[0]), port.size(full[1])))
    return after


def _window(port: Port, spans: Iterable[Span]) -> tuple[slice, slice]:
    rows, columns = (slice(port.size(s.start), port.size(s.stop)) for s in spans)
    return rows, columns


def _kept(port: Port, spans: Sequence[Span], x: Tensor) -> tuple[tuple[slice, slice], Tensor]:
    """Where what a tile keeps of a port belongs, and that part of its tensor."""
    rows, columns = (slice(port.size(s.first), port.size(s.last)) for s in spans)
    top, left = (port.size(s.start) for s in spans)
    inner_rows = slice(rows.start - top, rows.stop - top)
    inner_columns = slice(columns.start - left, columns.stop - left)
    return (rows, columns), x[..., inner_rows, inner_columns]


def _put(
    whole: Tensors, name: str, part: Tensor, place: tuple[slice, slice], size: tuple[int, int]
) -> None:
    """Write a part of a state; one of a wider type, computed again, makes all of it wider."""
    if name not in whole:
        whole[name] = part.new_empty(*part.shape[:2], *size)
    whole[name] = whole[name].to(torch.promote_types(whole[name].dtype, part.dtype))
    whole[name][(..., *place)] = part
