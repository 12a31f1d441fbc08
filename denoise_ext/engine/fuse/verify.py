"""Holds replacements against the original on real tensors: how far off, and how long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import comb
from operator import truediv
from statistics import median
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Value, channels_last_stride, substitute
from denoise_ext.engine.fuse.ir import Constants, Site, Step, call_step, rms, run
from denoise_ext.engine.fuse.match import ConcatSite
from denoise_ext.engine.report import Row

WORTH_IT = 1.02  # times as fast as the original, for a whole or its parts: less is noise
# Rounds in which a whole is timed beside its original, at least: to lose, to win; and at most.
_FEWEST, _FEW, _MOST = 3, 5, 40
_DOUBT = 0.05  # of a gain: five rounds are the fewest that leave less
_PATIENCE = 20.0  # seconds, after which no round follows that a gain does not need
_ROUNDS = 3  # timed runs of a site and its original, in turn; the shortest counts
_SHORT = 2e-3  # seconds: what is shorter is run several times per round
_TINY = torch.finfo(torch.float32).tiny  # keeps relative errors of zeros from being undefined
_WORST = 0.05
# Of 10^8 independent errors the largest is about 6 times their root mean square, and bounds are 4
# times that (conv_site._WALK).
_TAIL = 6 / 4
_LONG = 0.5  # seconds: what is longer needs no warm-up
_CACHE = 2**21  # bytes: a core's second-level cache keeps no more


@dataclass
class Examination:
    """The result: a step for each site (None: the original), and a row for each."""

    chosen: dict[Site, Step | None] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)  # relative, of the sites replaced

    def refused_together(self) -> set[tuple[str, str]]:
        """Module and label of sites that lost together with what they took in."""
        return {
            (site.module, site.label)
            for site, step in self.chosen.items()
            if step is None and site.splits
        }


def clock() -> float:
    """Seconds since some moment."""
    return time.perf_counter()


def processor_clock() -> float:
    """Seconds that the threads of this process have run, together."""
    return time.process_time()


def stopwatch() -> Callable[[], float]:
    """A function that returns the seconds since, by the clock that shows fewer.

    Other processes make a call longer by the first, the call's own threads by the second.
    """
    start, begun = clock(), processor_clock()
    return lambda: min(clock() - start, processor_clock() - begun)


def examine(
    graph: Graph, constants: Constants, sites: list[Site], tensors: list[Tensor],
    known: dict[str, list[float]],
) -> Examination:  # fmt: skip
    """Run the original operator by operator and try every site's variants on what it reads.

    ``known`` keeps the times of a site of the same kind and sizes.
    """
    found = Examination()

    def visit(site: Site, look_up: Callable[[Value], Tensor]) -> None:
        _try(site, constants, look_up, found, known)

    _run_original(graph, constants, sites, tensors, visit)
    _mark_left_out(found)
    return found


def bounds_of(
    graph: Graph, constants: Constants, variants: dict[Site, str], tensors: list[Tensor]
) -> dict[Site, float]:
    """The relative error that each site's variant may have on what it reads."""
    bounds: dict[Site, float] = {}

    def visit(site: Site, look_up: Callable[[Value], Tensor]) -> None:
        bounds[site] = _relative_bound(site, variants[site], look_up)

    if variants:
        _run_original(graph, constants, [*variants], tensors, visit)
    return bounds


