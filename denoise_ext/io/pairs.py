"""Noisy files and their clean partners."""

from __future__ import annotations

import os
from pathlib import Path

from denoise_ext.io.errors import ImageError, shown


def find_pairs(folder: str | os.PathLike[str], noisy: str, clean: str) -> list[tuple[Path, Path]]:
    """Files that belong together, sorted: (noisy, clean).

    Args:
        folder: where both patterns start.
        noisy, clean: patterns with one ``*`` each. Two files are partners if ``*`` matches the
            same text, as in ``"*_real.JPG", "*_mean.JPG"`` or ``"noisy/*.png", "gt/*.png"``.

    Raises:
        ImageError: no such folder, a pattern without exactly one ``*``, no match, or a file of
            one kind without its partner.

    Example:
        >>> for name in ("1_noisy.png", "1_clean.png"):
        ...     denoise_ext.io.write_image(name, np.zeros((8, 8), np.uint8))
        >>> [[noisy, clean]] = denoise_ext.io.find_pairs(".", "*_noisy.png", "*_clean.png")
        >>> noisy.name, clean.name
        ('1_noisy.png', '1_clean.png')
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{shown(root)} is not a folder")
    found = [_matches(root, pattern) for pattern in (noisy, clean)]
    alone = sorted(found[0].keys() ^ found[1].keys())
    if alone:
        key = alone[0]
        have, lacks = (noisy, clean) if key in found[0] else (clean, noisy)
        raise ImageError(
            f"{shown(found[key not in found[0]][key])} ({have}) has no partner "
            f"{lacks.replace('*', key)}"
        )
    return [(found[0][key], found[1][key]) for key in sorted(found[0])]


def _matches(root: Path, pattern: str) -> dict[str, Path]:
    """Text that ``*`` matches -> file."""
    before, star, after = pattern.partition("*")
    if not star or "*" in after or "/" in after or Path(pattern).is_absolute():
        raise ImageError(
            f"pattern {pattern!r}: one * is needed, in the file's name, below the folder"
        )
    directory, _, prefix = before.rpartition("/")
    place = root / directory
    names = sorted(os.listdir(place)) if place.is_dir() else []
    found = {
        name[len(prefix) : len(name) - len(after)]: place / name
        for name in names
        if name.startswith(prefix)
        and name.endswith(after)
        and len(name) > len(prefix) + len(after)
        and not name.startswith(".")
    }
    if not found:
        raise ImageError(f"{shown(root)} holds no file {pattern}")
    return found
