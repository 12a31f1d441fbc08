"""Which input pixels a value of a network depends on: intervals, exact for every phase of a stride.

Along one axis, value ``k * n + p`` of a feature map with ``n`` values for every ``period`` input
pixels depends on the input pixels from ``k * period + low[p]`` to ``k * period + high[p]``.  Layers
of any stride, up or down, map such a description to another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

# value number -> numbers of the values that it is computed from, one axis of one layer
Reads = Callable[[int], Iterable[int]]


@dataclass(frozen=True)
class Axis:
    """One axis of a feature map; a phase that depends on no pixel has (inf, -inf)."""

    period: int  # input pixels
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of_input(cls, scale: Fraction = Fraction(1)) -> Axis:
        """An input with ``scale`` values per pixel: each is the pixel that it lies in."""
        places = tuple(int(i / scale) for i in range(scale.numerator))
        return cls(scale.denominator, places, places)

    @property
    def count(self) -> int:
        """Values per period."""
        return len(self.low)

    def at(self, index: int) -> tuple[float, float]:
        """First and last input pixel of a value."""
        turn, phase = divmod(index, self.count)
        return turn * self.period + self.low[phase], turn * self.period + self.high[phase]

    def through(self, reads: Reads, out: int = 1, into: int = 1) -> Axis:
        """The axis after a layer with ``reads(i + out) == reads(i) + into``."""
        times = self.count // math.gcd(self.count, into)
        low, high = [], []
        for index in range(times * out):
            sources = [self.at(source) for source in reads(index)]
            low.append(min((first for first, _ in sources), default=math.inf))
            high.append(max((last for _, last in sources), default=-math.inf))
        return Axis(self.period * times * into // self.count, tuple(low), tuple(high))

    def joined(self, other: Axis) -> Axis:
        """What depends on both, value by value; ValueError where their resolutions differ."""
        if self.count * other.period != other.count * self.period:
            raise ValueError(
                f"values of different resolution meet: {self.count}/{self.period} and "
                f"{other.count}/{other.period} of the image's"
            )
        period = math.lcm(self.period, other.period)
        a, b = self._over(period), other._over(period)
        low = tuple(map(min, a.low, b.low))
        return Axis(period, low, tuple(map(max, a.high, b.high)))

    def _over(self, period: int) -> Axis:
        ends = [self.at(index) for index in range(self.count * period // self.period)]
        return Axis(period, tuple(low for low, _ in ends), tuple(high for _, high in ends))

    @property
    def scale(self) -> Fraction:
        """Values per input pixel."""
        return Fraction(self.count, self.period)

    def radius(self) -> int:
        """How far a value reads from the input pixel that it lies in."""
        places = [i * self.period // self.count for i in range(self.count)]
        before = (place - low for place, low in zip(places, self.low))
        after = (high - place for place, high in zip(places, self.high))
        return int(max(0, *before, *after))

    def window(self) -> int:
        """Input pixels that one whole period depends on."""
        return int(max(0, max(self.high) - min(self.low) + 1))


@dataclass(frozen=True)
class Extent:
    """The two axes of a feature map, and which of its dimensions they are."""

    rows: Axis
    columns: Axis
    dims: tuple[int, int] = (2, 3)

    def through(
        self,
        rows: Reads,
        columns: Reads,
        out: tuple[int, int] = (1, 1),
        into: tuple[int, int] = (1, 1),
    ) -> Extent:
        """See :meth:`Axis.through`; ``out`` and ``into`` for rows and columns."""
        return Extent(
            self.rows.through(rows, out[0], into[0]),
            self.columns.through(columns, out[1], into[1]),
            self.dims,
        )


def join(extents: Iterable[Extent]) -> Extent:
    """What depends on all of them, value by value."""

    def pair(a: Extent, b: Extent) -> Extent:
        if a.dims != b.dims:
            raise ValueError("values with their rows and columns in different dimensions meet")
        return Extent(a.rows.joined(b.rows), a.columns.joined(b.columns), a.dims)

    return reduce(pair, extents)
