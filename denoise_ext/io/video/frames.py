"""A video frame: its stored planes, and its picture in RGB or gray.

Y'CbCr is converted by the matrices of ITU-T H.273 (Kr, Kb below). Only the *difference* to a
changed picture is added to the stored planes. An unchanged picture leaves every plane as it was,
bit for bit, with any chroma subsampling.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

# ITU-T H.273, table 4 (MatrixCoefficients): code -> (Kr, Kb)
_BT709, _BT601 = (0.2126, 0.0722), (0.299, 0.114)
_MATRICES = {1: _BT709, 4: (0.30, 0.11), 5: _BT601, 6: _BT601, 7: (0.212, 0.087),
             9: (0.2627, 0.0593)}  # fmt: skip
_HIGH_DEFINITION = 720  # rows from which an unstated matrix is taken to be BT.709


@dataclass(frozen=True)
class Colour:
    """What the numbers of the planes mean."""

    kind: str
    """"gray", "ycbcr" (planes Y, Cb, Cr) or "gbr" (planes G, B, R)."""
    bits: int
    full_range: bool
    matrix: int = 2
    """MatrixCoefficients of ITU-T H.273; 2: not stated."""

    @property
    def black_and_span(self) -> tuple[float, float]:
        """The number of black, and that of white less that of black."""
        if self.full_range or self.kind == "gbr":
            return 0.0, float((1 << self.bits) - 1)
        return float(16 << (self.bits - 8)), float(219 << (self.bits - 8))

    @property
    def chroma_span(self) -> float:
        """From one end of Cb or Cr to the other."""
        return float((1 << self.bits) - 1 if self.full_range else 224 << (self.bits - 8))


@dataclass(frozen=True)
class VideoFrame:
    """One frame."""

    planes: tuple[np.ndarray, ...] = field(repr=False)
    """(H, W) each, chroma smaller where it is subsampled; uint8, or uint16 above 8 bits."""
    colour: Colour
    pts: int
    """When it is shown, in units of `time_base`."""
    time_base: Fraction
    corrupt: bool = False
    """The decoder found it damaged; what it made of it is in the planes."""

    @property
    def seconds(self) -> float:
        """When it is shown."""
        return float(self.pts * self.time_base)

    def picture(self) -> np.ndarray:
        """float32 (H, W) gray or (H, W, 3) RGB; 0 is black and 1 white, some are beyond."""
        black, span = self.colour.black_and_span
        if self.colour.kind == "gray":
            return (self.planes[0].astype(np.float32) - black) / span
        if self.colour.kind == "gbr":
            green, blue, red = self.planes
            return np.stack([red, green, blue], axis=-1).astype(np.float32) / span
        luma = (self.planes[0].astype(np.float32) - black) / span
        middle, chroma = float(1 << (self.colour.bits - 1)), self.colour.chroma_span
        cb, cr = (
            _widened((plane.astype(np.float32) - middle) / chroma, luma.shape)
            for plane in self.planes[1:]
        )
        kr, kb = self._coefficients()
        red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
        green = (luma - kr * red - kb * blue) / (1 - kr - kb)
        return np.stack([red, green, blue], axis=-1)

    def with_picture(self, picture: np.ndarray) -> VideoFrame:
        """The frame with another picture (as `picture` gives it), rounded to the stored depth.

        Raises:
            ValueError: a picture of another shape.
        """
        before = self.picture()
        if picture.shape != before.shape:
            raise ValueError(f"picture must be {before.shape}, got {picture.shape}")
        change = picture.astype(np.float32, copy=False) - before
        _, span = self.colour.black_and_span
        if self.colour.kind == "gray":
            changes = [change * span]
        elif self.colour.kind == "gbr":
            changes = [change[..., i] * span for i in (1, 2, 0)]
        else:
            kr, kb = self._coefficients()
            red, green, blue = (change[..., i] for i in range(3))
            luma = kr * red + (1 - kr - kb) * green + kb * blue
            cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
            chroma = self.colour.chroma_span
            small = [_narrowed(c, p.shape) * chroma for c, p in zip((cb, cr), self.planes[1:])]
            changes = [luma * span, *small]
        highest = (1 << self.colour.bits) - 1
        planes = tuple(
            np.rint(plane + delta).clip(0, highest).astype(plane.dtype)
            for plane, delta in zip(self.planes, changes)
        )
        return dataclasses.replace(self, planes=planes)

    def _coefficients(self) -> tuple[float, float]:
        high = self.planes[0].shape[0] >= _HIGH_DEFINITION
        return _MATRICES.get(self.colour.matrix, _BT709 if high else _BT601)


def _widened(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A subsampled plane at full size: each number is repeated."""
    for axis in (0, 1):
        if (factor := -(-shape[axis] // plane.shape[axis])) > 1:
            plane = plane.repeat(factor, axis)
    return plane[: shape[0], : shape[1]]


def _narrowed(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A full-size plane at a subsampled size: the mean of each block of pixels."""
    factors = [-(-full // small) for full, small in zip(plane.shape, shape)]
    missing = [(0, f * small - full) for f, small, full in zip(factors, shape, plane.shape)]
    plane = np.pad(plane, missing, mode="edge")
    return plane.reshape(shape[0], factors[0], shape[1], factors[1]).mean(axis=(1, 3))


def windows(frames: Iterable[VideoFrame], radius: int) -> Iterator[tuple[VideoFrame, ...]]:
    """Every frame with its `radius` neighbours on each side, for models that look along time.

    2 * radius + 1 frames, the one meant in the middle; at the ends the outermost is repeated. Only
    a window is in memory.
    """
    if radius < 0:
        raise ValueError(f"radius must be >= 0, got {radius}")
    held: deque[VideoFrame] = deque(maxlen=2 * radius + 1)
    for frame in _padded(frames, radius):
        held.append(frame)
        if len(held) == held.maxlen:
            yield tuple(held)


def _padded(frames: Iterable[VideoFrame], radius: int) -> Iterator[VideoFrame]:
    frame = None
    for number, frame in enumerate(frames):
        yield from [frame] * (1 if number else radius + 1)
    if frame is not None:
        yield from [frame] * radius
