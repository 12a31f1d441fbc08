"""Writing image files: whole or not at all, and never over an existing file unasked."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from denoise_ext.io.errors import ImageError, reason_of, shown
from denoise_ext.io.formats import FORMAT_NAMES, SUFFIX_FORMAT

_CHANNEL_NAMES = {1: "gray", 2: "gray and alpha", 3: "RGB", 4: "RGB and alpha"}
_CHANNELS = {"PNG": (1, 2, 3, 4), "TIFF": (1, 2, 3, 4), "WEBP": (1, 3, 4), "JPEG": (1, 3)}
_CHANNELS |= {"BMP": (1, 3), "PPM": (1, 3)}
_SIXTEEN_BIT = ("PNG", "TIFF", "PPM")
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_ICC_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")
_EXIF_FORMATS = ("PNG", "JPEG", "WEBP")


def write_image(
    path: str | os.PathLike[str],
    array: np.ndarray,
    overwrite: bool = False,
    *,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
) -> None:
    """Write an array as an image; the suffix says the format.

    The file appears under its name only once it is complete and on disk (written beside it, synced,
    then renamed); after any failure nothing is left behind and an existing file is untouched.
    PNG, TIFF (Deflate), WebP, BMP and PGM/PPM are written losslessly, JPEG with quality 95 and
    full-resolution colour.

    Args:
        path: target file; ``.png .tif .tiff .webp .jpg .jpeg .jpe .bmp .pgm .ppm .pnm``.
        array: uint8 (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4): gray, gray + alpha, RGB,
            RGB + alpha; or uint16 (H, W) / (H, W, 1) for PNG, TIFF and PGM. Alpha: PNG, TIFF,
            WebP (RGB + alpha only).
        overwrite: replace an existing file; without it an existing file is an error.
        icc_profile: embedded where the format can hold it (PNG, JPEG, TIFF, WebP) and the profile
            is for this kind of image (gray or RGB); otherwise left out.
        exif: EXIF block, written to PNG, JPEG and WebP; otherwise left out.

    Raises:
        ImageError: (a ValueError) one line naming the file: unknown suffix, an array the format
            cannot hold, existing file, folder missing or not writable, disk full.
        TypeError: array is not a NumPy array of uint8 or uint16.
    """
    if not isinstance(array, np.ndarray) or array.dtype not in (np.uint8, np.uint16):
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"array must be a NumPy array of uint8 or uint16, got {got}")
    file_format = _format_for(path)
    pixels = _check_array(path, array, file_format)
    options = dict(_SAVE_OPTIONS.get(file_format, {}))
    if icc_profile and file_format in _ICC_FORMATS and _profile_fits(icc_profile, pixels):
        options["icc_profile"] = icc_profile
    if exif and file_format in _EXIF_FORMATS:
        options["exif"] = exif
    # 16-bit arrays become mode "I;16"
    image = Image.fromarray(np.ascontiguousarray(pixels))
    write_atomically(path, lambda f: image.save(f, format=file_format, **options), overwrite)


def check_can_write(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise ImageError if `write_image` to this path is bound to fail, before any work is done."""
    _format_for(path)
    check_target(path, overwrite)


def check_target(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise ImageError if `write_atomically` to this path is bound to fail."""
    _check_target(Path(path), overwrite)


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[IO[bytes]], object],
    overwrite: bool = False,
    *,
    tag: str = "denoise-ext",
) -> None:
    """Call ``write(stream)`` on a temporary file beside `path`, sync it, give it its name.

    Any kind of file. The temporary file is ``.TAG-RANDOM.part``; only a process that is killed
    leaves it behind. Raises ImageError naming the file for every failure, leaving nothing behind.
    """
    target = Path(path)
    _check_target(target, overwrite)
    target = Path(os.path.realpath(target))  # a link keeps being a link; its target is replaced
    # not named after the target, whose name may be as long as names can be
    part = target.with_name(f".{tag}-{secrets.token_hex(6)}.part")
    try:
        try:
            # "x" and the default mode: new, with the permissions any new file would get
            with open(part, "xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            _move(part, target, overwrite)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    except FileExistsError:
        raise ImageError(f"{shown(path)} exists; it is not overwritten unless asked") from None
    except Exception as error:  # an encoder may raise nearly anything
        raise ImageError(f"cannot write {shown(path)}: {reason_of(error)}") from error


def _move(part: Path, target: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(part, target)  # fails if the target appeared meanwhile, which rename does not
            return
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if target.exists():
                raise FileExistsError(target) from None
    os.replace(part, target)


def _check_target(target: Path, overwrite: bool) -> None:
    try:
        if target.is_dir():
            raise ImageError(f"{shown(target)} is a folder, not a file to write")
        if target.is_symlink() and not target.exists():
            raise ImageError(f"{shown(target)} is a broken link")
        if target.exists():
            if not target.is_file():
                raise ImageError(f"{shown(target)} is not a regular file")
            if not overwrite:
                raise ImageError(f"{shown(target)} exists; it is not overwritten unless asked")
        folder = target.parent
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise ImageError(f"cannot write {shown(target)}: {shown(folder)} {what}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ImageError(f"cannot write {shown(target)}: folder {shown(folder)} not writable")
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # a file as folder, a name too long, a null byte
        raise ImageError(f"cannot write {shown(target)}: {reason_of(error)}") from error


def _format_for(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIX_FORMAT:
        named = f"suffix {suffix!r}" if suffix else "no suffix"
        raise ImageError(
            f"cannot write {shown(path)}: {named}; known formats are {FORMAT_NAMES}"
            f" ({' '.join(SUFFIX_FORMAT)})"
        )
    return SUFFIX_FORMAT[suffix]


def _check_array(path: str | os.PathLike[str], array: np.ndarray, file_format: str) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNEL_NAMES):
        raise ImageError(
            f"cannot write {shown(path)}: array must be (H, W) or (H, W, 1..4),"
            f" got shape {array.shape}"
        )
    if 0 in array.shape:
        raise ImageError(f"cannot write {shown(path)}: array is empty, shape {array.shape}")
    channels = 1 if array.ndim == 2 else array.shape[2]
    if channels not in _CHANNELS[file_format]:
        raise ImageError(
            f"cannot write {shown(path)}: {file_format} cannot hold {_CHANNEL_NAMES[channels]};"
            " use PNG or TIFF"
        )
    if array.dtype == np.uint16 and (channels != 1 or file_format not in _SIXTEEN_BIT):
        raise ImageError(
            f"cannot write {shown(path)}: 16-bit is written for gray images as PNG, TIFF or PGM"
            f" only, got {_CHANNEL_NAMES[channels]} as {file_format}"
        )
    wanted = {".pgm": 1, ".ppm": 3}.get(Path(path).suffix.lower(), channels)
    if channels != wanted:
        raise ImageError(
            f"cannot write {shown(path)}: this suffix is for {_CHANNEL_NAMES[wanted]} images,"
            f" got {_CHANNEL_NAMES[channels]}"
        )
    return array[:, :, 0] if channels == 1 and array.ndim == 3 else array


def _profile_fits(icc_profile: bytes, pixels: np.ndarray) -> bool:
    # ICC.1:2022 7.2.6: the data colour space signature is at bytes 16..19 of the header
    colour = pixels.ndim == 3 and pixels.shape[2] >= 3
    return icc_profile[16:20] == (b"RGB " if colour else b"GRAY")
