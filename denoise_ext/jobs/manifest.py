"""The manifest of a batch: an SQLite file in the output folder that survives ``kill -9``.

Each output has one row: a key (hash of input, weights and options), its size and its SHA-256. A row
is committed **before** the output gets its name, so every output under its final name has a row. A
row is ignored if its output is missing or differs from it. Resuming needs no other state.

The file is opened for one process alone (``locking_mode=EXCLUSIVE``). SQLite then keeps the index
of its write-ahead log on the heap, so that the log works on network file systems, too. A second run
that would write the same outputs is refused. Each shard has its own file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoise_ext.io.digest import file_sha256

FOLDER = ".denoise-ext"
"""Name of the folder, inside the output folder, that holds the manifests."""

_FORMAT = 1  # of the tables below: SQLite's user_version
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs (
    target BLOB PRIMARY KEY,  -- below the output folder, as the file system spells it
    key TEXT,                 -- of input, model and options; NULL: begun, not known done
    size INTEGER,
    sha256 TEXT
) WITHOUT ROWID;
"""
_COLUMNS = {
    "facts": ["name", "value"],
    "folders": ["path"],
    "outputs": ["target", "key", "size", "sha256"],
}


class ManifestError(ValueError):
    """A manifest that cannot be used; one line naming the file.

    Example:
        >>> from denoise_ext.jobs import manifest
        >>> try:
        ...     manifest.Manifest("photo.png")
        ... except manifest.ManifestError as error:
        ...     print("photo.png" in str(error))
        True
    """

    full = False
    """Whether the disk is."""


@dataclass(frozen=True)
class Record:
    """One output as recorded.

    Example:
        >>> from denoise_ext.jobs import manifest
        >>> manifest.Record(key="0123", size=1, sha256="").describes("photo.png")
        False
    """

    key: str | None
    """Of what it was made from and by; None: begun, so it may be replaced, but not known done."""
    size: int = 0
    sha256: str = ""

    def describes(self, path: str | os.PathLike[str]) -> bool:
        """Whether the file at `path` is the recorded one, byte for byte."""
        try:
            if self.key is None or os.stat(path).st_size != self.size:
                return False
            return file_sha256(path) == self.sha256
        except OSError:
            return False


