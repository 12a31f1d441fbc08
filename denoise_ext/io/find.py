"""Find image files: single files, folders, glob patterns."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from denoise_ext.io.codecs import FORMAT_NAMES, known_codec, named_like_dicom, suffix_of
from denoise_ext.io.errors import ImageError, reason_of, shown

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class FoundImage:
    """A file and its name relative to the folder it was found under (its bare name otherwise).

    Example:
        >>> [found.relative.as_posix() for found in denoise_ext.io.find_images("photos")]
        ['a.png', 'b.png']
    """

    path: Path | str
    """A string where it is a URL (`denoise_ext.jobs`)."""
    relative: Path


def list_images(
    path_or_paths: PathLike | Iterable[PathLike], recursive: bool = False
) -> list[Path]:
    """List the image files of files, folders and glob patterns, each once, in order.

    A file is listed whatever its suffix. Of a folder, files with an image suffix and DICOM files
    without one are listed, sorted by name. Hidden files are skipped. `recursive` includes
    sub-folders, but no links to folders. A pattern (``*``, ``?``, ``[...]``, ``**`` for any depth)
    that is not itself a file gives the image files that match.

    Raises:
        ImageError: a path that does not exist, a folder or pattern without an image.

    Example:
        >>> [file.name for file in denoise_ext.io.list_images(["photo.png", "photos"])]
        ['photo.png', 'a.png', 'b.png']
    """
    paths: list[PathLike]
    if isinstance(path_or_paths, (str, os.PathLike)):
        paths = [path_or_paths]
    else:
        paths = list(path_or_paths)
    found = [Path(image.path) for path in paths for image in find_images(path, recursive)]
    return list(dict.fromkeys(found))


def find_images(path: PathLike, recursive: bool = False) -> list[FoundImage]:
    """`list_images` for one argument, with each file's place under the folder searched.

    Example:
        >>> found = denoise_ext.io.find_images("photos")
        >>> [str(Path("clean") / image.relative) for image in found]
        ['clean/a.png', 'clean/b.png']
    """
    try:
        root = Path(path)
        if root.is_dir():
            return _folder(root, recursive)
        if root.exists():
            return [FoundImage(root, Path(root.name))]
        pattern = os.fspath(path)
        if not glob.has_magic(pattern):
            raise ImageError(f"{shown(path)} does not exist")
        return _pattern(pattern)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot look up {shown(path)}: {reason_of(error)}") from error


def _folder(root: Path, recursive: bool) -> list[FoundImage]:
    found = []
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".")) * recursive
        here = Path(folder)
        found += [here / name for name in sorted(names) if _is_image(here / name)]
    if not found:
        hint = "" if recursive else "; recursive=True looks into sub-folders"
        raise ImageError(f"{shown(root)} holds no image ({FORMAT_NAMES}){hint}")
    return [FoundImage(file, file.relative_to(root)) for file in found]


def _pattern(pattern: str) -> list[FoundImage]:
    matches = sorted(Path(p) for p in glob.glob(pattern, recursive=True))
    files = [p for p in matches if p.is_file() and _is_image(p)]
    if not files:
        what = "matches no image" if matches else "matches nothing"
        raise ImageError(f"{shown(pattern)} {what} ({FORMAT_NAMES})")
    # the part before the first wildcard is the folder searched
    fixed = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    base = Path(*fixed)
    return [FoundImage(file, file.relative_to(base)) for file in files]


def _is_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if suffix_of(path.name)[1] is not None:
        return True
    if not (named_like_dicom(path.name) and path.is_file()):  # a pipe must not be opened
        return False
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return known_codec("DICOM").sniff(stream.read(1024))
    return False


def _raise(error: OSError) -> None:
    raise error
