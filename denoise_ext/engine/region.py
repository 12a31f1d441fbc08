"""A part of a model that is replaced as a whole: its plans, and when they may be used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from denoise_ext.engine import verify
from denoise_ext.engine.calls import call_key
from denoise_ext.engine.clone import Guard, NotPlannedError
from denoise_ext.engine.graph import Graph
from denoise_ext.engine.match import find_sites
from denoise_ext.engine.plan import Plan
from denoise_ext.engine.report import Report, Row
from denoise_ext.engine.schedule import Scheduler
from denoise_ext.engine.steps import Constants, Site, Step, as_traced, rms
from denoise_ext.engine.trace import trace
from denoise_ext.ops._layout import is_channels_last

_MOST_PLANS = 8
_MOST_BYTES = 1 << 30  # of plans' memory, the one in use not counted


@dataclass
class Settings:
    """What the user asked for."""

    precision: str
    dtype: torch.dtype | None
    examine: bool = True  # False: take the best guess everywhere
    report: Report = field(default_factory=lambda: Report([]))
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass
class _Entry:
    """What is done for arguments of one kind: run ``plan``, or leave them for ``reason``."""

    plan: Plan | None
    guard: Guard | None = None
    finish: Callable[[Any], Any] | None = None
    # Left, but parts of the module may yet be replaced one by one.
    descend: bool = False


class Region:
    """``module.method`` and its plans; ``path`` is the module's name in the model."""

    def __init__(self, module: nn.Module, method: str, path: str, settings: Settings) -> None:
        self.module, self.method, self.path, self.settings = module, method, path, settings
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._decisions: dict[tuple, str | None] | None = None  # variant by site
        self._slower: str | None = None  # why the whole is left
        self._packed: tuple[list[Tensor], Guard, dict] = ([], Guard(), {})

    def call(self, args: tuple, kwargs: dict[str, Any]) -> tuple[bool, Any]:
        """(True, the result), or (False, whether to go on with the module's parts)."""
        key, tensors = call_key(args, kwargs)
        if key is None:
            return False, False
        entry = self._entries.get(key)
        if entry is None or (entry.guard is not None and not entry.guard.holds()):
            with self.settings.lock:
                entry = self._entries.get(key)
                if entry is None or (entry.guard is not None and not entry.guard.holds()):
                    entry = self._prepare(key, args, kwargs, tensors)
        if entry.plan is None:
            return False, entry.descend
        self._touch(key)
        return True, entry.finish(entry.plan.run(tensors))

    def forget(self) -> None:
        """Drop all plans and decisions."""
        with self.settings.lock:
            self._entries.clear()
            self._decisions = self._slower = None

    # --- making plans -----------------------------------------------------------------------------

    def _prepare(self, key: Any, args: tuple, kwargs: dict, tensors: list[Tensor]) -> _Entry:
        if self._slower is not None:
            return self._keep(key, _Entry(None))
        try:
            # In inference mode PyTorch would record convolutions in another form.
            with torch.inference_mode(False), torch.no_grad():
                entry = self._make(args, kwargs, tensors)
        except NotPlannedError as reason:
            self._note(Row(self.path, self._name(), "original", reason=str(reason)))
            entry = _Entry(None, descend=True)
        return self._keep(key, entry)

    def _make(self, args: tuple, kwargs: dict, tensors: list[Tensor]) -> _Entry:
        graph, own, guard = self._trace(args, kwargs)
        constants = Constants(own, self.settings.dtype, self._packed_for(own, guard))
        constants.enter(graph)
        sites = find_sites(graph, constants, self.settings.precision)
        if not any(site.replaces for site in sites):
            raise NotPlannedError("there is nothing in it to replace")
        finish = _Finish(tensors, own, self.settings.dtype)
        first = self._decisions is None and self.settings.examine
        if first:
            traced = zip(tensors, graph.inputs, strict=True)
            inputs = [as_traced(x.to(v.dtype), v) for x, v in traced]
            found = verify.examine(graph, constants, sites, inputs)
            self._decide(found)
            # Only what the chosen variants read stays packed.
            used = {id(a) for step in found.chosen.values() if step for a in step.args}
            unused = [
                k for k, v in constants.packed.items() if k[0] == "packed" and id(v) not in used
            ]
            for key in unused:
                del constants.packed[key]
        chosen = self._choose(sites, constants)
        if not any(chosen.get(site) is not None for site in sites if site.replaces):
            self._slower = "PyTorch's own operators are as fast everywhere"
            self._note(Row(self.path, self._name(), "original", reason=self._slower))
            return _Entry(None)
        plan = Plan(graph, constants, Scheduler(graph, constants, chosen).run(), own[0].device)
        if first and not self._holds_as_a_whole(plan, finish, args, kwargs, tensors, found):
            return _Entry(None)
        if not self.settings.examine:
            self._note(Row(self.path, self._name(), "plan", reason="not examined"))
        return _Entry(plan, guard, finish)

    def _trace(self, args: tuple, kwargs: dict) -> tuple[Graph, list[Tensor], Guard]:
        dtype = self.settings.dtype
        try:
            return trace(self.module, self.method, args, kwargs, dtype, channels_last=True)
        except NotPlannedError:
            # Perhaps a view that only the layout it was written for allows.
            return trace(self.module, self.method, args, kwargs, dtype, channels_last=False)

    def _packed_for(self, own: list[Tensor], guard: Guard) -> dict:
        """Weights packed for other sizes, where the module's tensors are still the same."""
        tensors, guarded, _ = self._packed
        same = len(tensors) == len(own) and all(a is b for a, b in zip(tensors, own, strict=True))
        if not same or not guarded.tensors.hold():
            self._packed = (own, guard, {})
        return self._packed[2]

    def _decide(self, found: verify.Examination) -> None:
        self._decisions = {}
        for (site, step), row in zip(found.chosen.items(), found.rows, strict=True):
            row.module = ".".join(part for part in (self.path, row.module) if part)
            variant = row.variant if step is not None else None
            self._decisions[self._site_key(site)] = variant
            self._note(row)

    def _choose(self, sites: list[Site], constants: Constants) -> dict[Site, Step | None]:
        """What was decided on the example; a site that it did not have gets the best guess."""
        chosen: dict[Site, Step | None] = {}
        for site in sites:
            variants = site.variants()
            if not variants:  # a concatenation has no step of its own
                chosen[site] = None
                continue
            variant = (self._decisions or {}).get(self._site_key(site), variants[0])
            if variant is not None:  # else it runs as traced
                usable = variant if variant in variants else variants[0]  # another dtype: others
                chosen[site] = site.step(usable, constants)
        return chosen

    def _site_key(self, site: Site) -> tuple:
        return (site.module, site.label)

    def _holds_as_a_whole(
        self, plan: Plan, finish: _Finish, args: tuple, kwargs: dict, tensors: list[Tensor],
        found: verify.Examination,
    ) -> bool:  # fmt: skip
        original = getattr(self.module, self.method)
        expected = original(*args, **kwargs)
        actual = finish(plan.run(tensors))
        rounding = 64 * torch.finfo(self.settings.dtype or torch.float32).eps
        error, bound = compare(actual, expected), verify.whole_bound([*found.bounds, rounding])
        row = Row(self.path, self._name(), "plan", error, bound)
        self._note(row)
        if not error <= bound:
            self._slower = row.reason = f"its result is off by {error:.1e}, allowed {bound:.0e}"
        else:
            row.original_ms, row.ours_ms = verify.interleaved(
                [lambda: original(*args, **kwargs), lambda: finish(plan.run(tensors))]
            )
            if row.speedup < 1:
                self._slower = row.reason = "the plan is not faster"
        if self._slower is not None:
            row.variant = "original"
        return self._slower is None

    # --- keeping them -----------------------------------------------------------------------------

    def _keep(self, key: Any, entry: _Entry) -> _Entry:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        others = [e.plan.schedule.size for e in list(self._entries.values())[:-1] if e.plan]
        while len(self._entries) > 1 and (
            len(self._entries) > _MOST_PLANS or sum(others) > _MOST_BYTES
        ):
            _, dropped = self._entries.popitem(last=False)
            if dropped.plan:
                others.pop(0)
        return entry

    def _touch(self, key: Any) -> None:
        """Count as used last, unless that meant waiting for another thread's planning."""
        if self.settings.lock.acquire(blocking=False):
            try:
                if key in self._entries:
                    self._entries.move_to_end(key)
            finally:
                self.settings.lock.release()

    def _name(self) -> str:
        name = type(self.module).__name__
        return name if self.method == "forward" else f"{name}.{self.method}"

    def _note(self, row: Row) -> None:
        self.settings.report.rows.append(row)


