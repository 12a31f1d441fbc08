"""tests/support/rotation.py: what one run leaves out another has, and nothing is lost for good."""

from __future__ import annotations

from pathlib import Path

import pytest
import rotation

pytest_plugins = ["pytester"]

SUITE = """
import pytest
from rotation import on_day

@pytest.mark.rotates()
@pytest.mark.parametrize("number", range(10))
def test_numbers(number):
    pass

@pytest.mark.rotates(each=["dtype"])
@pytest.mark.parametrize("layout", ["first", "last", "strided"])
@pytest.mark.parametrize("size", [[1], [2], [3]])
@pytest.mark.parametrize("dtype", ["half", "float"])
def test_corners(dtype, size, layout):
    pass

@pytest.mark.rotates()
@pytest.mark.parametrize("only", [1])
def test_single(only):
    pass

@pytest.mark.parametrize("number", range(4))
def test_unmarked(number):
    pass

@pytest.mark.rotates(turns=6)
@pytest.mark.parametrize("number", range(12))
def test_rare(number):
    pass

@pytest.mark.rotates(turn=0)
def test_build_of_one():
    pass

@pytest.mark.rotates(turn=3)
@pytest.mark.parametrize("number", range(2))
def test_build_of_another(number):
    pass

@pytest.mark.parametrize("name", [on_day(1, "one", turns=4), on_day(3, "three", turns=4)])
def test_rows(name):
    pass
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """The names of the tests that a run with these arguments has."""
    pytester.makepyfile(test_suite=SUITE)

    def names(*arguments: str) -> set[str]:
        result = pytester.inline_run("-p", "rotation", "-p", "no:xdist", *arguments)
        passed, skipped, failed = result.listoutcomes()
        assert not skipped and not failed
        return {report.nodeid.partition("::")[2] for report in passed}

    return names


def of(function: str, names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(function)}


def test_seeds_in_a_row_run_everything(run):
    everything = run("--all")
    assert len(everything) == 10 + 18 + 1 + 4 + 12 + 3 + 2
    runs = [run("--rotation", str(seed)) for seed in (739_000, 739_001, 739_002, 739_003)]
    assert everything - set.union(*runs) <= of("test_rare", everything)
    rows = [of("test_rows", names) for names in runs]
    assert rows == [set(), {"test_rows[one]"}, set(), {"test_rows[three]"}]
    for names in runs:
        assert len(of("test_numbers", names)) in (2, 3)
        for dtype in ("half", "float"):
            assert sum(dtype in name for name in of("test_corners", names)) in (2, 3)
        assert of("test_single", names) == {"test_single[1]"}
        assert len(of("test_unmarked", names)) == 4
    assert sum(len(of("test_numbers", names)) for names in runs) == 10  # each in one of them


def test_a_test_may_have_more_turns(run):
    runs = [of("test_rare", run("--rotation", str(seed))) for seed in range(739_000, 739_006)]
    assert [len(names) for names in runs] == [2] * 6
    assert len(set.union(*runs)) == 12


def test_tests_with_turns_run_on_days_of_their_own(run):
    runs = [run("--rotation", str(seed)) for seed in range(739_000, 739_008)]
    assert [len(of("test_build_of_one", names)) for names in runs] == [1, 0, 0, 0] * 2
    assert [len(of("test_build_of_another", names)) for names in runs] == [0, 0, 0, 2] * 2


def test_a_seed_repeats_its_choice(run):
    assert run("--rotation", "7") == run("--rotation", "7") != run("--rotation", "8")
    assert run() == run()  # of one day


def test_neighbours_are_not_left_out_together(run):
    """A choice by position would always meet the same sizes and layouts together."""
    for seed in range(4):
        numbers = sorted(int(name[13:-1]) for name in of("test_numbers", run(f"--rotation={seed}")))
        assert numbers != list(range(numbers[0], 10, 4))


@pytest.mark.parametrize(
    "arguments, count",
    [(("-k", "test_numbers"), 10), (("test_suite.py::test_numbers",), 10),
     (("-k", "build"), 3), (("test_suite.py::test_build_of_one",), 1),
     (("test_suite.py::test_corners[half-size0-first]",), 1)],
)  # fmt: skip
def test_what_is_named_is_never_left_out(run, arguments, count):
    for day in (0, 86_400, 172_800, 259_200):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rotation.time, "time", lambda day=day: day)
            assert len(run(*arguments)) == count


def test_a_seed_rotates_what_k_selects(run):
    assert len(run("-k", "test_numbers", "--rotation", "1")) in (2, 3)


def test_the_header_has_the_seed(pytester):
    pytester.makepyfile(test_suite=SUITE)
    for arguments, line in (
        (["--rotation", "11"], "rotation: seed 11 *"),
        (["--all"], "rotation: off, *"),
        (["-k", "numbers"], "rotation: off, *"),
    ):
        result = pytester.runpytest_inprocess("-p", "rotation", "-p", "no:xdist", *arguments)
        result.stdout.fnmatch_lines([line])


@pytest.mark.parametrize(
    "arguments",
    [(), ("--rotation", "1"), ("-k", "test_numbers"), ("test_suite.py::test_numbers",)],
    ids=str,
)
def test_the_processes_of_a_run_agree(run, pytester, monkeypatch, arguments):
    monkeypatch.setenv("PYTHONPATH", str(Path(rotation.__file__).parent))
    result = pytester.runpytest_subprocess("-p", "rotation", "-n", "2", *arguments)
    result.assert_outcomes(passed=len(run(*arguments)))
