"""Making the plans of a part of a model: tracing, choosing, scheduling, comparing, timing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.engine.capture.graph import Graph
from denoise_ext.engine.capture.instrumented_copy import Guard, InstrumentedCopy
from denoise_ext.engine.capture.relaid import trace_relaid
from denoise_ext.engine.capture.trace import trace
from denoise_ext.engine.fuse import decisions, verify
from denoise_ext.engine.fuse.ir import Constants, Site, Step, as_traced
from denoise_ext.engine.fuse.match import find_sites
from denoise_ext.engine.report import Row
from denoise_ext.engine.run import memory
from denoise_ext.engine.run.economy import (
    COMPARISON,
    SCHEDULE,
    SITES,
    TRACE,
    Economy,
    Stage,
)
from denoise_ext.engine.run.entries import Entry
from denoise_ext.engine.run.output_tree import Finish, largest_error, own_strides, strides_of
from denoise_ext.engine.run.packed import PackedWeights
from denoise_ext.engine.run.plan import Plan
from denoise_ext.engine.run.planning import Call, Planning
from denoise_ext.engine.run.reference_run import ReferenceRun
from denoise_ext.engine.run.schedule import Schedule, Scheduler
from denoise_ext.engine.run.settings import Settings
from denoise_ext.engine.run.site_choices import (
    SiteKey,
    choosing,
    decided,
    drop_unused,
    leave_sites,
)

_NOT_FASTER = "the plan is not faster"
_AS_FAST = "PyTorch's own operators are as fast everywhere"
# What a plan consists of, by name: with replacements, and without, in the plan's layout.
_OURS, _PLAIN = "replacements", "PyTorch's own operators"


@dataclass
class _Example:
    """What was examined on the first call, and the entry on disk that it was read from."""

    key: str | None
    found: verify.Examination
    kept: decisions.Entry | None


@dataclass
class _Draft:
    """Plans of a call that are not known to be right and fast yet."""

    graph: Graph
    constants: Constants
    guard: Guard
    finish: Finish
    example: _Example | None = None  # None: decided before, on another size
    plans: dict[str, Plan] = field(default_factory=dict)


class Maker:
    """Makes plans of ``module.method``, and keeps what is decided on the example.

    ``path`` is the module's name in the model.
    """

    module: nn.Module
    method: str
    path: str
    settings: Settings

    def __init__(self, module: nn.Module, method: str, path: str, settings: Settings) -> None:
        self.module, self.method, self.path, self.settings = module, method, path, settings
        self._decisions: dict[SiteKey, str | None] | None = None  # variant by site
        self._left: Entry | None = None  # for all arguments alike
        self._row: Row | None = None  # of the plan in the report
        self._economy = Economy()
        self._bounds: list[float] = []  # on sites' relative errors, from the example
        self._trusts_cache = True  # until a plan made of a kept decision was off
        self._relaid = True  # images are taken as if they were in channels_last
        self._plain = False  # nothing is replaced: PyTorch's operators in channels_last are faster
        self._noted = 0  # rows of sites in the report
        self._apart: set[tuple[str, str]] = set()  # sites that take in less than they could
        self._packed = PackedWeights()
        self._undo: list[Callable[[], None]] = []  # takes back what was left in the module

    def _expected(self, call: Call) -> Any:
        """What a copy of the module returns.

        Whatever the forward keeps outside of the module, in a cache, is made of real tensors then.
        """
        InstrumentedCopy(self.module)  # raises first if it cannot be planned at all
        reference = ReferenceRun(self.module, self.method, call.args, call.kwargs)
        result = None if reference.missing else reference.run()
        if reference.missing:
            raise NotPlannedError(reference.missing, lasting=not reference.raised)
        return result

    def _make(self, call: Call) -> Entry:
        """Make a plan in this call, whatever that takes."""
        entry = Planning(self._stages).advance(call, self._economy.without_limit())
        assert entry is not None
        return entry

    def _stages(self, planning: Planning) -> Generator[Stage | None, None, Entry]:
        """Make a plan; each stage may be that of another call."""
        yield TRACE
        graph, planning.guard, constants = self._traced(planning.call)
        yield SITES
        sites = find_sites(graph, constants, self.settings.precision, self._apart)
        if not any(site.replaces for site in sites):
            raise NotPlannedError("there is nothing in it to replace", certain=True)
        call = planning.call
        strides = self._strides(call)
        finish = Finish(call.tensors, self.settings.dtype, strides, graph.output_spec)
        draft = _Draft(graph, constants, planning.guard, finish)
        if self._decisions is None and self.settings.examine:
            yield None
            key = decisions.key_of(graph, constants, self.settings.precision, self.settings.dtype)
            sites, found, kept = self._examination(graph, constants, sites, call.tensors, key)
            draft.example = _Example(key, found, kept)
            self._decide(found)
            self._bounds = found.bounds
            if kept is not None and kept.slower is not None:
                row = Row(self.path, self._name(), "original", reason=kept.slower, decided="cached")
                return self._not_planned(row, call)
            drop_unused(constants, found)
        chosen = yield from choosing(sites, constants, self._decisions or {})
        yield SCHEDULE
        self._plan(draft, chosen, lambda steps: Scheduler(graph, constants, steps, strides).run())
        if not draft.plans:
            row = Row(self.path, self._name(), "original", reason=_AS_FAST)
            if draft.example is None:  # at this size; others may have what is faster
                self._note_once(row)
                return Entry(None)
            row.decided = "timed"
            decisions.keep(draft.example.key, draft.example.found, self._apart, row)
            return self._leave(row)
        if not self.settings.examine:
            self._note(Row(self.path, self._name(), "plan", reason="not examined", decided="known"))
            return self._planned(draft.plans[_OURS], draft.guard, finish)
        return (yield from self._judged(draft, planning))

    def _plan(
        self, draft: _Draft, chosen: dict[Site, Step | None],
        scheduled: Callable[[dict[Site, Step | None]], Schedule],
    ) -> None:  # fmt: skip
        """Make the plans that may serve: one, or on the example one without replacements, too."""
        graph, example, steps = draft.graph, draft.example, {_OURS: chosen}
        replaced = any(step is not None and site.replaces for site, step in chosen.items())
        if example is not None:
            self._plain = example.kept is not None and not replaced
        plain = {site: step for site, step in chosen.items() if not site.replaces}
        if self._plain:
            steps[_OURS] = plain
        elif not replaced:
            del steps[_OURS]
        if example is not None and example.kept is None and self._relaid:
            steps[_PLAIN] = plain
        device = (graph.inputs + graph.sources)[0].device
        for name, of_plan in steps.items():
            draft.plans[name] = Plan(graph, draft.constants, scheduled(of_plan), device)

    def _judged(self, draft: _Draft, planning: Planning) -> Generator[Stage | None, None, Entry]:
        """Compare the plans with the original; on the example also time them."""
        plans, example, finish = draft.plans, draft.example, draft.finish
        best, bound, errors = next(iter(plans)), self._allowed(draft.graph), {}
        for name, plan in plans.items():
            yield COMPARISON if name == best else None
            call = planning.call
            result = finish(plan.leaves(call.tensors, spoil=True))
            errors[name] = largest_error(result, call.expected)
            call.result = result if example is None else None
        yield None
        call = planning.call
        row = Row(self.path, self._name(), "plan", errors[best], bound)
        if not errors[best] <= bound:
            if example is not None and example.kept is not None:
                return self._make_anew(call)
            row.reason = f"its result is off by {errors[best]:.1e}, allowed {bound:.0e}"
        elif example is not None and example.kept is not None:
            (row.original_ms, row.ours_ms), row.decided = example.kept.times, "cached"
        elif example is not None:
            right = {name: plan for name, plan in plans.items() if errors[name] <= bound}
            best = self._time(row, right, call, lambda plan: finish(plan.leaves(call.tensors)))
            row.error, self._plain = errors[best], best == _PLAIN and not row.reason
            if self._plain:
                leave_sites(example.found)
                drop_unused(draft.constants, example.found)
                self._decisions = decided(example.found)
            decisions.keep(example.key, example.found, self._apart, row)
        if row.reason:
            row.variant = "original"
            if example is not None:
                return self._not_planned(row, call)
            self._note_once(row)
            return Entry(None)
        if example is not None:
            row.reason = _PLAIN if self._plain else ""
            self._note_plan(row, plans[best])
            self._economy.timed(row.original_ms, row.ours_ms, call.tensors)
            # The first trace of a process loads parts of PyTorch, which later ones find.
            yield TRACE
            self._traced(call)
            yield None
        return self._planned(plans[best], draft.guard, finish)

    def _time(
        self, row: Row, plans: dict[str, Plan], call: Call, run: Callable[[Plan], Any]
    ) -> str:
        """Time the original and ``plans`` in turn; the name of the fastest plan."""
        original = getattr(self.module, self.method)
        calls = [lambda: original(*call.args, **call.kwargs)]
        names = [name for name in (_PLAIN, _OURS) if name in plans]
        calls += [partial(run, plans[name]) for name in names]
        given, *ours = verify.settled(calls)
        times = dict(zip(names, ours, strict=True))
        best = min(reversed(names), key=lambda name: times[name])
        row.original_ms, row.ours_ms, row.decided = given, times[best], "timed"
        if (row.speedup or 0.0) < verify.WORTH_IT:
            row.reason = _NOT_FASTER if _OURS in plans else _AS_FAST
        return best

    def _note_plan(self, row: Row, plan: Plan) -> None:
        self._row = row
        self._note(row)
        if plan.unrecorded:
            self._note(Row(self.path, self._name(), "no CUDA graph", reason=plan.unrecorded))

    def _examination(
        self, graph: Graph, constants: Constants, sites: list[Site], tensors: list[Tensor],
        key: str | None,
    ) -> tuple[list[Site], verify.Examination, decisions.Entry | None]:  # fmt: skip
        """The sites to replace, what is known of them, and the entry that it was read from."""
        precision = self.settings.precision
        traced = zip(tensors, graph.inputs, strict=True)
        inputs = [as_traced(x.to(v.dtype), v) for x, v in traced]
        kept = decisions.Entry.read(key) if self._trusts_cache else None
        if kept is not None:
            same = sites if not kept.apart else find_sites(graph, constants, precision, kept.apart)
            if kept.fits(same):
                self._apart |= kept.apart
                return same, kept.examination(graph, constants, same, inputs), kept
        memory.keep_heap_of(graph)
        found = verify.examine(graph, constants, sites, inputs, self.settings.timings)
        while refused := found.refused_together():
            # Better without what they took in, which then is sites of its own.
            self._apart |= refused
            sites = find_sites(graph, constants, precision, self._apart)
            found = verify.examine(graph, constants, sites, inputs, self.settings.timings)
        return sites, found, None

    def _make_anew(self, call: Call) -> Entry:
        """The plan that a kept decision led to is off: decide as if there were none."""
        rows = self.settings.report.rows
        del rows[len(rows) - self._noted :]
        self._decisions, self._trusts_cache = None, False
        self._apart.clear()
        return self._make(call)

    def _not_planned(self, row: Row, call: Call) -> Entry:
        """Leave the calls to the original or to parts.

        A plan that is not faster is tried in the arguments' own layout first: PyTorch's operators
        in it may be faster there.
        """
        if row.reason != _NOT_FASTER or not self._relaid:
            return self._leave(row)
        rows = self.settings.report.rows
        del rows[len(rows) - self._noted :]
        self._noted, self._decisions, self._relaid = 0, None, False
        self._apart.clear()
        try:
            return self._make(call)
        except NotPlannedError:
            return self._leave(row)

    def _leave(self, row: Row) -> Entry:
        """Leave all calls to the original, or to parts where the plan as a whole is not faster."""
        self._note(row)
        self._packed.clear()
        self._left = Entry(None, descend=row.reason == _NOT_FASTER and bool(self.module._modules))
        return self._left

    def _allowed(self, graph: Graph) -> float:
        """What the plan's relative error may be: its sites' share, and other rounding."""
        dtypes = {v.dtype for v in graph.values() if v.dtype.is_floating_point}
        eps = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
        return verify.whole_bound([*self._bounds, 64 * max(eps, torch.finfo(torch.float32).eps)])

    def _strides(self, call: Call) -> list[tuple[int, ...] | None]:
        """The strides that results have, leaf by leaf; of parts' images those that plans prefer."""
        if self.settings.examine:
            return strides_of(call.expected, free=bool(self.path) and self.settings.free_layouts)
        # Traced with the layout that the arguments have, instead of the one that plans prefer.
        traced = trace(self.module, self.method, call.args, call.kwargs, None, channels_last=False)
        return [own_strides(leaf) for leaf in traced[0].outputs]

    def _traced(self, call: Call) -> tuple[Graph, Guard, Constants]:
        """The call as those after it will be.  The module is given what each call leaves in it."""
        of = (self.module, self.method, call.args, call.kwargs, self.settings.dtype)
        for _ in range(2):  # on what the first one leaves, a forward may take another way
            traced = trace_relaid(*of) if self._relaid else trace(*of, channels_last=False)
            graph, own, guard = traced
            constants = Constants(own, self._packed.of(own, guard))
            constants.enter(graph)
            changes = [write.put(constants[write.value]) for write in graph.writes]
            self._undo += [undo for undo in changes if undo is not None]
            if not any(changes):
                return graph, guard, constants
        raise NotPlannedError(graph.writes[0].reason)

    def _decide(self, found: verify.Examination) -> None:
        self._decisions, self._noted = decided(found), len(found.rows)
        for row in found.rows:
            row.module = ".".join(part for part in (self.path, row.module) if part)
            self._note(row)

    def _name(self) -> str:
        name = type(self.module).__name__
        return name if self.method == "forward" else f"{name}.{self.method}"

    def _planned(self, plan: Plan, guard: Guard, finish: Callable[[Any], Any]) -> Entry:
        plans = self.settings.plans
        plans[:] = [(path, made) for path, made in plans if made() is not None]
        plans.append((self.path, weakref.ref(plan)))
        return Entry(plan, guard, finish)

    def _note(self, row: Row) -> None:
        self.settings.report.rows.append(row)

    def _note_once(self, row: Row) -> int:
        """Note a reason when it is met first; return how often it has been met."""
        count = self._economy.refused(row.reason)
        if count == 1:
            self._note(row)
        return count
