"""A video frame: its stored planes, and its picture in RGB or gray.

Y'CbCr is converted by the matrices of ITU-T H.273 (Kr, Kb below). A number of chroma serves all
pixels of its block, and comes back as their mean. An unchanged picture therefore leaves every plane
as it was, bit for bit, with any chroma subsampling.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
    """What the numbers of the planes mean.

    Example:
        >>> colour = denoise_ext.io.video.Colour("ycbcr", bits=10, full_range=False, matrix=1)
        >>> colour.black_and_span
        (64.0, 876.0)
    """

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
    """One frame.

    Example:
        >>> with denoise_ext.io.video.read_video("film.y4m") as video:
        ...     frame = next(iter(video))
        >>> frame.picture().shape, [plane.shape for plane in frame.planes]
        ((32, 48, 3), [(32, 48), (16, 24), (16, 24)])
        >>> darker = frame.with_picture(0.5 * frame.picture())
    """

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
        luma = (self.planes[0].astype(np.float32) - black) / np.float32(span)
        middle, chroma = float(1 << (self.colour.bits - 1)), self.colour.chroma_span
        cb, cr = (
            (plane.astype(np.float32) - np.float32(middle)) / np.float32(chroma)
            for plane in self.planes[1:]
        )
        kr, kb = self._coefficients()
        red, blue = 2 * (1 - kr) * cr, 2 * (1 - kb) * cb
        green = (kr * red + kb * blue) / -(1 - kr - kb)
        picture = np.empty((*luma.shape, 3), np.float32)
        # Chroma is converted at its own size; each number serves a block of pixels.
        for rows, columns in _phases(luma.shape, cb.shape):
            part = luma[rows, columns]
            for channel, offset in enumerate((red, green, blue)):
                same = offset[: part.shape[0], : part.shape[1]]
                np.add(part, same, out=picture[rows, columns, channel])
        return picture

    def with_picture(self, picture: np.ndarray) -> VideoFrame:
        """The frame with another picture (as `picture` gives it), rounded to the stored depth.

        Raises:
            ValueError: a picture of another shape.
        """
        shape = self.planes[0].shape + ((3,) if self.colour.kind != "gray" else ())
        if picture.shape != shape:
            raise ValueError(f"picture must be {shape}, got {picture.shape}")
        picture = picture.astype(np.float32, copy=False)
        black, span = self.colour.black_and_span
        if self.colour.kind == "gray":
            levels = [picture * span + black]
        elif self.colour.kind == "gbr":
            levels = [picture[..., i] * span for i in (1, 2, 0)]
        else:
            levels = self._ycbcr(picture)
        return self._stored(levels)

    @property
    def subsampled(self) -> bool:
        """Whether it is Y'CbCr whose chroma is smaller than its brightness, as in 4:2:0."""
        return self.colour.kind == "ycbcr" and self.planes[1].shape != self.planes[0].shape

    def unit_planes(self) -> tuple[np.ndarray, ...]:
        """The planes of Y'CbCr as they are stored, in float32.

        Brightness is 0 for black and 1 for white. Cb and Cr are 0.5 without colour, and 1 apart
        from end to end.
        """
        return tuple(
            np.subtract(plane, np.float32(zero), dtype=np.float32) / np.float32(span)
            for plane, (zero, span) in zip(self.planes, self._scales())
        )

    def with_unit_planes(self, planes: Sequence[np.ndarray]) -> VideoFrame:
        """The frame with other planes (as `unit_planes` gives them), rounded to the stored depth.

        Raises:
            ValueError: planes of other shapes.
        """
        shapes, given = ([plane.shape for plane in x] for x in (self.planes, planes))
        if shapes != given:
            raise ValueError(f"planes must be {shapes}, got {given}")
        scaled = zip(planes, self._scales())
        return self._stored([plane * np.float32(span) + zero for plane, (zero, span) in scaled])

    def noise_gains(self) -> tuple[float, float, float]:
        """What white noise of 1 in R, G and B is in each of `unit_planes`: standard deviations.

        The noise is as strong before chroma is subsampled, which takes the mean of its pixels.
        """
        brightness, blue, red = (float(np.linalg.norm(row)) for row in self._rows())
        pixels = math.prod(
            -(-large // small) for large, small in zip(self.planes[0].shape, self.planes[1].shape)
        )
        return brightness, blue / math.sqrt(pixels), red / math.sqrt(pixels)

    def _stored(self, levels: Sequence[np.ndarray]) -> VideoFrame:
        """The frame with these numbers, which are overwritten, rounded to the stored depth."""
        highest = (1 << self.colour.bits) - 1
        planes = tuple(
            np.rint(level, out=level).clip(0, highest, out=level).astype(plane.dtype)
            for plane, level in zip(self.planes, levels)
        )
        return dataclasses.replace(self, planes=planes)

    def _scales(self) -> list[tuple[float, float]]:
        """Of each plane of Y'CbCr: the number that is 0 in `unit_planes`, and what is 1 more."""
        span = self.colour.chroma_span
        return [self.colour.black_and_span, *2 * [((1 << (self.colour.bits - 1)) - span / 2, span)]]

    def _rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y, Cb and Cr by R, G and B; each from end to end is 1."""
        kr, kb = self._coefficients()
        luma = np.array([kr, 1 - kr - kb, kb])
        blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - kb))
        red = (np.array([1, 0, 0]) - luma) / (2 * (1 - kr))
        return luma, blue, red

    def _ycbcr(self, picture: np.ndarray) -> list[np.ndarray]:
        """The levels of Y, Cb and Cr of a picture, not rounded; chroma at its own size."""
        luma, blue, red = self._rows()
        black, span = self.colour.black_and_span
        small = _narrowed(picture, self.planes[1].shape)
        middle, chroma = 1 << (self.colour.bits - 1), self.colour.chroma_span
        return [
            picture @ (luma * span).astype(np.float32) + np.float32(black),
            *(
                small @ (weights * chroma).astype(np.float32) + np.float32(middle)
                for weights in (blue, red)
            ),
        ]

    def _coefficients(self) -> tuple[float, float]:
        high = self.planes[0].shape[0] >= _HIGH_DEFINITION
        return _MATRICES.get(self.colour.matrix, _BT709 if high else _BT601)


def _phases(full: tuple[int, int], small: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """The pixels at each place in the blocks that share a number of chroma: rows and columns."""
    down, right = (-(-large // part) for large, part in zip(full, small))
    for row in range(min(down, full[0])):
        for column in range(min(right, full[1])):
            yield slice(row, None, down), slice(column, None, right)


def _narrowed(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) at the size of subsampled chroma: the mean of each block of pixels."""
    if picture.shape[:2] == shape:
        return picture
    down, right = (-(-full // small) for full, small in zip(picture.shape, shape))
    missing = [(0, f * part - full) for f, part, full in zip((down, right), shape, picture.shape)]
    if any(after for _, after in missing):
        picture = np.pad(picture, [*missing, (0, 0)], mode="edge")
    total = np.zeros((*shape, 3), np.float32)
    for rows, columns in _phases(picture.shape[:2], shape):
        total += picture[rows, columns]
    total /= down * right
    return total


def windows(frames: Iterable[VideoFrame], radius: int) -> Iterator[tuple[VideoFrame, ...]]:
    """Every frame with its `radius` neighbours on each side, for models that look along time.

    2 * radius + 1 frames, the one meant in the middle; at the ends the outermost is repeated. Only
    a window is in memory.

    Example:
        >>> with denoise_ext.io.video.read_video("film.y4m") as video:
        ...     triples = denoise_ext.io.video.windows(video, radius=1)
        ...     [[frame.pts for frame in triple] for triple in triples]
        [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
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
