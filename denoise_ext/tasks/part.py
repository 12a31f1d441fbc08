"""The window of an image that a part of its result depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from denoise_ext.io import Picture
from denoise_ext.runtime.session import Session

Part = tuple[slice, slice]

# Pixels beyond the network's own that maps of the level and medians depend on.
_AROUND = 8


def check_part(part: Part, height: int, width: int) -> Part:
    """`part` with both ends as numbers; ValueError unless it has a pixel and lies in the image."""
    if len(part) != 2 or not all(isinstance(along, slice) for along in part):
        raise TypeError(f"part must be two slices, rows and columns, got {part!r}")
    ends = []
    for name, along, size in zip(("rows", "columns"), part, (height, width), strict=True):
        start, stop = along.start or 0, size if along.stop is None else along.stop
        if along.step not in (None, 1) or not 0 <= start < stop <= size:
            raise ValueError(
                f"part: {name} must be a slice without a step in 0 to {size}, got {along}"
            )
        ends.append(slice(start, stop))
    return ends[0], ends[1]


def window_of(part: Part, height: int, width: int, session: Session) -> Part:
    """What of the image the network must read so that this part is as in the whole result."""
    if session.untileable:
        return slice(0, height), slice(0, width)
    rule = session.tile_rule
    far, unit = rule.radius + _AROUND, rule.alignment
    starts = (max(0, along.start - far) // unit * unit for along in part)
    stops = (
        min(size, -(-(along.stop + far) // unit) * unit)
        for along, size in zip(part, (height, width), strict=True)
    )
    rows, columns = (slice(*ends) for ends in zip(starts, stops, strict=True))
    return rows, columns


def within(part: Part, window: Part) -> Part:
    """The place of a part in a window around it."""
    rows, columns = (
        slice(along.start - around.start, along.stop - around.start)
        for along, around in zip(part, window, strict=True)
    )
    return rows, columns


def cropped(image: Any, place: Part) -> Any:
    """A view of a part of an array (H, W) or (H, W, C), or of a picture of one frame."""
    if isinstance(image, Picture):
        return replace(image, frames=(image.frames[0][place],))
    return image[place]


def frame_of(image: Any) -> np.ndarray:
    """The pixels of an image of which parts can be denoised; TypeError or ValueError if it is none.

    Returns:
        (H, W) or (H, W, C).
    """
    if isinstance(image, Picture):
        if len(image.frames) != 1:
            raise ValueError(f"image: a picture of one frame is needed, got {len(image.frames)}")
        return image.frames[0]
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"image must be a NumPy array or a Picture to denoise a part, got"
            f" {type(image).__name__}"
        )
    if image.ndim not in (2, 3):
        raise ValueError(f"image must be (H, W) or (H, W, C), got shape {image.shape}")
    return image
