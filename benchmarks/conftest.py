"""The `bench` fixture: check that contenders agree, time them by turns, report at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from harness import Contender, Timing, compare, provenance

RESULTS = pytest.StashKey[dict[str, dict[str, Timing]]]()
PROVENANCE = pytest.StashKey[dict[str, object]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks")
    group.addoption("--bench-rounds", type=int, default=31, help="turns of each contender (31)")
    group.addoption("--bench-json", type=Path, help="write the results to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = {}


@pytest.fixture(scope="session", autouse=True)
def same_threads_for_everyone(request: pytest.FixtureRequest) -> None:
    threads = int(os.environ.get("DENOISE_EXT_BENCH_THREADS", torch.get_num_threads()))
    torch.set_num_threads(threads)
    try:
        import cv2
    except ModuleNotFoundError:
        pass
    else:
        cv2.setNumThreads(threads)
    request.config.stash[PROVENANCE] = provenance()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """``bench({name: function}, tolerance)``: the first is the one under test."""

    def measure(contenders: dict[str, Contender], tolerance: float) -> None:
        expected, *others = (torch.as_tensor(function()) for function in contenders.values())
        for name, result in zip(list(contenders)[1:], others, strict=True):
            torch.testing.assert_close(
                result, expected, atol=tolerance, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
            )
        rounds = request.config.getoption("--bench-rounds")
        request.config.stash[RESULTS][request.node.name] = compare(contenders, rounds)

    with torch.inference_mode():
        yield measure


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash[RESULTS]
    if not results:
        return
    facts = config.stash[PROVENANCE]
    terminalreporter.section("median [quartiles] in ms, and how many times the first one's")
    terminalreporter.line(
        f"{facts['processor']}, {facts['instruction_set']}, {facts['threads']} threads, "
        f"load {facts['load_average'][0]:.1f}"
    )
    for group, timings in results.items():
        terminalreporter.line("")
        terminalreporter.line(group)
        own = next(iter(timings.values())).median
        for name, t in timings.items():
            spread = f"[{1e3 * t.quartile_low:.3f}, {1e3 * t.quartile_high:.3f}]"
            terminalreporter.line(
                f"  {name:24} {1e3 * t.median:10.3f} {spread:24} {t.median / own:6.2f}x"
            )
    if target := config.getoption("--bench-json"):
        record = {"provenance": facts, "results": {}}
        for group, timings in results.items():
            record["results"][group] = {name: asdict(t) for name, t in timings.items()}
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n")
        terminalreporter.line(f"\nwritten: {target}")