class Manifest:
    """The outputs recorded below one output folder.

    Args:
        output: the output folder; it and the manifest's folder are made where missing.
        shard: (I, N): a file of its own for shard I of N.
        siblings: also read the manifests of other shards, so that a run can continue with another
            number of shards. Manifests in use by a running process are left out.

    Thread-safe. Raises ManifestError if the file cannot be opened or written, is damaged, is in
    use, or has another layout. Such a file stays as it is.

    Example:
        >>> from denoise_ext.jobs import manifest
        >>> with manifest.Manifest("clean") as records:
        ...     records.record(Path("a.png"), manifest.Record("0123", size=45, sha256="67"))
        ...     records.get(Path("a.png")).size
        45
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        shard: tuple[int, int] = (1, 1),
        *,
        siblings: bool = False,
    ) -> None:
        self.output: Path = Path(output)
        folder = self.output / FOLDER
        name = "manifest.sqlite" if shard[1] == 1 else f"manifest-{shard[0]}-of-{shard[1]}.sqlite"
        self.path: Path = folder / name
        self._lock = threading.Lock()
        self._folders: set[bytes] = set()
        self._made = [p for p in (folder, *folder.parents) if not p.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ManifestError(f"cannot make folder {str(folder)!r}: {reason}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ManifestError(f"folder {str(folder)!r} is not writable")
        self._is_new = not self.path.exists()
        self._database = _open(self.path)
        try:
            self.run_id: str = self._fact("run_id", secrets.token_hex(6))
            self._others = recorded(self.output, but=self.path) if siblings else {}
            self._remove_temporaries()
        except BaseException:
            self._database.close()
            raise

    def get(self, target: Path) -> Record | None:
        """Return the record of an output (a path below the output folder), or None."""
        name = os.fsencode(target)
        with self._lock:
            query = "SELECT key, size, sha256 FROM outputs WHERE target = ?"
            row = next(_selected(self._database, self.path, query, name), None)
        return _record(self.path, name, *row) if row else self._others.get(name)

    def record(self, target: Path, record: Record) -> None:
        """Commit a record to disk; call it before the output gets its name."""
        self._write([(os.fsencode(target), record.key, record.size, record.sha256)])

    def begin(self, targets: Iterable[Path]) -> None:
        """Record that this run makes these outputs, and may replace what it finds there."""
        self._write([(os.fsencode(target), None, 0, "") for target in targets])

    def use_folder(self, folder: str | os.PathLike[str]) -> None:
        """Record that temporary files are made in this folder, to be removed after a kill."""
        name = os.fsencode(os.path.realpath(folder))
        with self._lock:
            if name not in self._folders:
                statement = "INSERT OR IGNORE INTO folders VALUES (?)"
                _committed(self._database, self.path, statement, [(name,)])
                self._folders.add(name)

    def close(self) -> None:
        """Fold the log into the file and release it.

        A file made by this object goes again if nothing was recorded in it.
        """
        with self._lock:
            empty = False  # what cannot be read is not known to be empty
            with contextlib.suppress(sqlite3.Error):
                query = "SELECT count(*) = 0 FROM outputs"
                [empty] = self._database.execute(query).fetchone()
            self._database.close()
            if empty and self._is_new:
                with contextlib.suppress(OSError):
                    self.path.unlink()
                    for folder in self._made:
                        folder.rmdir()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        statement = "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?)"
        with self._lock:
            _committed(self._database, self.path, statement, rows)

    def _fact(self, name: str, default: str) -> str:
        insert = "INSERT OR IGNORE INTO facts VALUES (?, ?)"
        _committed(self._database, self.path, insert, [(name, default)])
        query = "SELECT value FROM facts WHERE name = ?"
        [(value,)] = _selected(self._database, self.path, query, name)
        return value

    def _remove_temporaries(self) -> None:
        # Named after this manifest, which is ours alone: no living process writes to them.
        for (folder,) in list(_selected(self._database, self.path, "SELECT path FROM folders")):
            self._folders.add(folder)
            with contextlib.suppress(OSError), os.scandir(os.fsdecode(folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(f".{self.run_id}-") and entry.name.endswith(".part"):
                        os.unlink(entry.path)


def key_of(content: str, fingerprint: dict[str, Any]) -> str:
    """The key of an output: a hash of the input's SHA-256 and of everything that makes the result.

    Args:
        content: SHA-256 of the input file.
        fingerprint: model (hash of its weights) and options, as JSON can hold them.

    Example:
        >>> from denoise_ext.jobs import manifest
        >>> key = manifest.key_of("content's hash", {"sigma": 10})
        >>> key == manifest.key_of("content's hash", {"sigma": 15})
        False
    """
    text = json.dumps([content, fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# sqlite3 raises the latter for text, and for messages of SQLite, that are no UTF-8.
_UNUSABLE = (sqlite3.Error, UnicodeDecodeError)


def _open(path: Path, *, change: bool = True) -> sqlite3.Connection:
    """The file, made where there is none; nothing is changed in a file that cannot be used.

    Without `change` it must be there, and nothing is written to it.  SQLite's mode=ro would leave
    files of its own beside it.
    """
    # not by opening it: to close it again would give up the locks this process has on it
    effective = os.access in os.supports_effective_ids
    if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=effective):
        raise ManifestError(
            f"{str(path)!r} cannot be read and written by this user: permission denied"
        )
    try:
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'rwc' if change else 'rw'}",
            uri=True, timeout=0, isolation_level=None, check_same_thread=False,
        )  # fmt: skip
    except sqlite3.Error as error:
        raise ManifestError(f"cannot open {str(path)!r}: {error}") from error
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check_layout(database, path)
        if not change:
            database.execute("PRAGMA query_only = ON")
            return database
        database.execute("PRAGMA journal_mode = WAL")
        # every commit is on disk before the output appears under its name
        database.execute("PRAGMA synchronous = FULL")
        version = f"PRAGMA user_version = {_FORMAT};"
        database.executescript(f"BEGIN; {_TABLES} {version} COMMIT;")  # all of it or nothing
    except ManifestError:
        database.close()
        raise
    except _UNUSABLE as error:
        database.close()
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            message = f"another run is writing here: {str(path)!r} is in use"
            raise ManifestError(message) from error
        raise ManifestError(f"cannot use {str(path)!r}: {error}") from error
    return database


def _check_layout(database: sqlite3.Connection, path: Path) -> None:
    """Refuse tables that are not those of this version.

    A file without a version is used if it has the same tables: the first releases wrote none. Some
    of the tables are enough, since a kill at the first start may have left the rest out.
    """
    [version] = database.execute("PRAGMA user_version").fetchone()
    found = _columns(database)
    same = all(_COLUMNS.get(name) == columns for name, columns in found.items())
    if (version == 0 and same) or (version == _FORMAT and found == _COLUMNS):
        return
    odd = sorted(name for name in found.keys() | _COLUMNS if found.get(name) != _COLUMNS.get(name))
    tables = "; ".join(
        f"table {name} ({', '.join(found[name])})" if name in found else f"no table {name}"
        for name in odd[:4]
    )
    what = f"format {version}" + (f": {tables}" if tables else "")
    raise ManifestError(
        f"{str(path)!r} is not a manifest that this version can use: it has {what}; allowed is"
        f" format {_FORMAT}. Nothing in it was changed. Use the version that wrote it, move the"
        " file away, or choose another output folder"
    )


def _columns(database: sqlite3.Connection) -> dict[str, list[str]]:
    """Table -> its columns, in order."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    columns = "SELECT name FROM pragma_table_info(?) ORDER BY cid"
    return {
        table: [column for (column,) in database.execute(columns, (table,))]
        for (table,) in database.execute(query).fetchall()
    }


