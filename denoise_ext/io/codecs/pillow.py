"""Opening a file with Pillow under this package's own limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from denoise_ext.io.codecs.base import Source

# Pillow's own limit is a global that ends at 179 megapixels; it is lifted under this lock while a
# header is parsed, and ours is applied before a pixel is decoded.
_OPEN_LOCK = threading.Lock()


@contextmanager
def open_image(source: Source, *formats: str) -> Iterator[Image.Image]:
    """The file as a Pillow image whose header states no more pixels than allowed.

    `formats` are Pillow's names: no other decoder ever sees the bytes.
    """
    source.stream.seek(0)
    with _OPEN_LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            image = Image.open(source.stream, formats=formats)
        except UnidentifiedImageError:  # its message names an object of Python's
            raise source.error(f"has a damaged {formats[0]} header") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    source.check_pixels(*image.size)
    yield image  # not closed: the stream is the caller's


def pixels_of(image: Image.Image, mode: str) -> np.ndarray:
    """A writable array of the image in a mode of Pillow's ("L", "RGB", ...)."""
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    # Pillow's true is the byte 255, which NumPy takes for true, but never writes itself
    return pixels != 0 if pixels.dtype == np.bool_ else pixels


def image_of(frame: np.ndarray) -> Image.Image:
    """bool (H, W), uint8 (H, W[, 2..4]) or uint16 (H, W) pixels as a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(frame))