def _run_original(
    graph: Graph, constants: Constants, sites: list[Site], tensors: list[Tensor],
    visit: Callable[[Site, Callable[[Value], Tensor]], None],
) -> None:  # fmt: skip
    """Operator by operator; visits each site when all that it reads and makes is there."""
    env = dict(zip(graph.inputs, tensors, strict=True))
    at_node = {site.nodes[-1]: site for site in sites}
    last_use = {value: node for node in graph.nodes for value in node.inputs()}
    for site in sites:  # what a site reads must live until its last operator
        for value in site.reads():
            if value not in last_use or last_use[value].index < site.nodes[-1].index:
                last_use[value] = site.nodes[-1]
        for node in (*site.before, *site.nodes):
            for value in node.inputs():
                if last_use[value].index < site.nodes[-1].index:
                    last_use[value] = site.nodes[-1]

    def look_up(value: Value) -> Tensor:
        return env[value] if value in env else constants[value]

    for node in graph.nodes:
        if all(value in constants for value in node.results if value is not None):
            continue
        results = run(Step.of(node), look_up)
        env.update((v, r) for v, r in zip(node.results, results, strict=True) if v is not None)
        if node in at_node:
            visit(at_node[node], look_up)
        for value in [v for v in env if last_use.get(v) is node]:
            if value not in graph.inputs:
                del env[value]


def _relative_bound(site: Site, variant: str, look_up: Callable[[Value], Tensor]) -> float:
    bound = site.error_bound(variant, look_up)
    assert bound is not None  # of variants that may round otherwise
    return bound / max(rms(look_up(site.output)), _TINY)


def _mark_left_out(found: Examination) -> None:
    """Mark sites that were fused into a later replacement."""
    fused = {
        node for site, step in found.chosen.items() if step is not None for node in site.before
    }  # fmt: skip
    for site, row in zip(found.chosen, found.rows, strict=True):
        if site.nodes[-1] in fused:
            row.variant, row.reason = "left out", "a later replacement computes it"


def _try(
    site: Site, constants: Constants, look_up: Callable[[Value], Tensor], found: Examination,
    known: dict[str, list[float]],
) -> None:  # fmt: skip
    row = Row(site.module, site.label, "original")
    found.rows.append(row)
    if isinstance(site, ConcatSite):
        found.chosen[site] = None
        row.variant = "in place"
        return
    best = site.variants()[0]
    if site.error_bound(best, look_up) is None:  # the same operator, other memory
        _check_same(site, best, constants, look_up, found, row)
        return
    reasons, planned = [], _as_planned(site, look_up, found)
    fit: dict[str, tuple[Step, float, float]] = {}  # with error and bound
    for variant in site.variants():
        step = site.step(variant, constants)
        bound = _relative_bound(site, variant, look_up)
        error = _error(step, site, look_up, planned)
        if error <= bound:
            fit[variant] = step, error, bound
        else:
            reasons.append(f"{variant} is off by {error:.1e}, allowed {bound:.0e}")
    steps = {variant: step for variant, (step, *_) in fit.items()}
    original, *ours = _times(steps, site, constants, look_up, planned, known) if steps else [0.0]
    for variant, taken in zip(fit, ours, strict=True):
        if row.ours_ms is None or taken < row.ours_ms:
            found.chosen[site], error, bound = fit[variant]
            row.variant, row.error, row.bound = variant, error, bound
            row.original_ms, row.ours_ms, row.decided = original, taken, "timed"
    if site not in found.chosen or row.speedup is None:
        row.reason = "; ".join(reasons)
        found.chosen[site] = None
    elif row.speedup < 1:
        row.variant, row.reason = "original", f"{row.variant} is not faster"
        found.chosen[site] = None
    else:
        found.bounds.append(row.bound or 0.0)


def _as_planned(
    site: Site, look_up: Callable[[Value], Tensor], found: Examination
) -> Callable[[Value], Tensor]:
    """``look_up``, but what the plan will have written is laid out as it will be there.

    The original may have been traced in another layout, which costs replacements a conversion that
    there is none of in the plan: they would be timed at twice what they take.
    """
    written = {
        value
        for s, step in found.chosen.items()
        if step is not None or isinstance(s, ConcatSite)
        for value in (s.output, *s.also)
    }
    planned = {
        value: look_up(value).contiguous(memory_format=torch.channels_last)
        for value in written.intersection(site.reads())
        if len(value.shape) == 4
    }
    return lambda value: planned[value] if value in planned else look_up(value)


