"""Interleaved timing of several callables.

Contenders take turns within one process, round by round, in an order that rotates. Changes of clock
speed and other processes then affect all contenders alike. Timing one after the other does not give
that.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

Call = Callable[[], object]
SHORTEST_TURN = 0.02  # seconds; below, the clock and the loop would be part of the result
# Seconds between turns: thread pools that wait for work by spinning (OpenMP's, ONNX Runtime's) give
# up within a few milliseconds, and are then off the next contender's cores.
PAUSE = 0.01
# Other processes on more than this part of one core make a machine that is not quiet.
QUIET_LOAD = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds: median, 10th and 90th percentile."""

    median: float
    low: float
    high: float
    rounds: int
    calls_per_turn: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    timings: dict[str, Timing]
    # Cores that other processes kept busy during the turns; None where the system has no count.
    other_load: float | None

    @property
    def quiet(self) -> bool:
        """Whether the machine is known to have done nothing else."""
        return self.other_load is not None and self.other_load <= QUIET_LOAD


def busy_seconds() -> float | None:
    """CPU time used by everyone since boot; None where there is no /proc/stat."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            # cpu user nice system idle iowait irq softirq steal
            ticks = [int(field) for field in lines.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def seconds_per_call(call: Call, calls: int) -> float:
    """One turn."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def calls_per_turn(call: Call) -> int:
    """How many calls make a turn long enough to time; warms the contender up as well."""
    calls = 1
    while (seconds := seconds_per_call(call, calls)) * calls < SHORTEST_TURN:
        calls = max(calls + 1, round(1.2 * SHORTEST_TURN / max(seconds, 1e-9)))
    return calls


def interleaved(
    turns: Mapping[str, Callable[[], float]], rounds: tuple[int, int], end: float = math.inf
) -> dict[str, list[float]]:
    """Take turns, round by round, in an order that rotates.

    Args:
        turns: name -> takes one turn and returns its time.
        rounds: the least and the greatest number of turns of each contender, both >= 1.
        end: a value of `time.perf_counter`. No round begins later, except to make the least
            number of rounds.

    Returns:
        Name -> the times of its turns.
    """
    least, most = rounds
    if not 1 <= least <= most:
        raise ValueError(f"rounds must be (least, most) with 1 <= least <= most, got {rounds}")
    names = list(turns)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(most):
        if number >= least and time.perf_counter() > end:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(turns[name]())
    return samples


def compare(
    contenders: Mapping[str, Call], seconds: float, rounds: tuple[int, int] = (3, 51)
) -> Comparison:
    """Time all contenders interleaved, for about ``seconds``.

    Args:
        contenders: name -> what to call. On a GPU the call must wait for its result.
        seconds: no round begins later, except to make the least number of rounds.
        rounds: as for `interleaved`.
    """
    end = time.perf_counter() + seconds
    calls = {name: calls_per_turn(call) for name, call in contenders.items()}
    others = total = 0.0

    def turn(name: str) -> float:
        nonlocal others, total
        time.sleep(PAUSE)
        everyone, own = busy_seconds(), time.process_time()
        sample = seconds_per_call(contenders[name], calls[name])
        if everyone is not None:
            own = time.process_time() - own
            others += (busy_seconds() or everyone) - everyone - own
        total += sample * calls[name]
        return sample

    samples = interleaved({name: partial(turn, name) for name in contenders}, rounds, end)
    load = None if busy_seconds() is None else max(others, 0.0) / total
    return Comparison({name: timing(samples[name], calls[name]) for name in contenders}, load)


def timing(samples: list[float], calls: int) -> Timing:
    """The summary of a contender's turns of `calls` calls each; samples are seconds per call."""
    deciles = quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples
    return Timing(median(samples), deciles[0], deciles[-1], len(samples), calls)
