"""A part of a model that is replaced as a whole: its plans, and when they may be used."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext._tf32 import tf32_allowed
from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.engine.capture.graph import Graph
from denoise_ext.engine.capture.instrumented_copy import Guard, InstrumentedCopy
from denoise_ext.engine.capture.relaid import trace_relaid
from denoise_ext.engine.capture.signature import call_key, without_numbers
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
    Allowance,
    Economy,
    Stage,
)
from denoise_ext.engine.run.entries import MOST_PLANS, Entries, Entry
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
_MOST_PLANNINGS = 4  # that wait for a call with time for them
_MOST_NUMBERS = 4  # values of an int or float argument that get a plan each


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


class Region:
    """``module.method`` and its plans; ``path`` is the module's name in the model."""

    module: nn.Module
    method: str
    path: str
    settings: Settings

    def __init__(self, module: nn.Module, method: str, path: str, settings: Settings) -> None:
        self.module, self.method, self.path, self.settings = module, method, path, settings
        self._entries = Entries()
        self._decisions: dict[SiteKey, str | None] | None = None  # variant by site
        self._left: Entry | None = None  # for all arguments alike
        self._row: Row | None = None  # of the plan in the report
        self._economy = Economy()
        self._plannings: OrderedDict[Any, Planning] = OrderedDict()
        self._numbers: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        self._bounds: list[float] = []  # on sites' relative errors, from the example
        self._trusts_cache = True  # until a plan made of a kept decision was off
        self._relaid = True  # images are taken as if they were in channels_last
        self._plain = False  # nothing is replaced: PyTorch's operators in channels_last are faster
        self._tf32: bool | None = None  # PyTorch's setting, which plans for CUDA are made under
        self._noted = 0  # rows of sites in the report
        self._apart: set[tuple[str, str]] = set()  # sites that take in less than they could
        self._packed = PackedWeights()
        self._undo: list[Callable[[], None]] = []  # takes back what was left in the module

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
        """(True, the result), or (False, whether to try the module's parts)."""
        key, tensors = call_key(args, kwargs)
        if key is None:
            return False, False
        if any(x.is_cuda for x in tensors) and self._tf32 != tf32_allowed():
            with self.settings.lock:
                if self._tf32 != tf32_allowed():  # no other thread has seen it meanwhile
                    self.forget()
                    self._tf32 = tf32_allowed()
        entry = self._entries.get(key)
        if entry is None or not entry.holds:
            call = Call(args, kwargs, tensors)
            with self.settings.lock:
                entry = self._known(key)
                if entry is None and self._decisions is None:
                    entry = self._prepare(key, call)
            if entry is None:
                return True, self._beside_original(key, call)
        else:
            entry.used = True
        if entry.plan is None:
            return False, entry.descend
        self._entries.touch(key, self.settings.lock)
        return True, entry.finish(entry.plan.leaves(tensors))

    @property
    def left_for_good(self) -> bool:
        """Whether no call will ever be planned."""
        return self._left is not None and not self._left.descend

    def forget(self) -> None:
        """Drop all plans and decisions."""
        with self.settings.lock:
            self._entries.clear()
            self._numbers.clear()
            self._plannings.clear()
            self._decisions = self._left = self._row = None
            self._economy, self._relaid = Economy(), True
            self._apart.clear()

    # --- making plans -----------------------------------------------------------------------------

    def _known(self, key: Any) -> Entry | None:
        """What is known of arguments of this kind, if they have no plan that holds."""
        old = self._entries.get(key)
        if old is not None:
            if old.holds:  # another thread has made it
                return old
            del self._entries[key]
            if self._economy.changes_always(old.used):
                self._give_up()
        if self._left is not None:
            return self._entries.keep(key, self._left)
        # A number that varies from call to call, such as a noise level, would need a plan each.
        if len(self._numbers) > 8 * MOST_PLANS:
            self._numbers.clear()
        numbers = self._numbers.setdefault(without_numbers(key), [])
        if key not in numbers:
            numbers.append(key)
        if numbers.index(key) >= _MOST_NUMBERS:
            del numbers[_MOST_NUMBERS:]
            return Entry(None)
        return None

    def _prepare(self, key: Any, call: Call) -> Entry:
        """Decide on the example, and make its plan."""
        entry = Entry(None)
        try:
            call.expected = self._expected(call) if self.settings.examine else None
            # In inference mode PyTorch would record convolutions in another form.
            with torch.inference_mode(False), torch.no_grad():
                entry = self._make(call)
        except NotPlannedError as reason:
            entry = self._refuse(reason)
        finally:
            if entry.plan is None:  # the original's call begins as if nothing had been tried
                for undo in reversed(self._undo):
                    undo()
            self._undo.clear()
        return self._entries.keep(key, entry)

    def _beside_original(self, key: Any, call: Call) -> Any:
        """The original's result; go on with the plan as far as the call's time allows.

        With "strict", which computes alike at every call of a size, the plan's result.
        """
        start = self._clock(call)
        original = self.module if self.method == "forward" else getattr(self.module, self.method)
        call.expected = original(*call.args, **call.kwargs)
        taken = self._clock(call) - start
        strict = self.settings.precision == "strict"
        # Another thread's planning takes longer than this call may.
        if not self.settings.lock.acquire(blocking=strict):
            return call.expected
        try:
            entry = self._entries.get(key)
            if entry is None:
                allowance = self._economy.allowance(key, taken, call.tensors, limited=not strict)
                entry = self._advance(key, call, allowance)
        finally:
            self.settings.lock.release()
        if not strict or entry is None or entry.plan is None:
            return call.expected
        if call.result is None:  # another thread has made the plan
            call.result = entry.finish(entry.plan.leaves(call.tensors))
        return call.result

    def _advance(self, key: Any, call: Call, allowance: Allowance) -> Entry | None:
        """Go on with the plan; return its entry once it is made."""
        planning = self._plannings.pop(key, None)
        if planning is not None and not planning.holds:
            planning = None
            if self._economy.changes_always(used=False):
                self._give_up()
                return self._left
        if planning is None:
            if not allowance.may_begin:
                return None
            planning = Planning(self._stages)
        try:
            with torch.inference_mode(False), torch.no_grad():
                entry = planning.advance(call, allowance)
        except NotPlannedError as reason:
            entry = self._refuse(reason)
            for undo in reversed(self._undo):
                undo()
        finally:
            self._undo.clear()
        if entry is not None:
            return self._entries.keep(key, entry)
        self._plannings[key] = planning
        if len(self._plannings) > _MOST_PLANNINGS:
            self._plannings.popitem(last=False)
        return None

    def _clock(self, call: Call) -> float:
        """The time at which a GPU has done what it was told."""
        if any(x.is_cuda for x in call.tensors):
            torch.cuda.synchronize()
        return verify.clock()

    def _refuse(self, reason: NotPlannedError) -> Entry:
        row = Row(self.path, self._name(), "original", reason=str(reason))
        count = self._note_once(row)
        entry = Entry(None, descend=not reason.certain and bool(self.module._modules))
        never_planned = self._decisions is None
        if never_planned and (reason.certain or (reason.lasting and self._economy.is_rule(count))):
            self._left = entry
        return entry

    def _give_up(self) -> None:
        """A plan for each call would cost more than it saves."""
        reason = "its weights or attributes change at every call"
        if self._row is None:
            self._note(Row(self.path, self._name(), "original", reason=reason))
        else:
            self._row.variant, self._row.reason = "original", reason
        self._entries.clear()
        self._packed.clear()
        self._left = Entry(None, descend=bool(self.module._modules))
        self.settings.reconsider()

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
            constants = Constants(own, self.settings.dtype, self._packed.of(own, guard))
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

    # --- the report -------------------------------------------------------------------------------

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