def _check_same(
    site: Site, variant: str, constants: Constants, look_up: Callable[[Value], Tensor],
    found: Examination, row: Row,
) -> None:  # fmt: skip
    """A site that computes the same numbers: an ulp or two, where vectors begin elsewhere."""
    step = site.step(variant, constants)
    row.error = _error(step, site, look_up, look_up)
    row.bound = 4 * torch.finfo(site.output.dtype).eps
    if row.error <= row.bound:
        row.variant, found.chosen[site] = variant, step
    else:
        row.reason, found.chosen[site] = f"{variant} is off by {row.error:.1e}", None


def _error(
    step: Step, site: Site, look_up: Callable[[Value], Tensor], planned: Callable[[Value], Tensor]
) -> float:
    """The largest relative error among what ``step`` makes of the ``planned`` tensors."""
    results = (site.output, *site.also)
    actual = _bound(step, site, planned)()[: len(results)]
    return max(relative_error(a, look_up(v)) for a, v in zip(actual, results, strict=True))


def _bound(
    step: Step, site: Site, look_up: Callable[[Value], Tensor]
) -> Callable[[], list[Tensor]]:  # fmt: skip
    """``step`` as a function without arguments; its memory is allocated once.

    The memory is filled with NaN: what a step leaves unwritten must not look right by chance.
    """
    if not step.writes:
        return lambda: run(step, look_up)
    device = look_up(site.output).device
    outs = [
        torch.empty_strided(v.shape, channels_last_stride(v.shape), dtype=v.dtype, device=device)
        for v in step.made
    ]
    for out in outs:
        if out.is_floating_point():
            out.fill_(torch.nan)
    filled = step.filled(outs)

    def call() -> list[Tensor]:
        call_step(filled, look_up)
        return outs

    return call


def _times(
    steps: dict[str, Step], site: Site, constants: Constants, look_up: Callable[[Value], Tensor],
    planned: Callable[[Value], Tensor], known: dict[str, list[float]],
) -> list[float]:  # fmt: skip
    """Milliseconds of the original and of each variant's step, in turn."""
    nodes = [Step.of(node) for node in (*site.before, *site.nodes)]
    strides = [planned(value).stride() for value in site.reads()]
    calls = [
        (str(n.function), substitute([n.args, n.kwargs], lambda value: (value.shape, value.dtype)))
        for n in nodes
    ]
    key = f"{site.label} {[*steps]} {strides} {calls} {len(site.also)}"
    if key not in known:

        def original() -> None:
            env: dict[Value, Tensor] = {}
            for node in nodes:
                results = run(node, lambda v: env[v] if v in env else look_up(v))
                pairs = zip(node.results, results, strict=True)
                env.update((value, x) for value, x in pairs if value is not None)

        ours = [_bound(step, site, planned) for step in steps.values()]
        known[key] = interleaved([original, *ours], _in_between(site, constants, planned))
    return known[key]


