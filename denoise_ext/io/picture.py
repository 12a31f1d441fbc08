"""`Picture`: the pixels of an image file with everything else in the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

_MODES = {1: "gray", 2: "gray+alpha", 3: "rgb", 4: "rgba"}


@dataclass(frozen=True)
class Metadata:
    """Everything in a file besides its pixels; opaque outside `denoise_ext.io`.

    Example:
        >>> metadata = denoise_ext.io.Metadata(pixels_per_metre=(11811.0, 11811.0))  # 300 DPI
        >>> scan = denoise_ext.io.picture_of(np.zeros((8, 8), np.uint8), metadata=metadata)
        >>> denoise_ext.io.write_picture("scan.tif", scan)
        >>> denoise_ext.io.read_picture("scan.tif").metadata.pixels_per_metre
        (11811.0..., 11811.0...)
    """

    icc_profile: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    """A TIFF structure, without the ``Exif\\0\\0`` in front of it."""
    xmp: bytes | None = field(default=None, repr=False)
    pixels_per_metre: tuple[float, float] | None = None
    """Horizontal, vertical."""
    premultiplied: bool = False
    """Whether colours are already multiplied by alpha."""
    required: tuple[str, ...] = ()
    """Parts of `Codec.keeps` without which the picture must not be written."""
    native: object = field(default=None, repr=False)
    """Data that only the picture's own format can hold, in the form of its codec."""


@dataclass(frozen=True)
class Picture:
    """One image file: every frame or page, and what is needed to write it again without a loss.

    Example:
        >>> pages = (np.zeros((8, 8), np.uint16), np.ones((8, 8), np.uint16))
        >>> stack = denoise_ext.io.Picture(pages, (0, 65535), "gray", "TIFF")
        >>> denoise_ext.io.write_picture("stack.tif", stack)
        >>> len(denoise_ext.io.read_picture("stack.tif").frames)
        2
    """

    frames: tuple[np.ndarray, ...] = field(repr=False)
    """Each (H, W) or (H, W, C), in the dtype of the file; bool for two-level images."""
    value_range: tuple[float, float]
    """The numbers that mean black and white."""
    mode: str
    """"gray", "gray+alpha", "rgb" or "rgba", the same for all frames."""
    format: str
    """The format of the content: "PNG", "JPEG", "TIFF", ... (names of `denoise_ext.io.CODECS`)."""
    metadata: Metadata = Metadata()
    notes: tuple[str, ...] = ()
    """Remarks on how the file was read, one line each."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of the arrays that the frames come from, in order, for files that do not name their
    axes (NPY, NPZ); empty for other formats."""

    def with_frames(self, frames: Iterable[np.ndarray]) -> Picture:
        """The same picture with other pixels: as many frames, each of its old height and width.

        Raises:
            ValueError: another number of frames, or another shape.
        """
        new = tuple(frames)
        shapes = [tuple(frame.shape) for frame in new]
        if shapes != (old := [tuple(frame.shape) for frame in self.frames]):
            raise ValueError(f"frames must have the shapes {old}, got {shapes}")
        return dataclasses.replace(self, frames=new)


def picture_of(array: np.ndarray, *, format: str = "", metadata: Metadata | None = None) -> Picture:
    """A picture of one frame from (H, W) or (H, W, 1..4) pixels.

    Example:
        >>> picture = denoise_ext.io.picture_of(np.zeros((8, 8, 3), np.uint16))
        >>> picture.mode, picture.value_range
        ('rgb', (0.0, 65535.0))
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _MODES):
        raise ValueError(f"array must be (H, W) or (H, W, 1..4), got shape {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"array is empty, shape {array.shape}")
    frame = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Picture(
        (frame,), value_range_of([frame]), mode_of(frame), format, metadata or Metadata()
    )


def mode_of(frame: np.ndarray) -> str:
    """The mode a frame's shape means."""
    return _MODES[1 if frame.ndim == 2 else frame.shape[2]]


def value_range_of(frames: Iterable[np.ndarray], full_scale: bool = True) -> tuple[float, float]:
    """Return the numbers that mean black and white in files that do not state them.

    bool: 0 and 1. uint8 and uint16: their full scale. Floating point that stays inside [0, 1]: 0
    and 1. Everything else (counts, Hounsfield units, elevations): the smallest and largest finite
    value there is. With `full_scale` off, integers go by their values, too.
    """
    frames = list(frames)
    dtype = frames[0].dtype
    if dtype == np.bool_:
        return 0.0, 1.0
    if full_scale and dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(dtype).max)
    lows, highs = zip(*(_extremes(frame) for frame in frames))
    low, high = min(lows), max(highs)
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    if not low < high:  # one value only, or none: any range that holds it
        return (low, low + 1) if np.isfinite(low) else (0.0, 1.0)
    return low, high


def _extremes(frame: np.ndarray) -> tuple[float, float]:
    low, high = float(frame.min()), float(frame.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    finite = frame[np.isfinite(frame)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)


def full_scale(frame: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Unsigned integers from 0..maximum to the full scale of their type, rounded; others as is."""
    if frame.dtype not in (np.uint8, np.uint16):
        return frame
    maximum, full = int(value_range[1]), int(np.iinfo(frame.dtype).max)
    if maximum == full:
        return frame
    scaled = (frame.astype(np.uint32) * full + maximum // 2) // maximum
    return np.minimum(scaled, full).astype(frame.dtype)
