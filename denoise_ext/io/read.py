"""Reading an image file into a NumPy array without losing bits."""

from __future__ import annotations

import os
import stat
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (  # the plugins by name: Image.open(formats=...) does not load them itself
    BmpImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from denoise_ext.io.errors import ImageError, reason_of, shown
from denoise_ext.io.formats import FORMAT_NAMES, READ_FORMATS

DEFAULT_MAX_PIXELS = 200_000_000
"""Largest width x height read by default: 200 megapixels, above any current camera."""

_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_NOT_UNSIGNED = -1  # in the place of a number of bits

# Pillow's own limit is a global that ends at 179 megapixels; it is lifted under this lock while a
# header is parsed, and ours is applied before a pixel is decoded.
_OPEN_LOCK = threading.Lock()


@dataclass(frozen=True)
class ImageFile:
    """An image as read: pixels plus the metadata worth keeping when it is written again."""

    pixels: np.ndarray = field(repr=False)
    """(H, W) gray, (H, W, 2) gray + alpha, (H, W, 3) RGB or (H, W, 4) RGB + alpha; uint8 or
    uint16 (uint16: gray only)."""
    format: str
    """"PNG", "JPEG", "BMP", "TIFF", "WEBP" or "PPM": what the content is."""
    icc_profile: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    """EXIF block without the orientation, which is already applied to the pixels."""


def read_image(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Read an image file into an array.

    PNG, JPEG, BMP, TIFF, WebP and PGM/PPM, recognised by content. Returned as stored, with these
    stated conversions, all of them exact: an EXIF orientation is applied (the array looks as a
    viewer shows the file), palettes become RGB or RGBA, 1-, 2- and 4-bit gray becomes 8-bit gray,
    a transparent colour becomes an alpha channel, and of a phone's multi-picture JPEG (MPO) the
    main picture is taken.

    Refused, since they could only be read wrongly: 16-bit colour (the decoder would cut it to
    8 bits), CMYK, Lab, floating-point and 32-bit integer pixels, animations and multi-page files.

    Args:
        path: the file.
        max_pixels: refuse a picture whose header states more pixels (width x height) than this,
            before decoding anything. Default 200 megapixels.

    Returns:
        uint8 or uint16 array: (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB, (H, W, 4)
        RGB and alpha. uint16 only for gray, always on the 0..65535 scale.

    Raises:
        ImageError: (a ValueError) one line naming the file and what is wrong with it.
    """
    return read_image_file(path, max_pixels=max_pixels).pixels


def read_image_file(
    path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> ImageFile:
    """`read_image` with the file's format, ICC profile and EXIF block. Same errors."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a path object, got {type(path).__name__}")
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"max_pixels must be an integer >= 1, got {max_pixels!r}")
    with _open_regular_file(Path(path)) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of "corrupt EXIF" and the like: not about the pixels
        with _open_header(stream, path) as image:
            try:
                _check_header(image, stream, path, max_pixels)
                return _decode(image)
            except ImageError:
                raise
            except Exception as error:  # damaged data raises nearly anything inside the decoders
                raise ImageError(
                    f"cannot decode {shown(path)}: {reason_of(error)} (damaged or truncated file?)"
                ) from error


def _open_regular_file(path: Path) -> IO[bytes]:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{shown(path)} is a folder, not an image file")
        if not stat.S_ISREG(mode):  # opening a FIFO would wait for ever
            raise ImageError(f"{shown(path)} is not a regular file")
        if path.stat().st_size == 0:
            raise ImageError(f"{shown(path)} is empty (0 bytes)")
        return path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"{shown(path)} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot open {shown(path)}: {reason_of(error)}") from error


def _open_header(stream: IO[bytes], path: str | os.PathLike[str]) -> Image.Image:
    with _OPEN_LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(stream, formats=READ_FORMATS)
        except UnidentifiedImageError:
            raise ImageError(
                f"{shown(path)} is not an image in a known format ({FORMAT_NAMES}), or its"
                " header is damaged"
            ) from None
        except Exception as error:  # damaged headers raise nearly anything inside the decoders
            raise ImageError(f"cannot read {shown(path)}: {reason_of(error)}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_header(
    image: Image.Image, stream: IO[bytes], path: str | os.PathLike[str], max_pixels: int
) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{shown(path)} states {width} x {height} = {width * height} pixels, more than the"
            f" limit of {max_pixels} (max_pixels)"
        )
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(
            f"{shown(path)} holds {frames} frames or pages; only single images are read"
        )
    bits, samples = _stored_bits(image, stream)
    if bits > 8 and samples > 1:
        raise ImageError(
            f"{shown(path)} has {bits} bits per channel in colour (or with alpha); only 16-bit"
            " gray is read, since reading this would cut it to 8 bits"
        )
    if bits == _NOT_UNSIGNED:
        raise ImageError(
            f"{shown(path)} has signed or floating-point pixels; unsigned 8- and 16-bit are read"
        )
    if bits not in (1, 2, 4, 8, 16):
        raise ImageError(
            f"{shown(path)} has {bits} bits per pixel and channel; 1, 2, 4, 8 and 16 are read"
        )
    if image.mode not in _TO_PLAIN_MODE:
        raise ImageError(
            f"{shown(path)} has pixels of mode {image.mode}; gray, RGB and palette images"
            " (with or without alpha) are read. Convert it first"
        )


