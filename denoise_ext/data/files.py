"""Which files to train on: folders, list files, pairs of noisy files and targets."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from denoise_ext.io import find_pairs, list_images


def list_image_files(source: str | Path) -> list[Path]:
    """The image files of a folder, or of a list file.

    A list file is a text file with one path per line, relative to the list file's folder; empty
    lines and lines that begin with ``#`` are skipped.

    Raises:
        ValueError: ``source`` does not exist or names no image.

    Example:
        >>> [file.name for file in denoise_ext.data.list_image_files("photos")]
        ['a.png', 'b.png']
    """
    source = Path(source)
    if source.is_dir():
        return list_images(source)
    if not source.is_file():
        raise ValueError(f"{source}: no such folder or list file")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{source}: not a list file (one image path per line) nor a folder"
        ) from None
    lines = [line.strip() for line in text.splitlines()]
    files = [source.parent / line for line in lines if line and not line.startswith("#")]
    if not files:
        raise ValueError(f"{source}: names no image")
    if not os.path.isfile(files[0]):  # Path.is_file raises where the name is too long for one
        raise ValueError(
            f"{source}: not a list file (one image path per line), or of images that are not there:"
            f" the first is {str(files[0])[:100]!r}"
        )
    return files


def without(files: list[tuple[Path, ...]], names_file: str | Path) -> list[tuple[Path, ...]]:
    """``files`` less those whose file names a text file lists, one per line (``#``: a comment).

    Raises ValueError where that cannot be read, or names a file that is not among them.

    Example:
        >>> files = denoise_ext.data.list_training_files("photos", [], [0.0, 1.0])
        >>> _ = Path("held_out.txt").write_text("b.png")
        >>> [file.name for [file] in denoise_ext.data.without(files, "held_out.txt")]
        ['a.png']
    """
    try:
        text = Path(names_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ValueError(f"data.sources.leave_out: {names_file}: {reason}") from None
    lines = (line.strip() for line in text.splitlines())
    names = {line for line in lines if line and not line.startswith("#")}
    unknown = sorted(names - {file[0].name for file in files})
    if unknown:
        raise ValueError(
            f"data.sources.leave_out: {names_file} names {unknown[0]!r}, which is not there"
        )
    return [file for file in files if file[0].name not in names]


def fingerprint(files: Iterable[tuple[Path, ...]], folder: Path) -> dict[str, int | str]:
    """How many files, and the SHA-256 of their names below ``folder`` and their sizes.

    Example:
        >>> files = denoise_ext.data.list_training_files("photos", [], [0.0, 1.0])
        >>> denoise_ext.data.fingerprint(files, Path("photos"))["files"]
        2
    """
    facts = [
        [[os.path.relpath(file, folder), file.stat().st_size] for file in group] for group in files
    ]
    return {"files": len(facts), "sha256": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}


def list_training_files(
    source: str | Path, pairs: list[str], part: list[float]
) -> list[tuple[Path, ...]]:
    """What to train on: (file,) or, with two patterns, (noisy file, target); a part of the list.

    Raises ValueError as `list_image_files` and `denoise_ext.io.find_pairs` do.

    Example:
        >>> first_half = denoise_ext.data.list_training_files("photos", [], [0.0, 0.5])
        >>> [[file.name for file in group] for group in first_half]
        [['a.png']]
    """
    files: list[tuple[Path, ...]]
    if pairs:
        files = list(find_pairs(source, *pairs))
    else:
        files = [(file,) for file in list_image_files(source)]
    first, last = (round(edge * len(files)) for edge in part)
    if first == last:
        raise ValueError(f"data.part {part} of {len(files)} files is none of them")
    return files[first:last]
