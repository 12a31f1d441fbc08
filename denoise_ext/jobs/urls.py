"""Files behind URLs (``s3://``, ``hdfs://``, ...), through fsspec: found, read, written."""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from denoise_ext.io import (
    IMAGE_SUFFIXES,
    FoundImage,
    ImageError,
    Picture,
    find_images,
    read_picture,
)
from denoise_ext.io.codecs import suffix_of
from denoise_ext.jobs.manifest import Record
from denoise_ext.jobs.storage import Job, LocalStorage

# An object appears when all of it has arrived; elsewhere a file is written and then renamed.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oci", "oss", "r2", "memory"}
_CHUNK = 1 << 22  # bytes read at a time


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether it is one for fsspec; ``file://`` is too."""
    return "://" in os.fspath(path)


def local_path(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """``file:///data`` as ``/data``; everything else as it is."""
    text = os.fspath(path)
    return text.removeprefix("file://") if text.startswith("file://") else path


def _name(path: str | os.PathLike[str]) -> str:
    return os.fspath(local_path(path))


def find_files(path: str | os.PathLike[str], recursive: bool) -> list[FoundImage]:
    """`denoise_ext.io.find_images`, for URLs too. The paths of those are strings with ``://``.

    Raises ImageError where there is no image.
    """
    path = _name(path)
    if not is_url(path):
        return find_images(path, recursive)
    fs, root = _file_system(path)
    try:
        if "*" in root or "?" in root:
            names, base = (
                fs.glob(root),
                str(PurePosixPath(root.split("*")[0].split("?")[0] + "x").parent),
            )
        elif fs.isdir(root):
            names, base = fs.find(root, maxdepth=None if recursive else 1), root
        elif fs.exists(root):
            return [FoundImage(path, Path(PurePosixPath(root).name))]
        else:
            raise ImageError(f"{path!r} does not exist")
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot look up {path!r}: {error}") from error
    images = [
        FoundImage(_with_protocol(fs, n), Path(os.path.relpath(n, base))) for n in sorted(names)
    ]
    images = [image for image in images if _is_image(image.relative)]
    if not images:
        raise ImageError(f"{path!r} holds no image")
    return images


class UrlStorage:
    """A `denoise_ext.jobs.storage.Storage` in which each name is a URL or a local path.

    Outputs behind URLs appear whole or not at all. Object stores guarantee this. On other systems a
    temporary file is renamed.
    """

    @cached_property
    def _local(self) -> LocalStorage:
        return LocalStorage()

    def sha256(self, source: str | os.PathLike[str]) -> str | None:
        """As in Storage."""
        source = _name(source)
        if not is_url(source):
            return self._local.sha256(source)
        fs, path = _file_system(source)
        digest = hashlib.sha256()
        try:
            with fs.open(path, "rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
        except OSError:
            return None
        return digest.hexdigest()

    def read(self, source: str | os.PathLike[str], max_pixels: int) -> Picture:
        """As in Storage."""
        source = _name(source)
        if not is_url(source):
            return self._local.read(source, max_pixels)
        fs, path = _file_system(source)
        try:
            with fs.open(path, "rb") as stream:
                return read_picture(stream, max_pixels=max_pixels)
        except ImageError as error:
            raise ImageError(str(error).replace("the stream", repr(source))) from error
        except OSError as error:
            raise ImageError(f"cannot open {source!r}: {error}") from error

    def holds(self, target: str | os.PathLike[str], record: Record) -> bool:
        """As in Storage."""
        target = _name(target)
        if not is_url(target):
            return self._local.holds(target, record)
        fs, path = _file_system(target)
        try:
            return fs.size(path) == record.size and self.sha256(target) == record.sha256
        except OSError:
            return False

    def exists(self, target: str | os.PathLike[str]) -> bool:
        """As in Storage."""
        target = _name(target)
        if not is_url(target):
            return self._local.exists(target)
        fs, path = _file_system(target)
        return fs.exists(path)

    def check(self, target: str | os.PathLike[str], overwrite: bool) -> None:
        """As in Storage."""
        target = _name(target)
        if not is_url(target):
            return self._local.check(target, overwrite)
        codec = suffix_of(PurePosixPath(target).name)[1]
        if codec is None or codec.write is None:
            what = (
                "its suffix is of no known format"
                if codec is None
                else f"{codec.name} is read only"
            )
            raise ImageError(f"cannot write {target!r}: {what}")
        if not overwrite and self.exists(target):
            raise ImageError(f"{target!r} exists; overwrite=True replaces it")

    def write(self, job: Job, data: bytes, record: Record | None, overwrite: bool) -> None:
        """As in Storage; the driver keeps the record."""
        target = _name(job.target)
        if not is_url(target):
            return self._local.write(job, data, None, overwrite)
        self.check(target, overwrite)
        fs, path = _file_system(target)
        try:
            if _protocols(fs) & _OBJECT_STORES:
                fs.pipe_file(path, data)
                return
            folder = str(PurePosixPath(path).parent)
            fs.makedirs(folder, exist_ok=True)
            part = f"{folder}/.denoise-ext-{secrets.token_hex(6)}.part"
            try:
                fs.pipe_file(part, data)
                fs.mv(part, path)
            finally:
                if fs.exists(part):
                    fs.rm(part)
        except OSError as error:
            raise ImageError(f"cannot write {target!r}: {error}") from error


def _file_system(url: str | os.PathLike[str]) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # it has no stubs
    except ImportError:
        raise RuntimeError("URLs need the package fsspec: pip install denoise-ext[ray]") from None
    try:
        return url_to_fs(os.fspath(url))
    except (ImportError, ValueError) as error:  # a protocol that is unknown or needs a package
        raise ImageError(f"cannot use {os.fspath(url)!r}: {error}") from error


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _with_protocol(fs: Any, name: str) -> str:
    return name if is_url(name) else fs.unstrip_protocol(name)


def _is_image(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return not hidden and relative.name.lower().endswith(IMAGE_SUFFIXES)
