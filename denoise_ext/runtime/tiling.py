"""Cutting an image into tiles whose results, put together, are the result of the whole.

A tile is computed from a window of the image: a pixel of the result is kept where everything it
depends on (`Geometry.radius`) lies inside the window, or where the window ends at the image's own
border, which the network then sees as it would in the whole image. Windows begin at multiples of
what the network commutes with (`Geometry.stride`) and of the blocks its kernels compute in, and all
windows of an image have one size, so that one plan with one block of memory serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from denoise_ext.models.network import Network, Port, Tensors

# Winograd's F(m x m, 3x3) computes blocks of m x m outputs: to be the same blocks in the tile and
# in the whole image, they must begin at the same pixels.
# "strict" has none; "fast" 4 and 6.
_BLOCKS = {"strict": 1, "default": 4, "fast": 12, "bfloat16": 4, "float16": 4}


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

    @property
    def window(self) -> tuple[slice, slice]:
        """What is read of the image."""
        rows, columns = self.rows, self.columns
        return slice(rows.start, rows.stop), slice(columns.start, columns.stop)

    @property
    def kept(self) -> tuple[slice, slice]:
        """What is written of the image."""
        rows, columns = self.rows, self.columns
        return slice(rows.first, rows.last), slice(columns.first, columns.last)

    @property
    def inside(self) -> tuple[slice, slice]:
        """Where `kept` lies in the window."""
        return tuple(
            slice(span.first - span.start, span.last - span.start)
            for span in (self.rows, self.columns)
        )  # type: ignore[return-value]


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
    """What a network asks of tiles."""

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
    return Rule(radius, stride * _BLOCKS[precision], seam)


def grid(height: int, width: int, window: tuple[int, int], tiles: Rule) -> Grid:
    """Tiles for an image, each from a window of at most (rows, columns) `window`.

    Raises:
        ValueError: a window that is smaller than the image and than `tiles.smallest`.
    """
    return Grid(spans(height, window[0], tiles), spans(width, window[1], tiles))


def spans(size: int, most: int, tiles: Rule) -> tuple[Span, ...]:
    """Cut one axis: as few windows of at most `most` pixels as will do, and these no larger than
    their number asks for.
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


Compute = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]


def run_tiles(
    network: Network, compute: Compute, tiles: Grid, inputs: Tensors, state: Tensors
) -> tuple[Tensors, Tensors]:
    """Compute outputs and next state tile by tile.

    The state is kept for whole images: what a tile's kept part says of the next state is what the
    tiles of the next call read, so that seams cannot drift apart in time.

    Args:
        network: whose signature the tensors have.
        compute: its `compute_any_size`, or a plan of it.
        tiles: from a `rule` with the network's geometry, for the size of its reference input.
        inputs, state: whole.  Neither is changed.
    """
    signature = network.signature
    height, width = inputs[signature.reference].shape[-2:]
    outputs: Tensors = {}
    after: Tensors = {}
    for tile in tiles:
        spans = (tile.rows, tile.columns)
        results, next_state = compute(
            {name: _window(inputs[name], port, spans) for name, port in signature.inputs.items()},
            {
                name: _window(state[name], port, [_padded(span, network) for span in spans])
                for name, port in signature.state.items()
            },
        )
        for name, port in signature.outputs.items():
            _keep(outputs, name, results[name], port, spans, (height, width))
        full = (network.padded(height), network.padded(width))
        spans = tuple(
            replace(span, last=most) if span.last == size else span
            for span, size, most in zip(spans, (height, width), full, strict=True)
        )
        for name, port in signature.state.items():
            _keep(after, name, next_state[name], port, spans, full)
    return outputs, after


def _padded(span: Span, network: Network) -> Span:
    """The window as the network pads it: a state is that large."""
    return replace(span, stop=span.start + network.padded(span.stop - span.start))


def _window(x: Tensor, port: Port, spans: Iterable[Span]) -> Tensor:
    if port.kind == "condition" and x.shape[-2:] == (1, 1):
        return x
    return x[(..., *(slice(port.size(s.start), port.size(s.stop)) for s in spans))]


def _keep(
    whole: Tensors, name: str, part: Tensor, port: Port, spans: tuple[Span, ...],
    size: tuple[int, int],
) -> None:  # fmt: skip
    """Write what a tile keeps of a port where it belongs."""
    if name not in whole:
        rows, columns = (port.size(length) for length in size)
        whole[name] = part.new_empty(*part.shape[:2], rows, columns)
    target = tuple(slice(port.size(s.first), port.size(s.last)) for s in spans)
    inside = tuple(
        slice(t.start - port.size(s.start), t.stop - port.size(s.start))
        for t, s in zip(target, spans, strict=True)
    )
    whole[name][(..., *target)] = part[(..., *inside)]
