"""The orientation an EXIF block states: read, applied to pixels, taken out of the block."""

from __future__ import annotations

import numpy as np

from denoise_ext.io.codecs import tiff_tags

_ORIENTATION = 274
# EXIF 3.0, 4.6.5.1: (swap rows and columns, then reverse rows, then reverse columns)
_STEPS = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip

INVERSE = {6: 8, 8: 6}
"""What undoes an orientation, where it is not the same again."""


def orientation_of(exif: bytes | None) -> int:
    """1 (as stored) to 8; 1 if the block states none or is damaged."""
    try:
        tags, order = tiff_tags.exif_tags(exif) if exif else ({}, "<")
        value = tiff_tags.Directory(tags, order).integer(_ORIENTATION, 1)
    except ValueError:
        return 1
    return value if value in _STEPS else 1


def without_orientation(exif: bytes | None) -> bytes | None:
    """The block for pixels that stand upright; None if nothing else was in it, or it is damaged."""
    try:
        tags, order = tiff_tags.exif_tags(exif) if exif else ({}, "<")
    except ValueError:
        return None
    if _ORIENTATION not in tags:
        return exif if tags else None
    tags = {code: tag for code, tag in tags.items() if code != _ORIENTATION}
    return tiff_tags.exif_block(tags, order) if tags else None


def upright(frame: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W[, C]) as a viewer shows them."""
    swap, rows, columns = _STEPS.get(orientation, (False, False, False))
    frame = frame.swapaxes(0, 1) if swap else frame
    frame = frame[::-1] if rows else frame
    frame = frame[:, ::-1] if columns else frame
    return np.ascontiguousarray(frame)
