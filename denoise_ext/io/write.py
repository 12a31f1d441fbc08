"""Write pictures exactly; a format that cannot hold a picture is an error with the reason."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import os
from pathlib import Path
from typing import IO

import numpy as np

from denoise_ext._suggestions import did_you_mean
from denoise_ext.io.atomic import check_target, write_atomically
from denoise_ext.io.codecs import (
    FORMAT_NAMES,
    IMAGE_SUFFIXES,
    Codec,
    all_codecs,
    codec_named,
    named_like_dicom,
)
from denoise_ext.io.codecs import suffix_of as _suffix_of
from denoise_ext.io.errors import ImageError, reason_of, shown
from denoise_ext.io.orientation import orientation_of, upright
from denoise_ext.io.picture import Metadata, Picture, full_scale, picture_of
from denoise_ext.io.quiet import no_warnings

PathLike = str | os.PathLike[str]


def write_picture(
    target: PathLike | IO[bytes],
    picture: Picture,
    *,
    format: str | None = None,
    overwrite: bool = False,
    tag: str = "denoise-ext",
    quality: int | None = None,
) -> None:
    """Write a picture with all the metadata the format can hold.

    In its own format, everything is kept. An unchanged picture gives a file with the same pixels
    and metadata (JPEG: pixels within the error of quality 95, 4:4:4). Another format keeps ICC
    profile, EXIF, XMP and resolution if it has them. If it has no EXIF, the pixels are turned
    upright.

    Args:
        target: a file, which appears under its name only once it is complete and on disk, or a
            binary stream.
        picture: from `read_picture`, with the same pixels or others.
        format: a name of `CODECS`. None: that of the file's suffix; for a stream, the picture's.
        overwrite: replace an existing file; without it an existing file is an error.
        tag: in the name of the temporary file (see `write_atomically`).
        quality: 0 to 100, for the formats that leave out what is hardly seen: JPEG, WebP, AVIF.
            None: without a loss, or the best of the format.

    Raises:
        ImageError: (a ValueError) one line naming the file: unknown suffix, a picture the format
            cannot hold, existing file, folder missing or not writable, disk full.

    Example:
        >>> picture = denoise_ext.io.read_picture("photo.png")
        >>> clean = denoise_ext.denoise(picture, sigma=10)
        >>> denoise_ext.io.write_picture("clean.png", clean)
    """
    if isinstance(target, (str, os.PathLike)):
        suffix, codec = _codec_for(target, format or _without_suffix(target, picture))
        picture = _fitted(shown(target), picture, codec, suffix)
        check_quality(codec, quality)
        write_atomically(
            target, lambda stream: _encode(codec, stream, picture, quality), overwrite, tag=tag
        )
        return
    codec = _known_codec("the stream", format or picture.format)
    picture = _fitted("the stream", picture, codec, "")
    check_quality(codec, quality)
    try:
        if _can_seek(target):
            _encode(codec, target, picture, quality)
        else:
            buffer = io.BytesIO()
            _encode(codec, buffer, picture, quality)
            target.write(buffer.getbuffer())
        target.flush()
    except BrokenPipeError:
        raise
    except Exception as error:
        raise ImageError(f"cannot write {codec.name} to the stream: {reason_of(error)}") from error


def _can_seek(stream: IO[bytes]) -> bool:
    """Whether the stream can seek back to what was written; not in append mode.

    Other streams get the encoded picture in one piece, so that a failure writes nothing.
    """
    try:
        return not fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_APPEND and stream.seekable()
    except (OSError, ValueError, AttributeError):
        return False


def _encode(codec: Codec, stream: IO[bytes], picture: Picture, quality: int | None) -> None:
    assert codec.write is not None  # codecs that only read are refused before
    with no_warnings():
        if quality is None:
            codec.write(stream, picture)
        else:
            assert codec.write_lossy is not None  # by `check_quality`
            codec.write_lossy(stream, picture, quality)


def check_quality(codec: Codec, quality: object) -> None:
    """ImageError unless the format takes this quality; TypeError, ValueError for another value."""
    if quality is None:
        return
    if isinstance(quality, bool) or not isinstance(quality, int):
        raise TypeError(f"quality must be an int or None, got {quality!r}")
    if not 0 <= quality <= 100:
        raise ValueError(f"quality must be from 0 to 100, got {quality}")
    if codec.write_lossy is None:
        able = ", ".join(c.name for c in all_codecs() if c.write_lossy is not None)
        raise ImageError(f"quality {quality} is for {able}; {codec.name} is written without a loss")


def write_image(
    path: PathLike,
    array: np.ndarray,
    overwrite: bool = False,
    *,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
) -> None:
    """Write an array as an image; the suffix names the format.

    The file appears under its name only once it is complete and on disk (written beside it, synced,
    then renamed); after any failure nothing is left behind and an existing file is untouched.
    All formats are written losslessly but JPEG (quality 95, full-resolution colour).

    Args:
        path: target file; its suffix one of `IMAGE_SUFFIXES`.
        array: (H, W) or (H, W, 1) gray, (H, W, 2) gray + alpha, (H, W, 3) RGB or (H, W, 4) RGB +
            alpha. All formats hold uint8. PNG, TIFF and PGM/PPM hold uint16. TIFF, PFM and NPY hold
            floating point.
        overwrite: replace an existing file; without it an existing file is an error.
        icc_profile: embedded where the format can hold it (PNG, JPEG, TIFF, WebP) and the profile
            is for this kind of image (gray or RGB); otherwise left out.
        exif: EXIF block, written to PNG, JPEG, TIFF and WebP; otherwise left out.

    Raises:
        ImageError: (a ValueError) one line naming the file: unknown suffix, an array the format
            cannot hold, existing file, folder missing or not writable, disk full.
        TypeError: array is not a NumPy array of real numbers.

    Example:
        >>> denoise_ext.io.write_image("black.png", np.zeros((8, 8, 3), np.uint8))
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"array must be a NumPy array of real numbers, got {got}")
    block = exif.removeprefix(b"Exif\0\0") if exif else None
    try:
        picture = picture_of(array, metadata=Metadata(icc_profile, block))
    except ValueError as error:
        raise ImageError(f"cannot write {shown(path)}: {error}") from None
    write_picture(path, picture, overwrite=overwrite)


