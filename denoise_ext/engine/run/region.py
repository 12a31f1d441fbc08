"""A part of a model that is replaced as a whole: its plans, and when they may be used."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from denoise_ext._tf32 import tf32_allowed
from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.engine.capture.signature import call_key, without_numbers
from denoise_ext.engine.fuse import verify
from denoise_ext.engine.report import Row
from denoise_ext.engine.run.economy import Allowance, Economy
from denoise_ext.engine.run.entries import MOST_PLANS, Entries, Entry
from denoise_ext.engine.run.making import Maker
from denoise_ext.engine.run.planning import Call, Planning
from denoise_ext.engine.run.settings import Settings

_MOST_PLANNINGS = 4  # that wait for a call with time for them
_MOST_NUMBERS = 4  # values of an int or float argument that get a plan each


class Region(Maker):
    """A part of a model, its plans, and when they may be used."""

    def __init__(self, module: nn.Module, method: str, path: str, settings: Settings) -> None:
        super().__init__(module, method, path, settings)
        self._entries = Entries()
        self._plannings: OrderedDict[Any, Planning] = OrderedDict()
        self._numbers: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        self._tf32: bool | None = None  # PyTorch's setting, which plans for CUDA are made under

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
        self._settle(call)
        seconds = verify.stopwatch()
        original = self.module if self.method == "forward" else getattr(self.module, self.method)
        call.expected = original(*call.args, **call.kwargs)
        self._settle(call)
        taken = seconds()
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

    def _settle(self, call: Call) -> None:
        """Wait for the GPU, where there is one, to finish."""
        if any(x.is_cuda for x in call.tensors):
            torch.cuda.synchronize()

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
