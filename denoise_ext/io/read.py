"""Read image files without losing bits: `read_picture`, and `read_image` for plain arrays."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from denoise_ext.io.codecs import FORMAT_NAMES, Codec, Source, all_codecs, suffix_of
from denoise_ext.io.errors import ImageError, reason_of, shown
from denoise_ext.io.orientation import orientation_of, upright, without_orientation
from denoise_ext.io.picture import Picture, full_scale
from denoise_ext.io.quiet import no_warnings

DEFAULT_MAX_PIXELS = 200_000_000
"""Most pixels (width x height x frames) read by default: 200 megapixels, above any camera."""

_HEAD = 1024  # bytes a format is recognised by
_BYTES_PER_PIXEL = 32  # of the widest image there is, 4 x 64 bits: bounds what a pipe may deliver
_OVERHEAD = 1 << 26  # metadata of a file: 64 MiB


Bytes = bytes | bytearray | memoryview


def read_picture(
    source: str | os.PathLike[str] | Bytes | IO[bytes], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Picture:
    """Read an image file with all its frames and metadata.

    The format is recognised by content. A name of another format gives a note. Pixels are returned
    as stored, in the file's dtype. Exact conversions are: palettes to RGB or RGBA, 2- and 4-bit
    gray to 8-bit gray, a transparent colour to an alpha channel, white-is-zero to black-is-zero.
    Pixels are not turned: an orientation stays in the metadata.

    Args:
        source: a file, its content as bytes, or a binary stream, which is read to its end.
        max_pixels: refuse what states more pixels in its header (width x height, over all frames)
            before decoding anything. Default 200 megapixels.

    Raises:
        ImageError: (a ValueError) one line with the file and the reason: missing, empty, damaged,
            too large, of an unknown format, of a kind that is not read (CMYK, Lab, animations), or
            in need of a package that is not installed.

    Example:
        >>> picture = denoise_ext.io.read_picture("photo.png")
        >>> picture.format, len(picture.frames), picture.value_range
        ('PNG', 1, (0.0, 255.0))
    """
    check_max_pixels(max_pixels)
    with _opened(source, max_pixels) as opened:
        suffix, expected = suffix_of(os.path.basename(opened.path or ""))
        codec = _recognised(opened, expected)
        try:
            with no_warnings():  # of unusual metadata: it is kept as it is
                picture = codec.read(opened)
        except ImageError:
            raise
        except Exception as error:  # damaged data raises nearly anything inside the decoders
            raise ImageError(
                f"cannot decode {opened.name} as {codec.name}: {reason_of(error)}"
                " (damaged or truncated file?)"
            ) from error
    if expected is not None and expected.name != picture.format:
        note = f"its content is {picture.format}, although its name ends in {suffix}"
        picture = dataclasses.replace(picture, notes=(*picture.notes, note))
    return picture


def check_max_pixels(max_pixels: int) -> None:
    """Raise ValueError if it is not a whole number of at least 1."""
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"max_pixels must be an integer >= 1, got {max_pixels!r}")


def _recognised(opened: Source, expected: Codec | None) -> Codec:
    head = opened.head(_HEAD)
    # the name's own format first: some formats differ from others by the name alone
    candidates = ([expected] if expected else []) + list(all_codecs())
    for codec in candidates:
        if codec.sniff(head):
            return codec
    raise ImageError(
        f"{opened.name} is not an image in a known format ({FORMAT_NAMES}), or its header is"
        " damaged"
    )


@contextmanager
def _opened(
    source: str | os.PathLike[str] | Bytes | IO[bytes], max_pixels: int
) -> Iterator[Source]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not source:
            raise ImageError("the image is empty (0 bytes)")
        yield Source(io.BytesIO(source), "the image", max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        with _open_regular_file(Path(source)) as stream:
            yield Source(stream, shown(source), max_pixels, os.fspath(source))
    elif callable(getattr(source, "read", None)):
        limit = max_pixels * _BYTES_PER_PIXEL + _OVERHEAD
        data = source.read(limit + 1)
        if not isinstance(data, bytes):
            raise TypeError("the stream must be a binary one")
        if not data:
            raise ImageError("the stream is empty (0 bytes)")
        if len(data) > limit:
            raise ImageError(
                f"the stream holds more than {limit} bytes, more than an image of {max_pixels}"
                " pixels (max_pixels) needs"
            )
        yield Source(io.BytesIO(data), "the stream", max_pixels)
    else:
        raise TypeError(
            f"path must be a str, a path object, bytes or a stream, got {type(source).__name__}"
        )


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


@dataclass(frozen=True)
class ImageFile:
    """An image as `read_image` gives it: pixels, and the metadata `write_image` takes.

    Example:
        >>> file = denoise_ext.io.read_image_file("photo.png")
        >>> file.format, file.pixels.shape, file.icc_profile
        ('PNG', (48, 64, 3), None)
    """

    pixels: np.ndarray = field(repr=False)
    """(H, W) gray, (H, W, 2) gray + alpha, (H, W, 3) RGB or (H, W, 4) RGB + alpha; uint8 or
    uint16."""
    format: str
    """A name of `CODECS`: what the content is."""
    icc_profile: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    """EXIF block without the orientation, which is already applied to the pixels."""


def read_image(path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Read an image file into an array, as a viewer shows it.

    Use `read_picture` to keep metadata and several frames. Here an EXIF orientation is applied.
    Two-level images become 0 and 255. A PNM with another maximum is scaled to its type's range.

    Args:
        path: the file.
        max_pixels: refuse a picture whose header states more pixels (width x height) than this,
            before decoding anything. Default 200 megapixels.

    Returns:
        uint8 or uint16 array: (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB, (H, W, 4)
        RGB and alpha.

    Raises:
        ImageError: (a ValueError) one line naming the file and what is wrong with it; so also for
            several frames or pages, and for signed, 32-bit and floating-point pixels, which
            `read_picture` reads.

    Example:
        >>> pixels = denoise_ext.io.read_image("photo.png")
        >>> pixels.shape, pixels.dtype
        ((48, 64, 3), dtype('uint8'))
    """
    return read_image_file(path, max_pixels=max_pixels).pixels