def _in_between(
    site: Site, constants: Constants, planned: Callable[[Value], Tensor]
) -> Callable[[], None]:
    """What comes before the site in a call of the model: other weights leave the caches no room.

    A run right after another one would find its own weights there.  What the site reads is there:
    it was just written.
    """
    weights = sum(x.numel() * x.element_size() for x in constants.tensors)
    images = [planned(value) for value in site.reads()]
    if weights <= _CACHE or any(x.device.type != "cpu" for x in images):
        return lambda: None
    others = torch.zeros(torch.get_num_threads() * 2 * _CACHE // 4)

    def run_others() -> None:
        for x in (others, *images):
            x.sum()

    return run_others


def whole_bound(bounds: list[float]) -> float:
    """Bound a model's relative error: sites' errors are independent, so their squares add.

    Twice the root of it, for sites that amplify an error more than the signal, but never above 5 %:
    a plan wired wrongly is off by more than that.
    """
    return min(_WORST, 2 * sum(bound * bound for bound in bounds) ** 0.5)


def interleaved(calls: list[Callable[[], Any]], in_between: Callable[[], None]) -> list[float]:
    """Milliseconds of each, the shortest of a few runs in turn; ``in_between`` runs before each."""
    start = clock()
    in_between()
    # The first run is the warm-up.
    longest = clock() - start + max(_turn(calls, 1, 0, in_between))
    rounds = 1 if longest > _LONG else _ROUNDS
    turns = [_turn(calls, _repeats(longest), number, in_between) for number in range(rounds)]
    return [1e3 * min(column) for column in zip(*turns, strict=True)]


def settled(calls: list[Callable[[], Any]]) -> list[float]:
    """Milliseconds of the original and of contenders for its place: gains that are sure.

    Other processes disturb single runs, so rounds follow each other until some contender surely is
    worth its place, or surely none is.  A contender's time is the original's median over its ratio.
    """
    start = clock()
    first = _turn(calls, 1, 0)
    # A long run is no warm-up: all have run before, for the comparison.
    rounds = [first] if max(first) > _LONG else []
    while True:
        rounds.append(_turn(calls, _repeats(max(first)), len(rounds)))
        sure, possible = _gains(rounds)
        if len(rounds) >= _FEWEST and max(possible) < WORTH_IT:
            break
        late = clock() - start > _PATIENCE or len(rounds) == _MOST
        if len(rounds) >= _FEW and (late or max(sure) >= WORTH_IT):
            break
    original = 1e3 * median(times[0] for times in rounds)
    return [original, *(original / gain for gain in sure)]


def _gains(rounds: list[list[float]]) -> tuple[list[float], list[float]]:
    """How many times as fast as the original each contender is at least, and at most.

    The limits of a sign test for the median: with equal chances, fewer rounds than ``beyond`` lie
    on one side of it in ``_DOUBT`` of all cases.
    """
    count, beyond, cases = len(rounds), 0, 1
    while cases + comb(count, beyond + 1) <= _DOUBT * 2**count:
        beyond += 1
        cases += comb(count, beyond)
    columns = [*zip(*rounds, strict=True)]
    gains = [sorted(map(truediv, columns[0], ours)) for ours in columns[1:]]
    return [column[beyond] for column in gains], [column[-1 - beyond] for column in gains]


def _turn(
    calls: list[Callable[[], Any]], repeats: int, number: int,
    in_between: Callable[[], None] = lambda: None,
) -> list[float]:  # fmt: skip
    """Seconds of each, in an order that rotates from turn to turn."""
    order = [(number + i) % len(calls) for i in range(len(calls))]
    found = {i: max(_seconds(calls[i], repeats, in_between), 1e-9) for i in order}
    return [found[i] for i in range(len(calls))]


def _repeats(longest: float) -> int:
    return max(1, min(20, int(_SHORT / max(longest, 1e-6))))


def _seconds(call: Callable[[], Any], repeats: int, in_between: Callable[[], None]) -> float:
    """The shortest of a few runs; on a GPU their mean, as each call returns before it is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        start = clock()
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
        return (clock() - start) / repeats
    shortest = math.inf
    for _ in range(repeats):
        in_between()
        start = clock()
        call()
        shortest = min(shortest, clock() - start)
    return shortest


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The error of ``actual`` as one number, to compare with a bound.

    The root mean square of the difference over that of ``expected``; or, where this is more, the
    largest difference over 1.5 times the largest value: one wrong pixel among many must not hide.
    Infinite where one is finite and the other is not.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(actual, expected) else float("inf")
    finite = torch.isfinite(expected)
    if not finite.all():
        same = torch.equal(finite, torch.isfinite(actual)) and torch.equal(
            actual[~finite].nan_to_num(7.0), expected[~finite].nan_to_num(7.0)
        )
        if not same:
            return float("inf")
        actual, expected = actual[finite], expected[finite]
    if not expected.numel():
        return 0.0
    wrong = actual - expected
    typical = rms(wrong) / max(rms(expected), _TINY)
    largest = float(wrong.abs().max()) / max(_TAIL * float(expected.abs().max()), _TINY)
    error = max(typical, largest)
    return error if math.isfinite(typical + largest) else float("inf")