def recorded(output: str | os.PathLike[str], but: Path | None = None) -> dict[bytes, Record]:
    """Read all manifests in an output folder, except one file and those in use.

    Example:
        >>> from denoise_ext.jobs import manifest
        >>> with manifest.Manifest("clean") as records:
        ...     records.record(Path("a.png"), manifest.Record("0123", size=45, sha256="67"))
        >>> list(manifest.recorded("clean"))
        [b'a.png']
    """
    records: dict[bytes, Record] = {}
    for path in sorted((Path(output) / FOLDER).glob("manifest*.sqlite")):
        if path == but:
            continue
        try:
            database = _open(path, change=False)
        except ManifestError:  # in use, or of another layout
            continue
        with contextlib.closing(database):
            if "outputs" not in _columns(database):  # killed at its first start
                continue
            query = "SELECT target, key, size, sha256 FROM outputs"
            rows = list(_selected(database, path, query))
            records.update((target, _record(path, target, *rest)) for target, *rest in rows)
    return records


def _record(path: Path, target: object, key: object, size: object, sha256: object) -> Record:
    """A row of the outputs; SQLite's columns hold values of any type."""
    if (
        isinstance(target, bytes)
        and isinstance(key, (str, type(None)))
        and isinstance(size, int)
        and isinstance(sha256, str)
    ):
        return Record(key, size, sha256)
    raise ManifestError(
        f"cannot read {str(path)!r}: a row of table outputs is of other types:"
        f" {(target, key, size, sha256)!r:.200}"
    )


def _selected(
    database: sqlite3.Connection, path: Path, query: str, *values: object
) -> Iterator[tuple[Any, ...]]:
    try:
        yield from database.execute(query, values)
    except _UNUSABLE as error:
        raise ManifestError(f"cannot read {str(path)!r}: {error}") from error


def _committed(
    database: sqlite3.Connection, path: Path, statement: str, rows: list[tuple[Any, ...]]
) -> None:
    try:
        database.execute("BEGIN")
        database.executemany(statement, rows)
        database.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        failure = ManifestError(f"cannot write {str(path)!r}: {error}")
        failure.full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        raise failure from error