def read_image_file(
    path: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> ImageFile:
    """`read_image` with the file's format, ICC profile and EXIF block. Same errors.

    Example:
        >>> file = denoise_ext.io.read_image_file("photo.png")
        >>> denoise_ext.io.write_image("copy.png", file.pixels, icc_profile=file.icc_profile)
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a path object, got {type(path).__name__}")
    picture = read_picture(path, max_pixels=max_pixels)
    first = picture.frames[0]
    if len(picture.frames) > 1:
        raise ImageError(
            f"{shown(path)} holds {len(picture.frames)} frames or pages; only single images are"
            " read (read_picture reads them all)"
        )
    if first.dtype not in (np.bool_, np.uint8, np.uint16):
        raise ImageError(
            f"{shown(path)} has {first.dtype.name} pixels; unsigned 8- and 16-bit are"
            " read (read_picture reads the others)"
        )
    frame, _ = as_shown(picture)
    metadata = picture.metadata
    return ImageFile(
        frame, picture.format, metadata.icc_profile, without_orientation(metadata.exif)
    )


def as_shown(picture: Picture) -> tuple[np.ndarray, tuple[float, float]]:
    """The first frame as a viewer shows it, and the numbers that mean black and white in it.

    Upright; two-level images as 0 and 255; a PNM with another maximum scaled to its type's.
    """
    frame, value_range = picture.frames[0], picture.value_range
    if frame.dtype == np.bool_:
        frame, value_range = frame * np.uint8(255), (0.0, 255.0)
    elif picture.format == "PNM" and frame.dtype in (np.uint8, np.uint16):
        frame = full_scale(frame, value_range)
        value_range = (0.0, float(np.iinfo(frame.dtype).max))
    return upright(frame, orientation_of(picture.metadata.exif)), value_range
