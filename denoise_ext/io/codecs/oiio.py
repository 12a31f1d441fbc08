"""Decode with OpenImageIO what Pillow would reduce: 16-bit colour, float, 32-bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from denoise_ext.io.codecs.base import Source


def decode(source: Source, what: str, suffix: str, pages: list[int]) -> list[np.ndarray]:
    """The pixels of some pages as they are stored, (H, W) or (H, W, C), in the file's dtype.

    Args:
        source: the file; its header has been checked against the pixel limit.
        what: what it holds, for the message if OpenImageIO is missing ("has 16-bit colour").
        suffix: of the format, which OpenImageIO goes by.
        pages: their numbers in the file.
    """
    oiio = source.optional("OpenImageIO", "io", what)
    config = oiio.ImageSpec()
    config.attribute("oiio:UnassociatedAlpha", 1)  # else colour is multiplied by alpha
    config.attribute("oiio:RawColor", 1)
    with source.as_file(suffix) as path:
        file = oiio.ImageInput.open(path, config)
        if file is None:
            raise ValueError(oiio.geterror() or "OpenImageIO cannot open it")
        try:
            return [_page(oiio, file, page) for page in pages]
        finally:
            file.close()


def _page(oiio: Any, file: Any, page: int) -> np.ndarray:
    if not file.seek_subimage(page, 0):
        raise ValueError(file.geterror() or f"page {page} cannot be read")
    return pixels_of(file, page, file.spec(), "page")


def pixels_of(file: Any, number: int, spec: Any, what: str) -> np.ndarray:
    """The pixels (H, W) or (H, W, C) of an open file's sub-image, a "page" or a "part"."""
    pixels = file.read_image(number, 0, 0, spec.nchannels, spec.format)
    message = file.geterror()
    if pixels is None or message:
        raise ValueError(message or f"{what} {number} cannot be read")
    pixels = np.asarray(pixels).reshape(spec.height, spec.width, spec.nchannels)
    return pixels[:, :, 0] if spec.nchannels == 1 else pixels
