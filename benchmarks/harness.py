"""Timing by turns: all contenders meet the same machine. README.md says why."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median, quantiles

import torch

import denoise_ext

Contender = Callable[[], object]
SHORTEST_TURN = 0.005  # seconds; below, the clock and the loop would be part of the result


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds."""

    median: float
    quartile_low: float
    quartile_high: float
    rounds: int
    calls_per_turn: int


def seconds_per_call(contender: Contender, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        contender()
    return (time.perf_counter() - start) / calls


def calls_per_turn(contender: Contender) -> int:
    """How many calls make a turn long enough to time; warms the contender up as well."""
    contender()
    calls = 1
    while (seconds := seconds_per_call(contender, calls)) * calls < SHORTEST_TURN:
        calls = max(calls + 1, round(1.2 * SHORTEST_TURN / max(seconds, 1e-9)))
    return calls


def compare(contenders: dict[str, Contender], rounds: int) -> dict[str, Timing]:
    """Time every contender ``rounds`` times, by turns, in an order that rotates."""
    if rounds < 2:
        raise ValueError(f"rounds must be at least 2, got {rounds}")
    names = list(contenders)
    calls = {name: calls_per_turn(contenders[name]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_per_call(contenders[name], calls[name]))
    timings = {}
    for name, times in seconds.items():
        low, _, high = quantiles(times, n=4, method="inclusive")
        timings[name] = Timing(median(times), low, high, rounds, calls[name])
    return timings


def provenance() -> dict[str, object]:
    """What a number means nothing without."""
    facts = denoise_ext.info()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": facts["versions"],
        "processor": facts["cpu"]["processor"],
        "machine": platform.machine(),
        "instruction_set": facts["cpu"]["isa_in_use"],
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
    }