class _Finish:
    """Dtype and layout of what comes out."""

    def __init__(self, tensors: list[Tensor], own: list[Tensor], dtype: torch.dtype | None) -> None:
        self._dtype = dtype
        floats = [x.dtype for x in tensors if x.is_floating_point()]
        self._back = floats[0] if dtype is not None and floats else None
        # PyTorch's convolutions answer in channels_last if input or weight are laid out so.
        self._contiguous = not any(x.dim() == 4 and is_channels_last(x) for x in (*tensors, *own))
        self._changes = self._contiguous or self._back is not None

    def __call__(self, result: Any) -> Any:
        if not self._changes:
            return result
        if isinstance(result, Tensor):
            return self._one(result)
        return pytree.tree_map_only(Tensor, self._one, result)

    def _one(self, x: Tensor) -> Tensor:
        if self._back is not None and x.dtype == self._dtype:
            x = x.to(self._back)
        if self._contiguous and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous()
            _, c, h, w = x.shape
            return x.as_strided(x.shape, (c * h * w, h * w, w, 1))
        return x


def compare(actual: Any, expected: Any) -> float:
    """The largest relative error among two results' tensors; infinite if they differ in kind."""
    ours, our_spec = pytree.tree_flatten(actual)
    theirs, their_spec = pytree.tree_flatten(expected)
    if our_spec != their_spec:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            error = verify.difference(a, b)
            finite = b[torch.isfinite(b)] if b.is_floating_point() else b
            size = rms(finite) if b.is_floating_point() or b.is_complex() else 1.0
            worst = max(worst, error / max(size, torch.finfo(torch.float32).tiny) if error else 0.0)
        elif isinstance(a, Tensor) or isinstance(b, Tensor) or a != b:
            return float("inf")
    return worst
