"""Opening and decoding with Pillow under this package's own limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from denoise_ext.io.codecs.base import Source
from denoise_ext.io.shared import SharedContext

_own_limit: int | None = None  # Pillow's, when a thread last lifted it


@contextmanager
def _lifted() -> Iterator[None]:
    global _own_limit
    limit = _own_limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


_no_limit_of_pillows = SharedContext(_lifted)
"""Pillow's limit is off while any thread is inside, and as it was afterwards.

It is a global of Pillow's that ends at 179 megapixels. Our own limit has been applied to the
header, or is applied before a pixel is decoded."""


@contextmanager
def open_image(source: Source, *formats: str) -> Iterator[Image.Image]:
    """The file as a Pillow image whose header states no more pixels than allowed.

    `formats` are Pillow's names. No other decoder gets the bytes.
    """
    source.stream.seek(0)
    with _no_limit_of_pillows():
        try:
            image = Image.open(source.stream, formats=formats)
        except UnidentifiedImageError:  # its message names an object of Python's
            raise source.error(f"has a damaged {formats[0]} header") from None
    source.check_pixels(*image.size)
    yield image  # not closed: the stream is the caller's


def load(image: Image.Image) -> None:
    """Decode an image that `open_image` gave, or a later page of it whose size was checked.

    Some decoders apply Pillow's limit again. It is lifted for large images only: other threads
    may rely on it.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None:  # by another thread, or by the user
        limit = _own_limit
    if limit is not None and image.width * image.height > limit:
        with _no_limit_of_pillows():
            image.load()
    else:
        image.load()


def pixels_of(image: Image.Image, mode: str) -> np.ndarray:
    """A writable array of the image in a mode of Pillow's ("L", "RGB", ...)."""
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    # Pillow's true is the byte 255, which NumPy takes for true, but never writes itself
    return pixels != 0 if pixels.dtype == np.bool_ else pixels


def image_of(frame: np.ndarray) -> Image.Image:
    """bool (H, W), uint8 (H, W[, 2..4]) or uint16 (H, W) pixels as a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(frame))
