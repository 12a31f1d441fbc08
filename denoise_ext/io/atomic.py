"""Files that appear whole or not at all, and never over an existing one unasked."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

from denoise_ext.io.errors import ImageError, reason_of, shown


def check_target(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise ImageError if `write_atomically` to this path is bound to fail.

    Example:
        >>> denoise_ext.io.check_target("weights.bin")
    """
    _check_target(Path(path), overwrite)


def write_atomically(
    path: str | os.PathLike[str],
    content: bytes | Callable[[IO[bytes]], object],
    overwrite: bool = False,
    *,
    tag: str = "denoise-ext",
) -> None:
    """Write a file of any kind under a temporary name, sync it, give it its name.

    Args:
        path: the file; its folder exists.
        content: the bytes, or a function that writes them to a binary stream.
        overwrite: replace an existing file; without it an existing file is an error.
        tag: the temporary file is ``.TAG-RANDOM.part``. Only a process that is killed leaves it.

    Raises:
        ImageError: every failure, naming the file. Nothing is left behind.

    Example:
        >>> denoise_ext.io.write_atomically("notes.txt", b"sigma 12")
        >>> def write(file):
        ...     file.write(b"sigma 15")
        >>> denoise_ext.io.write_atomically("notes.txt", write, overwrite=True)
    """
    target = Path(path)
    _check_target(target, overwrite)
    write = content if callable(content) else lambda stream: stream.write(content)
    try:
        _write(target, write, overwrite, tag)
    except FileExistsError:
        raise ImageError(f"{shown(path)} exists; overwrite=True replaces it") from None
    except Exception as error:  # an encoder may raise nearly anything
        raise ImageError(f"cannot write {shown(path)}: {reason_of(error)}") from error


def replace_file(path: str | os.PathLike[str], content: bytes | bytearray) -> None:
    """Replace a file as `write_atomically` does, raising the OSError of the call that failed."""
    _write(Path(path), lambda stream: stream.write(content), True, "denoise-ext")


def is_leftover(name: str) -> bool:
    """Whether a killed process left a file of this name: one of `replace_file`."""
    return re.fullmatch(r"\.denoise-ext-[0-9a-f]{12}\.part", name) is not None


def _write(target: Path, write: Callable[[IO[bytes]], object], overwrite: bool, tag: str) -> None:
    target = Path(os.path.realpath(target))  # a link keeps being a link; its target is replaced
    # not named after the target, whose name may be as long as names can be
    part = target.with_name(f".{tag}-{secrets.token_hex(6)}.part")
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
                raise ImageError(f"{shown(target)} exists; overwrite=True replaces it")
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
