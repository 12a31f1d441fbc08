"""A batch killed with SIGKILL, at random moments and at the worst ones, and resumed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import killable
import numpy as np
import pytest
from warm_processes import warm_context

from denoise_ext import io
from denoise_ext._loader import native_error

pytestmark = [
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
    pytest.mark.xdist_group("killable"),  # one process that forks the others
]
IMAGES = 61


@pytest.fixture(scope="module")
def processes():
    return warm_context()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        (folder / f"{index % 3}").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (20 + index % 7, 31), dtype=np.uint8)
        io.write_image(folder / f"{index % 3}" / f"{index}.png", pixels)
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    target = tmp_path_factory.mktemp("expected")
    outcomes = killable.resume(source, target)
    assert [o.status for o in outcomes] == ["written"] * IMAGES
    found = contents(target)
    assert len(found) == IMAGES
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Files under their final names."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".") and p.parent.name != ".denoise-ext"
    }


def identities(folder: Path) -> dict[Path, tuple[int, int]]:
    """Another inode or time of change: written again."""
    return {
        p: (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in folder.rglob("*.png")
        if not p.name.startswith(".")
    }


def temporaries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.part"))


def test_killed_twenty_times(processes, source, expected, tmp_path):
    target = tmp_path / "out"
    seen: dict[Path, tuple[int, int]] = {}
    moments = random.Random(0)
    for _ in range(20):
        process = processes.Process(target=killable.resume_and_hang, args=(source, target, 3))
        process.start()
        more = len(seen) + moments.randrange(3)
        patience = time.monotonic() + 120  # seconds; a hundred times what it takes
        while process.is_alive() and len(identities(target)) < more:
            assert time.monotonic() < patience, "nothing more is written"
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.005))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = identities(target)
        assert seen.items() <= now.items()  # nothing is done twice
        assert contents(target).items() <= expected.items()  # no half file under its name
        seen = now
    assert 0 < len(seen) < IMAGES
    outcomes = killable.resume(source, target)
    statuses = [o.status for o in outcomes]
    assert (statuses.count("skipped"), statuses.count("written")) == (len(seen), IMAGES - len(seen))
    assert contents(target) == expected
    assert seen.items() <= identities(target).items()
    assert temporaries(target) == []
    assert {o.status for o in killable.resume(source, target)} == {"skipped"}


@pytest.mark.parametrize("function, what", [
    ("link", "recorded, but without its name"),
    ("unlink", "with two names"),
    ("fsync", "half written"),
])  # fmt: skip
def test_killed_at_the_worst_moment(processes, source, expected, tmp_path, function, what):
    target = tmp_path / "out"
    arguments = (source, target, function, 7)
    process = processes.Process(target=killable.resume_and_die, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(temporaries(target)) == 1, what
    before = identities(target)
    assert 5 < len(before) < IMAGES
    foreign = target / "0" / ".0123456789ab-0123456789ab.part"  # of another manifest's run
    foreign.write_bytes(b"not ours")
    outcomes = killable.resume(source, target)
    assert [o.status for o in outcomes].count("skipped") == len(before)
    assert contents(target) == expected
    assert before.items() <= identities(target).items()
    assert temporaries(target) == [foreign]
