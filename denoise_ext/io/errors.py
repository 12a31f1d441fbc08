"""The exception of `denoise_ext.io`, and the error for a missing optional package."""

from __future__ import annotations

import importlib
import os
from types import ModuleType


class ImageError(ValueError):
    """An image file that cannot be read or written; the message is one line naming the file.

    Example:
        >>> try:
        ...     denoise_ext.io.read_image("nothing.png")
        ... except denoise_ext.io.ImageError as error:
        ...     print("nothing.png" in str(error))
        True
    """


def reason_of(error: BaseException) -> str:
    """Return the reason of an error in one line, without the file name that an OSError repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if error.args and isinstance(error.args[0], bytes):  # LibRaw's
        text = error.args[0].decode(errors="replace")
    line = text.split("\n")[0].strip() or type(error).__name__
    is_sentence = line[1:2].islower() or line[1:2] == " "
    return line[0].lower() + line[1:] if is_sentence else line


def shown(path: str | os.PathLike[str]) -> str:
    """A path for an error message: quoted, control characters escaped, so it stays one line."""
    return repr(os.fspath(path))


def optional(module: str, extra: str, what: str) -> ModuleType:
    """Import an optional package; the error names the extra that installs it.

    Args:
        module: its import name.
        extra: the extra of this package that installs it.
        what: its purpose, the start of the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise ImageError(f"{what} needs {package}: pip install denoise-ext[{extra}]") from None
