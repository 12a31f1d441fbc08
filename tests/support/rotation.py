"""A pytest plugin: of a test's many variants each run has a part, and the next seed another one.

``@pytest.mark.rotates(each=["case", "dtype"])`` runs a quarter of the variants that have the same
``case`` and ``dtype``, at least one of them.  Four seeds in a row run them all.  The seed is the
number of the day, so that the runs of one day agree.  ``turns=12`` runs a twelfth of the variants.

``@pytest.mark.rotates(turn=1)`` is for a test that is expensive as a whole, such as one with a
build of its own.  It runs at one seed in four.  Tests with different turns run on different days.
`on_day` does the same for one row of parameters.

``--all`` runs every variant, and so do ``-k``, ``--last-failed`` and the name of a test on the
command line.  ``--rotation SEED`` repeats the choice of another day, also among what they select.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path

import pytest

TURNS = 4  # seeds in a row that run everything, unless a test has its own number
SECONDS_PER_DAY = 86_400
SEED = pytest.StashKey[int | None]()


def on_day(turn: int, *values: object, turns: int = 8):
    """A row of ``parametrize`` that runs at one of `turns` seeds."""
    return pytest.param(*values, marks=pytest.mark.rotates(turn=turn, turns=turns))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rotation", "variants that a run leaves out")
    group.addoption("--all", action="store_true", help="run every variant of every test")
    group.addoption(
        "--rotation", type=int, metavar="SEED",
        help="which variants to run (default: another choice every day)",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"rotates(each=(), turns={TURNS}, turn=None): run one in `turns` variants, and at least "
        "one for each combination of the parameters that `each` names; with `turn`, run the whole "
        "test at that one of `turns` seeds",
    )
    config.stash[SEED] = _seed(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Hand the seed to a process of pytest-xdist: midnight must not part them."""
    node.workerinput["rotation"] = node.config.stash[SEED]


def _seed(config: pytest.Config) -> int | None:
    """The seed of this run, None where nothing is left out."""
    if hasattr(config, "workerinput"):
        return config.workerinput["rotation"]
    option = config.option
    if option.all or (
        option.rotation is None and (option.keyword or config.getoption("lf", False))
    ):
        return None
    return int(time.time()) // SECONDS_PER_DAY if option.rotation is None else option.rotation


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.stash[SEED]
    if seed is None:
        return "rotation: off, every variant runs"
    return f"rotation: seed {seed} (--all runs every variant)"


def _named(config: pytest.Config) -> list[tuple[Path, str]]:
    """(file, name within it) of the tests that the command line names."""
    arguments = [argument.split("::", 1) for argument in config.args if "::" in argument]
    return [(Path(config.invocation_params.dir, path), name) for path, name in arguments]


def _key(value: object) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def _digest(item: pytest.Item) -> str:
    return hashlib.sha256(item.nodeid.encode()).hexdigest()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed = config.stash[SEED]
    if seed is None:
        return
    named = _named(config)
    groups: dict[Hashable, list[pytest.Item]] = defaultdict(list)
    turns_of: dict[Hashable, int] = {}
    left_out = set()
    for item in items:
        mark = item.get_closest_marker("rotates")
        name = item.nodeid.partition("::")[2]
        if mark is None or any(item.path == p and name.startswith(n) for p, n in named):
            continue
        turns = mark.kwargs.get("turns", TURNS)
        if "turn" in mark.kwargs:
            if (mark.kwargs["turn"] - seed) % turns:
                left_out.add(item)
            continue
        parameters = item.callspec.params
        corner = tuple(_key(parameters[name]) for name in mark.kwargs.get("each", ()))
        group = item.path, name.partition("[")[0], corner
        groups[group].append(item)
        turns_of[group] = turns
    for group, variants in groups.items():
        turns = min(turns_of[group], len(variants))
        # In an order of their own: neighbours of one parameter are not left out together.
        variants.sort(key=_digest)
        left_out.update(item for i, item in enumerate(variants) if (i - seed) % turns)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
