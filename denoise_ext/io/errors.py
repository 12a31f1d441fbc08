"""The one exception of `denoise_ext.io`."""

from __future__ import annotations

import os


class ImageError(ValueError):
    """An image file that cannot be read or written; the message is one line naming the file."""


def reason_of(error: BaseException) -> str:
    """One line saying what went wrong, without the file name an OSError repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.split("\n")
    return (lines[0].strip() if lines[0].strip() else type(error).__name__).lower()


def shown(path: str | os.PathLike[str]) -> str:
    """A path for an error message: quoted, control characters escaped, so it stays one line."""
    return repr(os.fspath(path))
