"""Timing by turns: every contender meets the same machine.

Contenders take turns within one process, round by round, in an order that rotates. What the machine
does besides (clock speed, other processes) then meets them all alike, which timing one after the
other does not give.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
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
    # Cores that other processes kept busy during the turns; None where the system does not tell.
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


def compare(
    contenders: dict[str, Call], seconds: float, rounds: tuple[int, int] = (3, 51)
) -> Comparison:
    """Time everyone by turns, for about ``seconds``.

    Args:
        contenders: name -> what to call.
        seconds: no round begins later, except to make the least number of rounds.
        rounds: the least and the greatest number of turns of each contender, both >= 2.
    """
    least, most = rounds
    if not 2 <= least <= most:
        raise ValueError(f"rounds must be (least, most) with 2 <= least <= most, got {rounds}")
    end = time.perf_counter() + seconds
    names = list(contenders)
    calls = {name: calls_per_turn(contenders[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    others = turns = 0.0
    for turn in range(most):
        if turn >= least and time.perf_counter() > end:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            everyone, own = busy_seconds(), time.process_time()
            samples[name].append(seconds_per_call(contenders[name], calls[name]))
            if everyone is not None:
                own = time.process_time() - own
                others += busy_seconds() - everyone - own
            turns += samples[name][-1] * calls[name]
    load = None if busy_seconds() is None else max(others, 0.0) / turns
    return Comparison({name: _timing(samples[name], calls[name]) for name in names}, load)


def _timing(samples: list[float], calls: int) -> Timing:
    deciles = quantiles(samples, n=10, method="inclusive")
    return Timing(median(samples), deciles[0], deciles[-1], len(samples), calls)