def check_can_write(path: PathLike, overwrite: bool = False, quality: int | None = None) -> None:
    """Raise ImageError if `write_picture` to this path is bound to fail, before work is done.

    Example:
        >>> denoise_ext.io.check_can_write("new.png")
        >>> try:
        ...     denoise_ext.io.check_can_write("photo.png")
        ... except denoise_ext.io.ImageError as error:
        ...     print("exists" in str(error))
        True
    """
    if not named_like_dicom(Path(path).name):
        check_quality(_codec_for(path, None)[1], quality)
    check_target(path, overwrite)


def format_for(picture: Picture, suffix: str = "") -> str:
    """The name of the format to write: that of `suffix`, else the picture's own, else TIFF.

    The last is for pictures without a format, and for formats that are only read.

    Raises:
        ImageError: a `suffix` of no known format.

    Example:
        >>> picture = denoise_ext.io.read_picture("photo.png")
        >>> denoise_ext.io.format_for(picture), denoise_ext.io.format_for(picture, ".jpg")
        ('PNG', 'JPEG')
    """
    if suffix:
        codec = _suffix_of("x" + suffix)[1]
        if codec is None:
            raise ImageError(
                f"suffix must be one of {' '.join(IMAGE_SUFFIXES)}, got {suffix!r}"
                f"{did_you_mean(suffix, IMAGE_SUFFIXES)}"
            )
        return codec.name
    own = codec_named(picture.format)
    return picture.format if own is not None and own.write else "TIFF"


def _without_suffix(path: PathLike, picture: Picture) -> str | None:
    """DICOM files need no suffix."""
    name = Path(path).name
    dicom = picture.format == "DICOM" and named_like_dicom(name) and not _suffix_of(name)[1]
    return "DICOM" if dicom else None


def _codec_for(path: PathLike, format: str | None) -> tuple[str, Codec]:
    suffix, codec = _suffix_of(Path(path).name)
    if format is not None:
        return suffix, _known_codec(shown(path), format)
    if codec is None:
        named = f"suffix {suffix!r}" if suffix else "no suffix"
        raise ImageError(
            f"cannot write {shown(path)}: {named}; known formats are {FORMAT_NAMES}"
            f" ({' '.join(IMAGE_SUFFIXES)}){did_you_mean(suffix, IMAGE_SUFFIXES)}"
        )
    if codec.write is None:
        raise ImageError(f"cannot write {shown(path)}: {codec.name} is read only; use TIFF or PNG")
    return suffix, codec


def _known_codec(name: str, format: str) -> Codec:
    codec = codec_named(format)
    if codec is None or codec.write is None:
        what = "is not known" if codec is None else "is read only"
        raise ImageError(
            f"cannot write {name}: format {format!r} {what}; known formats are {FORMAT_NAMES}"
        )
    return codec


def _fitted(name: str, picture: Picture, codec: Codec, suffix: str) -> Picture:
    """The picture as the format takes it; ImageError where that would lose something."""
    if codec.name != picture.format:
        picture = _adapted(picture, codec)
    reason = codec.why_not(picture, suffix)
    if reason:
        others = [c.name for c in all_codecs() if c.why_not(picture) is None]
        hint = f"; {', '.join(others)} can" if others else ""
        raise ImageError(f"cannot write {name}: {reason}{hint}")
    return picture


def _adapted(picture: Picture, codec: Codec) -> Picture:
    """A picture that came from another format."""
    metadata = picture.metadata
    frames = picture.frames
    if "exif" not in codec.keeps:
        orientation = orientation_of(metadata.exif)
        frames = tuple(upright(frame, orientation) for frame in frames)
    if picture.format == "PNM":  # its maximum may be any number
        frames = tuple(full_scale(frame, picture.value_range) for frame in frames)
    if metadata.icc_profile and not _profile_fits(metadata.icc_profile, picture.mode, codec):
        metadata = dataclasses.replace(metadata, icc_profile=None)
    return dataclasses.replace(picture, frames=frames, metadata=metadata)


def _profile_fits(icc_profile: bytes, mode: str, codec: Codec) -> bool:
    # ICC.1:2022 7.2.6: the data colour space signature is at bytes 16..19 of the header
    colour = mode in ("rgb", "rgba") or codec.name in ("WEBP", "AVIF")
    return icc_profile[16:20] == (b"RGB " if colour else b"GRAY")
