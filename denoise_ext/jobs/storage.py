"""Storage of a batch: the interface, and local files."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from denoise_ext.io import ImageError, Picture, check_can_write, read_picture, write_atomically
from denoise_ext.io.digest import file_sha256
from denoise_ext.jobs.manifest import Manifest, ManifestError, Record


@dataclass(frozen=True)
class Job:
    """One file to denoise and where the result goes.

    Example:
        >>> from denoise_ext.jobs import storage
        >>> storage.Job("in/a.png", "out/a.png", name=Path("a.png")).known is None
        True
    """

    source: str | os.PathLike[str]
    target: str | os.PathLike[str]
    name: Path
    """The target below the output folder: its name in the manifest."""
    known: Record | None = None
    """What an earlier run recorded of the target; None: nothing, or it does not matter."""


class DiskFullError(ImageError):
    """The disk is full: further outputs would fail, too.

    Example:
        >>> from denoise_ext.jobs import storage
        >>> issubclass(storage.DiskFullError, denoise_ext.io.ImageError)
        True
    """


class Storage(Protocol):
    """Reads inputs, writes outputs whole or not at all.

    Example:
        >>> from denoise_ext.jobs import batch, storage
        >>> class Logged(storage.LocalStorage):
        ...     def read(self, source, max_pixels):
        ...         print("reading", source)
        ...         return super().read(source, max_pixels)
        >>> worker = batch.Worker(denoise_ext.Denoiser(sigma=10).run, storage=Logged())
        >>> worker.process(storage.Job("photo.png", "clean.png", Path("clean.png"))).status
        reading photo.png
        'written'
    """

    def sha256(self, source: str | os.PathLike[str]) -> str | None:
        """SHA-256 of an input's content; None where there is no content to read."""

    def read(self, source: str | os.PathLike[str], max_pixels: int) -> Picture:
        """Decode an input. ImageError names it and gives the reason."""
        ...

    def holds(self, target: str | os.PathLike[str], record: Record) -> bool:
        """Whether the output is there and agrees with the record."""
        ...

    def exists(self, target: str | os.PathLike[str]) -> bool:
        """Whether there is a file of this name."""
        ...

    def check(self, target: str | os.PathLike[str], overwrite: bool) -> None:
        """ImageError if `write` is bound to fail, before any work is done."""

    def write(self, job: Job, data: bytes, record: Record | None, overwrite: bool) -> None:
        """Write an output, and its record. ImageError names it; DiskFullError: no room."""


class LocalStorage:
    """Files of this machine, or of a file system mounted on it.

    Args:
        manifest: records each output before it gets its name, and owns the temporary files; None:
            nothing is recorded.
        make_folders: make folders that are missing for an output, once it is computed.

    Example:
        >>> from denoise_ext.jobs import storage
        >>> files = storage.LocalStorage()
        >>> files.exists("photo.png"), len(files.sha256("photo.png"))
        (True, 64)
    """

    def __init__(self, manifest: Manifest | None = None, *, make_folders: bool = True) -> None:
        self._manifest, self._make_folders = manifest, make_folders

    def sha256(self, source: str | os.PathLike[str]) -> str | None:
        """As in Storage; None for what is no regular file, which `read` refuses with a reason."""
        try:
            if not stat.S_ISREG(os.stat(source).st_mode):
                return None
            return file_sha256(source)
        except (OSError, ValueError):
            return None

    def read(self, source: str | os.PathLike[str], max_pixels: int) -> Picture:
        """As in Storage."""
        return read_picture(source, max_pixels=max_pixels)

    def holds(self, target: str | os.PathLike[str], record: Record) -> bool:
        """As in Storage."""
        return record.describes(target)

    def exists(self, target: str | os.PathLike[str]) -> bool:
        """As in Storage; a broken link counts."""
        return os.path.lexists(target)

    def check(self, target: str | os.PathLike[str], overwrite: bool) -> None:
        """As in Storage."""
        folder = Path(target).parent
        if self._make_folders and not os.path.lexists(folder):
            there = next(p for p in folder.parents if os.path.lexists(p))
            check_can_write(there / Path(target).name, overwrite=True)  # the folder and the format
        else:
            check_can_write(target, overwrite)

    def write(self, job: Job, data: bytes, record: Record | None, overwrite: bool) -> None:
        """As in Storage."""
        folder = Path(job.target).parent
        if self._make_folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise _named(f"cannot make folder {str(folder)!r}: {reason}", error) from error
        tag = self._manifest.run_id if self._manifest is not None else "denoise-ext"
        try:
            if self._manifest is not None:
                self._manifest.use_folder(folder)
            if self._manifest is not None and record is not None:
                self._manifest.record(job.name, record)
            write_atomically(job.target, data, overwrite, tag=tag)
        except ManifestError as error:
            raise (DiskFullError if error.full else ImageError)(str(error)) from error
        except ImageError as error:
            raise _named(str(error), error.__cause__) from error


def _named(message: str, cause: BaseException | None) -> ImageError:
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return DiskFullError(message) if full else ImageError(message)