def _stored_bits(image: Image.Image, stream: IO[bytes]) -> tuple[int, int]:
    """Bits per channel and number of channels in the file, which Pillow's mode may hide."""
    if image.format == "TIFF":
        tags = image.tag_v2
        bits = tags.get(_TIFF_BITS_PER_SAMPLE, (1,))
        unsigned = all(f == 1 for f in tags.get(_TIFF_SAMPLE_FORMAT, (1,)))
        return (max(bits) if unsigned else _NOT_UNSIGNED), len(bits)
    position = stream.tell()
    try:
        if image.format == "PNG":  # signature 8, length 4, "IHDR" 4, width 4, height 4: then these
            stream.seek(24)
            depth, colour_type = stream.read(2)
            return depth, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour_type, 1)
        if image.format == "PPM":
            stream.seek(0)
            return _pnm_bits(stream.read(4096), image.mode)
    finally:
        stream.seek(position)
    return 8, len(image.getbands())


def _pnm_bits(header: bytes, mode: str) -> tuple[int, int]:
    """Bits and channels from "P<n> width height maxval" with # comments."""
    words = b" ".join(line.split(b"#")[0] for line in header.split(b"\n")).split()
    if words[0] in (b"P1", b"P4"):
        return 1, 1
    channels = 3 if mode == "RGB" else 1
    if words[0] not in (b"P2", b"P3", b"P5", b"P6"):  # PAM and PFM (float)
        return _NOT_UNSIGNED, channels
    return (8 if int(words[3]) < 256 else 16), channels


# Pillow mode -> the mode whose pixels are handed out. "I" is how Pillow holds 16-bit PGM.
_TO_PLAIN_MODE = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "I;16": "I;16",
    "I;16L": "I;16",
    "I;16B": "I;16",
    "I": "I",
}


def _decode(image: Image.Image) -> ImageFile:
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0
    image.load()
    icc = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(image)
    exif = _exif_block(upright)
    pixels = _plain_pixels(upright)
    if pixels.dtype == np.uint16 and white_is_zero:  # Pillow inverts this for 8 bits only
        pixels = 65535 - pixels
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    return ImageFile(pixels, file_format, icc, exif)


def _plain_pixels(image: Image.Image) -> np.ndarray:
    mode = _TO_PLAIN_MODE[image.mode]
    if "transparency" in image.info:
        if mode.startswith("I"):
            raise ValueError("16-bit gray with a transparent colour is not supported")
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    if mode.startswith("I"):
        # copied, native byte order. "I" comes from PGM only, scaled by Pillow to 0..65535
        return np.asarray(image).astype(np.uint16)
    return np.array(image if image.mode == mode else image.convert(mode))


def _exif_block(image: Image.Image) -> bytes | None:
    if image.format == "TIFF" or not image.info.get("exif"):
        return None  # in a TIFF the "EXIF" is the file's own layout
    exif = image.getexif()
    exif.pop(_ORIENTATION, None)
    return exif.tobytes() if len(exif) else None
