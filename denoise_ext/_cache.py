"""Small facts kept from process to process: JSON files in one folder, safe to delete at any time.

An entry that is missing, cut, damaged, another user's or of another form counts as not there.
Nothing that is read is executed, and no failure of the folder is an error of the caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import Any

from denoise_ext._log import get_logger

MOST_ENTRIES = 512
MOST_BYTES = 1 << 20  # of one entry
_log = get_logger("denoise_ext")
_NAME = re.compile(r"[0-9a-f]{64}\.json")
_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_ABANDONED = 3600  # seconds: a process that was killed while it wrote left an older part
# Without O_NONBLOCK, a pipe in an entry's place would wait for a writer.
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/denoise_ext``, or ``~/.cache/denoise_ext``.

    Example:
        >>> denoise_ext.data.default_cache_folder().name
        'denoise_ext'
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "denoise_ext"


def folder() -> Path | None:
    """Where entries lie: in ``DENOISE_EXT_CACHE``, else the default; None where that is "off"."""
    chosen = os.environ.get("DENOISE_EXT_CACHE")
    if chosen == "off":
        return None
    try:
        return (Path(chosen) if chosen else default_folder()) / "decisions"
    except RuntimeError:  # no home
        return None


def read(key: str) -> Any:
    """The entry of this key, a SHA-256 in hexadecimal; None where there is no good one."""
    place = folder()
    if place is None:
        return None
    path = place / f"{key}.json"
    try:
        with open(os.open(path, _OPEN), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("it is not a regular file")
            if facts.st_uid != os.geteuid():
                raise ValueError("it belongs to another user")
            if facts.st_size > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES} bytes")
            found = json.loads(file.read(MOST_BYTES))
        if not isinstance(found, dict) or found.get("key") != key:
            raise ValueError("it is not the entry of its name")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("cache entry %s is left out: %s", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the ones used last are kept
    return found.get("value")


def write(key: str, value: Any) -> None:
    """Keep ``value``, which JSON can hold; the entries used longest ago make room."""
    place = folder()
    if place is None:
        return
    data = json.dumps({"key": key, "value": value}).encode()
    if len(data) > MOST_BYTES:
        return
    part = place / f".{secrets.token_hex(8)}.part"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            os.replace(part, place / f"{key}.json")
        finally:
            part.unlink(missing_ok=True)
        _evict(place)
    except OSError as error:  # read-only, full, a file in its place
        _log.info("nothing is kept in %s: %s", place, error.strerror or error)


def size() -> tuple[int, int]:
    """How many entries there are, and their bytes."""
    place = folder()
    found = [] if place is None else _files(place, _NAME)
    return len(found), sum(size for _, size, _ in found)


def _evict(place: Path) -> None:
    found = sorted(_files(place, _NAME), key=lambda entry: entry[0])
    oldest = time.time_ns() - _ABANDONED * 10**9
    parts = [part for part in _files(place, _PART) if part[0] < oldest]
    for _, _, path in (*found[: max(0, len(found) - MOST_ENTRIES)], *parts):
        with contextlib.suppress(OSError):  # another process was there first
            path.unlink()


def _files(place: Path, name: re.Pattern[str]) -> list[tuple[int, int, Path]]:
    """Time of last use, size, path."""
    found = []
    with contextlib.suppress(OSError), os.scandir(place) as files:
        for file in files:
            if name.fullmatch(file.name):
                with contextlib.suppress(OSError):
                    facts = file.stat(follow_symlinks=False)
                    found.append((facts.st_mtime_ns, facts.st_size, Path(file.path)))
    return found
