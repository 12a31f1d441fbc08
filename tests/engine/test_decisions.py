"""Decisions of ``accelerate`` kept on disk: used where nothing has changed, harmless otherwise."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from engine_tools import ours_is_faster as ours_is_faster
from engine_tools import set_times, timed
from torch import nn
from zoo import FAMILIES, tiny

import denoise_ext
from denoise_ext import _cache, engine
from denoise_ext._loader import native
from denoise_ext.engine.fuse import decisions, verify
from denoise_ext.engine.run.output_tree import largest_error


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 20, 3, padding=1)]
    return nn.Sequential(*layers).eval()


X = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISE_EXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decisions"


@pytest.fixture
def clock(monkeypatch):
    """Counts timings; ours is faster in all of them."""
    calls: list[int] = []

    def interleaved(contenders):
        calls.append(len(contenders))
        return [2.0] * (len(contenders) - 1) + [1.0]

    set_times(monkeypatch, interleaved)
    return calls


def decided(fast) -> set[str]:
    return {row.decided for row in fast.report().rows} - {""}


def variants(fast) -> list[tuple[str, str, str]]:
    return [(row.module, row.site, row.variant) for row in fast.report().rows]


def test_the_second_process_needs_no_clock(folder, clock):
    first = denoise_ext.accelerate(net(), X)
    assert clock and decided(first) == {"timed"} and len(list(folder.iterdir())) == 1
    timed, clock[:] = list(clock), []
    second = denoise_ext.accelerate(net(), X)
    assert timed and not clock and decided(second) == {"cached"}
    assert variants(first) == variants(second)
    assert torch.equal(first(X), second(X))
    assert "cached" in str(second.report())
    assert _cache.size()[0] == 1 and _cache.size()[1] > 0


def test_what_is_slower_is_kept_too(folder, monkeypatch):
    set_times(monkeypatch, lambda calls: timed(1.0, 2.0, calls))
    model = net()
    assert decided(denoise_ext.accelerate(model, X)) == {"timed"}
    set_times(monkeypatch, lambda calls: pytest.fail("timed again"))
    again = denoise_ext.accelerate(model, X)
    assert all(row.variant != "plan" for row in again.report().rows)
    assert torch.equal(again(X), model(X))


def test_a_plan_of_the_original_s_operators_is_kept_too(folder, monkeypatch):
    set_times(monkeypatch, lambda calls: timed(3.0, 2.0, calls, plain=1.0))
    model = net()
    first = denoise_ext.accelerate(model, X)
    set_times(monkeypatch, lambda calls: pytest.fail("timed again"))
    again = denoise_ext.accelerate(model, X)
    for fast in (first, again):
        whole = fast.report().rows[-1]
        assert (whole.variant, whole.ours_ms) == ("plan", 1.0)
        assert "PyTorch's own" in whole.reason
    assert variants(first) == variants(again) and decided(again) == {"cached"}
    assert torch.equal(again(X), first(X))


@pytest.mark.parametrize("change", ["weight", "size", "precision", "dtype", "threads", "layer"])
def test_whatever_a_decision_depends_on_is_in_its_key(folder, clock, change):
    denoise_ext.accelerate(net(), X)
    clock.clear()
    model, x, options, threads = net(), X, {}, torch.get_num_threads()
    if change == "weight":
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] += 1e-6
    if change == "size":
        x = torch.rand(1, 3, 24, 21)
    if change == "precision":
        options = {"precision": "strict"}
    if change == "dtype":
        options = {"dtype": torch.bfloat16}
    if change == "layer":
        model[1] = nn.Sigmoid().eval()
    try:
        if change == "threads":
            torch.set_num_threads(threads + 1)
        fast = denoise_ext.accelerate(model, x, **options)
    finally:
        torch.set_num_threads(threads)
    assert clock and "cached" not in decided(fast) and _cache.size()[0] == 2


@pytest.mark.skipif(len(native().isa_available()) < 2, reason="one instruction set here")
def test_the_instruction_set_is_in_the_key(folder, clock):
    before = native().isa_in_use()
    other = next(isa for isa in native().isa_available() if isa != before)
    denoise_ext.accelerate(net(), X)
    clock.clear()
    try:
        native().force_isa(other)
        assert decided(denoise_ext.accelerate(net(), X)) == {"timed"} and clock
    finally:
        native().force_isa(before)
    clock.clear()
    assert decided(denoise_ext.accelerate(net(), X)) == {"cached"} and not clock
    assert _cache.size()[0] == 2


def test_the_code_is_in_the_key(folder, clock, tmp_path, monkeypatch):
    """Of everything that makes a plan, or runs one."""
    package, copied = Path(denoise_ext.__file__).parent, tmp_path / "package"
    for folder_name in ("engine", "ops"):
        shutil.copytree(package / folder_name, copied / folder_name)
    shutil.copy(package / "_precision.py", copied)
    monkeypatch.setattr(decisions, "_PACKAGE", copied)
    decisions._code.cache_clear()
    try:
        denoise_ext.accelerate(net(), X)
        parts = ("capture/shapes", "fuse/conv", "fuse/verify", "run/plan", "accelerate")
        for name in (*(f"engine/{part}" for part in parts), "ops/_layout", "_precision"):
            decisions._code.cache_clear()
            clock.clear()
            assert decided(denoise_ext.accelerate(net(), X)) == {"cached"} and not clock
            with open(copied / f"{name}.py", "a") as file:
                file.write("# changed")
            decisions._code.cache_clear()
            assert decided(denoise_ext.accelerate(net(), X)) == {"timed"} and clock, name
    finally:
        decisions._code.cache_clear()


def _edited(entry: dict, **row: object) -> bytes:
    for one in entry["value"]["rows"]:
        one.update(row)
    return json.dumps(entry).encode()


def _whole(entry: dict, **facts: object) -> bytes:
    entry["value"].update(facts)
    return json.dumps(entry).encode()


DAMAGE = {
    "empty": lambda entry: b"",
    "cut": lambda entry: json.dumps(entry).encode()[:-20],
    "no JSON": lambda entry: os.urandom(500),
    "a list": lambda entry: b"[]",
    "deep": lambda entry: b"[" * 200_000,
    "large": lambda entry: b" " * (_cache.MOST_BYTES + 1),
    "another key": lambda entry: json.dumps({**entry, "key": "0" * 64}).encode(),
    "no rows": lambda entry: json.dumps({**entry, "value": {}}).encode(),
    "unknown variant": lambda entry: _edited(entry, step="rm -rf"),
    "variant of another type": lambda entry: _edited(entry, step=["direct"]),
    "unknown site": lambda entry: _edited(entry, module="elsewhere"),
    "not finite": lambda entry: _edited(entry, bound=float("nan")),
    "negative": lambda entry: _edited(entry, error=-1),
    "text as time": lambda entry: _edited(entry, ours_ms="fast"),
    "an integer beyond floats": lambda entry: _edited(entry, bound=10**400),
    "a time beyond floats": lambda entry: _whole(entry, times=[10**400, 1]),
    "unknown name": lambda entry: _edited(entry, variant="\x1b[31mfast"),
    "control characters": lambda entry: _edited(entry, reason="\x1b[31mfast"),
    "a long reason": lambda entry: _edited(entry, reason="slow " * 10_000),
    "control characters of the whole": lambda entry: _whole(entry, slower="\x1b[31mslow"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_entries_are_as_none(folder, clock, name):
    first = denoise_ext.accelerate(net(), X)
    path = next(folder.iterdir())
    path.write_bytes(DAMAGE[name](json.loads(path.read_text())))
    clock.clear()
    again = denoise_ext.accelerate(net(), X)
    assert clock and decided(again) == {"timed"}
    assert torch.equal(again(X), first(X))
    clock.clear()  # and a good one is in its place
    assert decided(denoise_ext.accelerate(net(), X)) == {"cached"} and not clock


def test_a_damaged_entry_is_logged(folder, clock, caplog):
    denoise_ext.accelerate(net(), X)
    path = next(folder.iterdir())
    path.write_bytes(b"{")
    denoise_ext.accelerate(net(), X)
    assert str(path) in caplog.text


def test_another_users_entry_is_left_out(folder, clock, monkeypatch):
    denoise_ext.accelerate(net(), X)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert decided(denoise_ext.accelerate(net(), X)) == {"timed"}


def test_a_kept_plan_is_held_against_the_original(folder, clock, monkeypatch):
    """Even a decision that was possible, and is wrong for these weights, gives no wrong result."""
    denoise_ext.accelerate(net(), X)
    path = next(folder.iterdir())
    path.write_bytes(_edited(json.loads(path.read_text()), step="direct", variant="direct"))
    from denoise_ext.engine.fuse.conv import ConvSite

    right = ConvSite.folded

    def wrong(self, constants):
        weight, bias = right(self, constants)
        return (weight * 1.1, bias) if len(weight) == 20 else (weight, bias)

    model = net()
    with monkeypatch.context() as patch:
        patch.setattr(ConvSite, "folded", wrong)
        fast = denoise_ext.accelerate(model, X)
        with torch.no_grad():
            torch.testing.assert_close(fast(X), model(X), rtol=1e-4, atol=1e-5)
    assert "cached" not in decided(fast)


def test_an_entry_does_not_loosen_the_check(folder, clock, monkeypatch):
    """A plan that is off by 1 %: far more than rounding, less than any plan may be at most."""
    denoise_ext.accelerate(net(), X)
    path = next(folder.iterdir())
    path.write_bytes(_edited(json.loads(path.read_text()), bound=1.0))
    from denoise_ext.engine.fuse.conv import ConvSite

    right = ConvSite.folded
    model = net()
    with monkeypatch.context() as patch:
        patch.setattr(ConvSite, "folded", lambda *args: tuple(1.01 * x for x in right(*args)))
        fast = denoise_ext.accelerate(model, X)
    with torch.no_grad():
        torch.testing.assert_close(fast(X), model(X), rtol=1e-4, atol=1e-5)
    assert "cached" not in decided(fast)


def test_bounds_of_a_cached_plan_are_those_of_the_timed_one(folder, clock):
    first, second = (denoise_ext.accelerate(net(), X).report().rows for _ in range(2))
    assert [row.bound for row in first] == [row.bound for row in second]
    assert {row.decided for row in second} == {"cached"} and all(row.bound for row in second)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "endless"])
def test_what_is_no_regular_file_is_no_entry(folder, caplog, kind):
    key = "a" * 64
    folder.mkdir(parents=True)
    path = folder / f"{key}.json"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    if kind == "link":
        (folder / "else").write_text(json.dumps({"key": key, "value": 1}))
        path.symlink_to("else")
    if kind == "endless":
        path.symlink_to("/dev/zero")
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(_cache.read(key)), daemon=True)
    reader.start()
    reader.join(20)
    assert found == [None] and str(path) in caplog.text
    _cache.write(key, 2)
    assert _cache.read(key) == (None if kind == "folder" else 2)


def test_what_a_killed_process_left_is_removed(folder):
    _cache.write("a" * 64, 1)
    old, new, other = (folder / f".{c * 16}.part" for c in "0af")
    other = other.with_suffix(".else")
    for path in (old, new, other):
        path.write_text("{")
        os.utime(path, (0, 0))
    os.utime(new)
    _cache.write("b" * 64, 2)
    assert not old.exists() and new.exists() and other.exists()


def test_without_a_folder_nothing_is_kept(tmp_path, clock, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in ("off", str(tmp_path / "file"), "/proc/nowhere"):
        monkeypatch.setenv("DENOISE_EXT_CACHE", place)
        for _ in range(2):
            assert decided(denoise_ext.accelerate(net(), X)) == {"timed"}
        assert _cache.size() == (0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_entries_used_last_are_kept(folder, monkeypatch):
    monkeypatch.setattr(_cache, "MOST_ENTRIES", 3)
    keys = [str(i) * 64 for i in range(5)]
    for age, key in enumerate(keys[:3]):
        _cache.write(key, age)
        os.utime(folder / f"{key}.json", ns=(age, age))
    assert _cache.read(keys[0]) == 0  # used now
    _cache.write(keys[3], 3)
    assert [_cache.read(key) for key in keys] == [0, None, 2, 3, None]
    assert not list(folder.glob(".*"))


def test_several_at_once(folder):
    key, wrong = "a" * 64, []

    def work(number: int) -> None:
        for turn in range(50):
            _cache.write(key, [number, turn] * 100)
            found = _cache.read(key)
            if not isinstance(found, list) or found != found[:2] * 100:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and [path.name for path in folder.iterdir()] == [f"{key}.json"]


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.delenv("DENOISE_EXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _cache.folder() == tmp_path / "denoise_ext" / "decisions"


# --- this package's own networks --------------------------------------------------------------


@pytest.mark.rotates(each=["name", "precision"])
@pytest.mark.parametrize("precision", ["strict", "default"])
@pytest.mark.parametrize("size", [(48, 64), (33, 21), (5, 130)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_known_decisions_are_right(name, size, precision, ours_is_faster):
    """What a plan of the zoo skips at run time: every family against its original."""
    model = tiny(name)
    torch.manual_seed(2)
    arguments = (torch.rand(1, model.in_channels, *size), 25.0 if model.needs_sigma else None)
    examined = denoise_ext.accelerate(model, arguments, precision=precision)
    whole = next(row for row in examined.report().rows if row.variant == "plan")
    known = engine.plan(model, precision)
    with torch.no_grad():
        assert largest_error(known(*arguments), model(*arguments)) <= whole.bound
        again = engine.plan(model, precision)(*arguments)
        assert torch.equal(known(*arguments), again)


def test_known_decisions_need_neither_clock_nor_original(monkeypatch):
    for name in ("interleaved", "settled", "examine"):
        monkeypatch.setattr(verify, name, lambda *_: pytest.fail("not needed"))
    model = tiny(FAMILIES[0])
    known = engine.plan(model)
    with torch.no_grad():
        known(torch.rand(1, model.in_channels, 16, 16), 25.0 if model.needs_sigma else None)
    assert decided(known) == {"known"}
