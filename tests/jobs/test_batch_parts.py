"""The pipeline's threads and the manifest's records, without images."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest

from denoise_ext.jobs.manifest import Manifest, ManifestError, Record, key_of, recorded
from denoise_ext.jobs.pipeline import Done, Stage, run_stages


def test_every_item_goes_through_every_stage():
    stages = [Stage(lambda x: x + 1), Stage(lambda x: x * 10, threads=3), Stage(str)]
    found = {f.item: f.value for f in run_stages(range(50), stages)}
    assert found == {x: str((x + 1) * 10) for x in range(50)}


def test_an_error_is_its_items_own():
    def fail_on_two(x: int) -> int:
        if x == 2:
            raise KeyError("two")
        if x == 3:
            raise Done("early")
        return x

    seen = []
    stages = [Stage(fail_on_two), Stage(lambda x: seen.append(x) or x)]
    found = {f.item: f for f in run_stages(range(5), stages)}
    assert isinstance(found[2].error, KeyError) and found[2].value is None
    assert found[3].value == "early" and found[3].error is None
    assert sorted(seen) == [0, 1, 4]


def test_what_is_under_way_is_bounded():
    taken = []

    def items():
        for x in range(1000):
            taken.append(x)
            yield x

    stages = [Stage(lambda x: x), Stage(lambda x: x, threads=2), Stage(lambda x: x)]
    run = run_stages(items(), stages, waiting=2)
    bound = 4 + 2 * 2
    for done in range(1, 101):
        next(run)
        # one more is held by the feeding thread, which has no room for it
        assert len(taken) <= bound + done + 1
    run.close()


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    run = run_stages(range(10**9), [Stage(lambda x: x), Stage(lambda x: x, threads=2)])
    next(run)
    run.close()
    assert set(threading.enumerate()) <= before


def test_an_error_of_the_items_comes_after_their_results():
    def items():
        yield from range(3)
        raise OSError("the list ends badly")

    found = []
    with pytest.raises(OSError, match="badly"):
        for finished in run_stages(items(), [Stage(lambda x: x)]):
            found.append(finished.item)
    assert found == [0, 1, 2]


def test_records_outlive_the_manifest(tmp_path):
    name = Path("sub") / "a.png"
    record = Record("key", 3, "abc")
    with Manifest(tmp_path / "out") as manifest:
        assert manifest.get(name) is None
        manifest.record(name, record)
        assert manifest.get(name) == record
    with Manifest(tmp_path / "out", (2, 3), siblings=True) as shard:
        assert shard.get(name) == record
        shard.begin([name])
        assert shard.get(name) == Record(None)
    with Manifest(tmp_path / "out") as manifest:
        assert manifest.get(name) == record
    assert set(recorded(tmp_path / "out")) == {b"sub/a.png"}


def test_a_manifest_without_records_leaves_no_trace(tmp_path):
    with Manifest(tmp_path / "made" / "out"):
        assert (tmp_path / "made" / "out").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with Manifest(tmp_path / "there"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_manifests_that_cannot_be_used_say_why(tmp_path):
    with Manifest(tmp_path) as manifest:
        manifest.record(Path("a.png"), Record("key"))
        with pytest.raises(ManifestError, match="another run is writing here"):
            Manifest(tmp_path)
    manifest.path.write_bytes(b"this is no database, but long enough to look like one" * 100)
    with pytest.raises(ManifestError, match=r"manifest\.sqlite.*not a database"):
        Manifest(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ManifestError, match="cannot make folder"):
        Manifest(tmp_path / "file" / "out")


def refused(output: Path, *parts: str) -> None:
    """The manifest gives one error naming the file and these parts; no byte of it changes."""
    path = output / ".denoise-ext" / "manifest.sqlite"
    before = path.read_bytes()
    with pytest.raises(ManifestError) as caught:
        Manifest(output)
    assert path.read_bytes() == before
    assert [part for part in (str(path), *parts) if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def changed(output: Path):
    """The database of a manifest that holds an output."""
    with Manifest(output) as manifest:
        manifest.record(Path("a.png"), Record("key", 3, "abc"))
    with contextlib.closing(sqlite3.connect(manifest.path)) as database:
        yield database
        database.commit()


@pytest.mark.parametrize("change, found", [
    ("ALTER TABLE outputs RENAME COLUMN key TO identity", "outputs (target, identity, size"),
    ("ALTER TABLE outputs ADD COLUMN more", "outputs (target, key, size, sha256, more)"),
    ("DROP TABLE outputs", "no table outputs"),
    ("CREATE TABLE others (a, b)", "others (a, b)"),
    ("PRAGMA user_version = 7", "format 7"),
])  # fmt: skip
def test_a_manifest_of_another_layout_is_refused_and_kept(tmp_path, change, found):
    with changed(tmp_path) as database:
        database.execute(change)
    refused(tmp_path, found, "allowed is format 1")
    with Manifest(tmp_path, (2, 3), siblings=True) as shard:
        assert shard.get(Path("a.png")) is None  # what it says is not this version's to judge


def test_a_name_that_is_no_utf_8(tmp_path):
    with changed(tmp_path) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_master SET name = CAST(x'ff' AS TEXT) WHERE name = 'facts'")
    refused(tmp_path)


def test_a_value_that_is_no_utf_8(tmp_path):
    with changed(tmp_path) as database:
        database.execute("UPDATE facts SET value = CAST(x'ff' AS TEXT)")
    with pytest.raises(ManifestError, match=r"cannot read .*manifest\.sqlite"):
        Manifest(tmp_path)


def test_a_manifest_without_a_version_is_used(tmp_path):
    """As version 0.1.0 wrote them first: the same tables, the format among the facts."""
    with changed(tmp_path) as database:
        database.execute("PRAGMA user_version = 0")
        database.execute("INSERT INTO facts VALUES ('format', '1')")
    with Manifest(tmp_path) as manifest:
        assert manifest.get(Path("a.png")) == Record("key", 3, "abc")
        manifest.record(Path("b.png"), Record("key"))
    with contextlib.closing(sqlite3.connect(manifest.path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


def kept_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("tables", [
    "", "CREATE TABLE outputs (target BLOB PRIMARY KEY, key TEXT, size INTEGER, sha256 TEXT)"
        " WITHOUT ROWID; INSERT INTO outputs VALUES (x'61', 'key', 3, 'abc')",
], ids=["no tables", "no version"])  # fmt: skip
def test_the_manifest_of_another_shard_stays_as_it_is(tmp_path, tables):
    with Manifest(tmp_path, (1, 2)) as manifest:
        manifest.record(Path("b"), Record("key", 3, "abc"))
    older = manifest.path.with_name("manifest-2-of-2.sqlite")
    with contextlib.closing(sqlite3.connect(older)) as database:
        database.executescript(tables)
    before = kept_files(tmp_path)
    expected = {b"a", b"b"} if tables else {b"b"}
    assert recorded(tmp_path) == dict.fromkeys(expected, Record("key", 3, "abc"))
    assert kept_files(tmp_path) == before


@pytest.mark.parametrize("row", [
    ("a", "key", 3, "abc"), (b"a", b"key", 3, "abc"), (b"a", "key", "three", "abc"),
    (b"a", "key", 3, b"abc"), (b"a", "key", None, None),
])  # fmt: skip
def test_a_row_of_other_types_is_refused(tmp_path, row):
    with Manifest(tmp_path) as manifest:
        manifest.record(Path("b"), Record("key"))
    with contextlib.closing(sqlite3.connect(manifest.path)) as database, database:
        database.execute("INSERT INTO outputs VALUES (?, ?, ?, ?)", row)
    with pytest.raises(ManifestError) as error:
        recorded(tmp_path)
    assert str(manifest.path) in str(error.value) and repr(row) in str(error.value)
    if row[0] == b"a":
        with Manifest(tmp_path) as manifest, pytest.raises(ManifestError, match="outputs"):
            manifest.get(Path("a"))


def test_a_manifest_survives_an_error_while_it_is_used(tmp_path):
    """Not one that a run found, nor one whose content cannot be read at the end."""
    with Manifest(tmp_path) as manifest:
        manifest.record(Path("a.png"), Record("key"))
    with pytest.raises(ManifestError, match="no such table"), Manifest(tmp_path) as manifest:
        manifest._database.execute("DROP TABLE outputs")
        manifest.get(Path("a.png"))
    assert manifest.path.exists()
    with contextlib.closing(sqlite3.connect(manifest.path)) as database:
        database.execute(
            "CREATE TABLE outputs (target BLOB PRIMARY KEY, key TEXT, size INTEGER, sha256 TEXT)"
        )
    with Manifest(tmp_path):
        pass
    assert manifest.path.exists()  # it has no records, but was not made here


def test_a_locked_manifest_is_in_use(tmp_path):
    with changed(tmp_path) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("BEGIN EXCLUSIVE")
        refused(tmp_path, "another run is writing here")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user for a moment")
def test_a_read_only_manifest_is_one_line():
    output = Path(tempfile.mkdtemp())  # where another user may enter
    try:
        with Manifest(output) as manifest:
            manifest.record(Path("a.png"), Record("key"))
        for folder in (output, manifest.path.parent):
            folder.chmod(0o777)
        manifest.path.chmod(0o444)
        os.seteuid(65534)
        try:
            refused(output, "permission denied")
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(output)


def test_a_record_describes_one_content(tmp_path):
    from hashlib import sha256

    path = tmp_path / "a"
    path.write_bytes(b"abc")
    right = Record("key", 3, sha256(b"abc").hexdigest())
    assert right.describes(path)
    path.write_bytes(b"abd")
    assert not right.describes(path)
    assert not right.describes(tmp_path / "missing")
    assert not Record(None).describes(path)


def test_keys_tell_inputs_and_options_apart():
    keys = {
        key_of("content", {"sigma": 1.0}), key_of("content", {"sigma": 2.0}),
        key_of("other", {"sigma": 1.0}), key_of("content", {"sigma": 1.0, "strength": 0.5}),
    }  # fmt: skip
    assert len(keys) == 4
    one, two = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert key_of("content", one) == key_of("content", two)
