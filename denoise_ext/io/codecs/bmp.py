"""BMP: 8-bit gray and RGB, with the resolution."""

from __future__ import annotations

from typing import IO

import numpy as np
from PIL import BmpImagePlugin  # noqa: F401  Image.open(formats=...) does not load it itself

from denoise_ext.io.codecs.base import Codec, Source
from denoise_ext.io.codecs.pillow import image_of, load, open_image, pixels_of
from denoise_ext.io.picture import Metadata, Picture, mode_of, value_range_of

_INCHES_PER_METRE = 1 / 0.0254
_PLAIN = {"1": "1", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}


def _read(source: Source) -> Picture:
    with open_image(source, "BMP") as image:
        load(image)
        frame = pixels_of(image, _PLAIN[image.mode])
        dpi = image.info.get("dpi")
    per_metre = None
    if dpi and all(np.isfinite(dpi)) and min(dpi) > 0:
        across, down = (float(round(n * _INCHES_PER_METRE)) for n in dpi)
        per_metre = across, down
    metadata = Metadata(pixels_per_metre=per_metre)
    return Picture((frame,), value_range_of([frame]), mode_of(frame), "BMP", metadata)


def _write(stream: IO[bytes], picture: Picture) -> None:
    (frame,) = picture.frames
    per_metre = picture.metadata.pixels_per_metre
    options = {"dpi": tuple(n / _INCHES_PER_METRE for n in per_metre)} if per_metre else {}
    image_of(frame).save(stream, format="BMP", **options)


CODEC = Codec(
    name="BMP",
    suffixes=(".bmp",),
    sniff=lambda head: head.startswith(b"BM"),
    read=_read,
    write=_write,
    holds={"gray": ("bool", "uint8"), "rgb": ("uint8",)},
    keeps=("resolution",),
)
