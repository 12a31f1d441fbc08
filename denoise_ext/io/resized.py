"""A picture with other pixels at another size, and what its file says of sizes brought in line."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from denoise_ext.io.codecs import tiff_tags
from denoise_ext.io.codecs.tiff_tags import Tag
from denoise_ext.io.picture import Picture

# Tag numbers of EXIF 3.0, sections 4.6.5 and 4.6.6
_COLUMNS, _ROWS = (256, 40962), (257, 40963)  # of the image, in either directory
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_FORMS = {tiff_tags.SHORT: "H", tiff_tags.LONG: "I"}


def resized(picture: Picture, frames: Iterable[np.ndarray]) -> Picture:
    """The same picture with as many frames of another size.

    The picture keeps its physical size: the resolution changes with the number of pixels, also in
    EXIF. EXIF's own sizes change, too. Orientation, ICC profile and XMP stay. What only the file's
    own format can hold is left out, because it may describe the old pixels.

    Raises:
        ValueError: another number of frames, or frames that are not all scaled alike.

    Example:
        >>> picture = denoise_ext.io.read_picture("photo.png")
        >>> small = denoise_ext.io.resized(picture, [frame[::2, ::2] for frame in picture.frames])
        >>> denoise_ext.io.write_picture("small.png", small)
    """
    new = tuple(frames)
    if [frame.shape for frame in new] == [frame.shape for frame in picture.frames]:
        return picture.with_frames(new)
    scales = {
        tuple(Fraction(n, old) for n, old in zip(frame.shape[:2], before.shape[:2]))
        for frame, before in zip(new, picture.frames, strict=True)
    }
    if len(scales) != 1:
        raise ValueError(f"frames must all be scaled alike, got {sorted(scales)}")
    rows, columns = scales.pop()
    metadata = picture.metadata
    density = metadata.pixels_per_metre
    if density is not None:
        density = (density[0] * float(columns), density[1] * float(rows))
    metadata = replace(
        metadata, exif=_exif(metadata.exif, rows, columns), pixels_per_metre=density, native=None
    )
    shapes = tuple(_shape(shape, rows, columns) for shape in picture.shapes)
    return replace(picture, frames=new, metadata=metadata, shapes=shapes)


def _shape(shape: tuple[int, ...], rows: Fraction, columns: Fraction) -> tuple[int, ...]:
    """The shape of an array (..., H, W), or with 1 to 4 samples last, at the new size."""
    samples = 1 if len(shape) > 2 and shape[-1] <= 4 else 0
    sizes = list(shape)
    for place, scale in ((-2 - samples, rows), (-1 - samples, columns)):
        sizes[place] = int(sizes[place] * scale)
    return tuple(sizes)


def _exif(block: bytes | None, rows: Fraction, columns: Fraction) -> bytes | None:
    """The block with sizes and resolution of the new pixels; a damaged one as it is."""
    if block is None:
        return None
    try:
        tags, order = tiff_tags.exif_tags(block)
    except ValueError:
        return block
    changed = _scaled_tags(tags, order, rows, columns)
    return block if changed == tags else tiff_tags.exif_block(changed, order)


def _scaled_tags(
    tags: dict[int, Tag], order: str, rows: Fraction, columns: Fraction
) -> dict[int, Tag]:
    scales = {
        **dict.fromkeys((*_COLUMNS, _X_RESOLUTION), columns),
        **dict.fromkeys((*_ROWS, _Y_RESOLUTION), rows),
    }
    made = {}
    for code, tag in tags.items():
        if isinstance(tag.value, dict):
            tag = replace(tag, value=_scaled_tags(tag.value, order, rows, columns))
        elif code in scales:
            tag = _scaled(tag, order, scales[code])
        made[code] = tag
    return made


def _scaled(tag: Tag, order: str, scale: Fraction) -> Tag:
    """A number, or a ratio, times the scale; what has no room for the result stays."""
    value = tag.value
    assert isinstance(value, bytes)
    if tag.count != 1:
        return tag
    if tag.type in _FORMS:
        number = round(struct.unpack(order + _FORMS[tag.type], value)[0] * scale)
        return Tag(tiff_tags.LONG, 1, struct.pack(order + "I", number)) if number < 2**32 else tag
    if tag.type != tiff_tags.RATIONAL:
        return tag
    top, bottom = struct.unpack(order + "II", value)
    if bottom == 0:
        return tag
    ratio = (Fraction(top, bottom) * scale).limit_denominator(10_000)
    if ratio.numerator >= 2**32:
        return tag
    return replace(tag, value=struct.pack(order + "II", ratio.numerator, ratio.denominator))
