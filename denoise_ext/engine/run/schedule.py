"""Turns a graph and what is to be replaced in it into steps; decides where their results lie."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from denoise_ext.engine.capture.graph import (
    Graph,
    Value,
    channels_last_stride,
    same_layout,
    substitute,
)
from denoise_ext.engine.fuse.conv import is_convolution
from denoise_ext.engine.fuse.ir import OUT, Constants, Site, Step
from denoise_ext.engine.fuse.match import POINTWISE_STEPS, ConcatSite
from denoise_ext.engine.fuse.stacked import sums_channels_last
from denoise_ext.engine.run.memory import Buffer, place


def _copy(source: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_(source)


@dataclass(eq=False)
class Schedule:
    """Steps in order; which values have a place in the plan's memory, which are made per call."""

    steps: list[Step] = field(default_factory=list)
    # A value's buffer and its first channel in it.
    places: dict[Value, tuple[Buffer, int]] = field(default_factory=dict)
    # Views of such values: the step that makes them runs once, when memory is allocated.
    static_views: list[Step] = field(default_factory=list)
    # Results of the call that steps write, with their strides.
    fresh: dict[Value, tuple[int, ...]] = field(default_factory=dict)
    # Channels of such results: which one, and the first channel.
    slices: dict[Value, tuple[Value, int]] = field(default_factory=dict)
    size: int = 0  # bytes of the plan's memory
    # Arguments whose strides do not matter to any step.
    any_layout: set[Value] = field(default_factory=set)
    joined: int = 0  # tensors written in place into a concatenation


class Scheduler:
    """Builds a :class:`Schedule`."""

    def __init__(
        self,
        graph: Graph,
        constants: Constants,
        chosen: dict[Site, Step | None],
        strides: Sequence[tuple[int, ...] | None] = (),
    ) -> None:
        """``strides``: those that the caller wants of the results, leaf by leaf."""
        self.graph = graph
        self.constants = constants
        self.chosen = chosen
        self.result: Schedule = Schedule()
        self._wanted = {
            value: stride
            for value, stride in zip(graph.outputs, strides, strict=False)
            if isinstance(value, Value) and stride is not None
        }

    def run(self) -> Schedule:
        """Build the schedule."""
        steps = self._ordered_steps()
        self._convolved = _convolved(steps)
        self._channels_last = _with_pointwise(steps, self._convolved)
        self._choose_fresh(steps)
        self._place_results(steps)
        self._separate_views(self._with_conversions(steps))
        self._choose_any_layout()
        self._lifetimes()
        self._overwrite()
        buffers = {id(b): b for b, _ in self.result.places.values()}
        self.result.size = place(list(buffers.values()))
        return self.result

    def _ordered_steps(self) -> list[Step]:
        covered = {node for site in self.chosen for node in site.nodes}
        at_node = {site.nodes[-1]: site for site in self.chosen}
        steps: list[Step] = []
        for node in self.graph.nodes:
            site = at_node.get(node)
            if site is None:
                known = all(v in self.constants for v in node.results if v is not None)
                if node not in covered and not known:
                    steps.append(Step.of(node))
            elif isinstance(site, ConcatSite):
                steps += self._concat_steps(site)
            else:
                step = self.chosen[site]
                assert step is not None
                steps.append(step)
        return self._needed(steps)

    def _needed(self, steps: list[Step]) -> list[Step]:
        """Without those whose results nobody reads: a padding that a convolution took over."""
        needed = self.graph.output_values()
        kept = []
        for step in reversed(steps):
            joins = step.part_of is not None and step.part_of[0] in needed
            if joins or any(value in needed for value in step.results):
                kept.append(step)
                needed.update(step.reads())
        return kept[::-1]

    def _concat_steps(self, site: ConcatSite) -> list[Step]:
        """A copy for each part; those whose source turns out to be in place already are dropped."""
        steps, channel = [], 0
        for value in site.inputs:
            stride = channels_last_stride(site.output.shape)
            part = Value(value.shape, stride, value.dtype, value.device)
            where = (site.output, channel)
            steps.append(Step(_copy, (value, OUT), {}, [part], any_layout=True, part_of=where))
            channel += value.shape[1]
        return steps

    # --- where results lie ------------------------------------------------------------------------

    def _choose_fresh(self, steps: list[Step]) -> None:
        """What the caller gets is written into memory of its own, where a step can write it."""
        written: set[Any] = {step.results[0] for step in steps if step.writes}
        written |= {step.part_of[0] for step in steps if step.part_of is not None}
        # Convolutions write channels_last fastest; some operators write no slice of other memory.
        fixed = self._convolved | {step.results[0] for step in steps if not step.any_output}
        view_of: dict[Any, Any] = {
            result: step.args[0] for step in steps if step.view for result in step.results
        }  # fmt: skip
        for value in self.graph.outputs:
            while isinstance(value, Value) and value in view_of:
                value = view_of[value]
            if value in written:
                self.result.fresh[value] = self._stride(value)
                if value in self._wanted and value not in fixed:
                    self.result.fresh[value] = self._wanted[value]

    def _place_results(self, steps: list[Step]) -> None:
        readers: dict[Value, list[Step]] = {}
        for step in steps:
            for value in step.reads():
                readers.setdefault(value, []).append(step)
        parts: dict[Value, list[Step]] = {}
        for step in steps:
            if step.part_of is not None:
                parts.setdefault(step.part_of[0], []).append(step)
        writer = {value: step for step in steps if step.writes for value in step.made}
        dropped: set[Step] = set()
        # Concatenations from last to first: one inside another finds the outer one placed.
        for number, output in reversed([*enumerate(parts)]):
            if not self._has_place(output):
                later = [*parts][number + 1 :]
                if self._share(output, later, parts, readers, dropped):
                    continue
                self.result.places[output] = (self._buffer(output), 0)
            for step in parts[output]:
                value = step.args[0]
                place = step.part_of
                assert place is not None
                self._put_inside(step.made[0], *place)
                inside = value in parts or (value in writer and writer[value].any_output)
                if inside and self._may_join(value, step, readers):
                    self._put_inside(value, *place)
                    dropped.add(step)
        self.result.joined = len(dropped)
        steps[:] = [step for step in steps if step not in dropped]
        for step in steps:
            for value in step.made if step.writes else ():
                if not self._has_place(value):
                    self.result.places[value] = (self._buffer(value), 0)

    def _share(
        self, output: Value, later: list[Value], parts: dict[Value, list[Step]],
        readers: dict[Value, list[Step]], dropped: set[Step],
    ) -> bool:  # fmt: skip
        """Let ``output`` be channels of a concatenation that is made later of the same parts.

        Each part is then written once: in place, or by the first of the two copies.
        """
        if not all(step.any_layout for step in readers.get(output, [])):
            return False
        own = [step.args[0] for step in parts[output]]
        for other in later:
            copies = parts[other]
            values = [step.args[0] for step in copies]
            for first in range(len(values) - len(own) + 1):
                if values[first : first + len(own)] == own:
                    break
            else:
                continue
            same = copies[first : first + len(own)]
            channel = sum(value.shape[1] for value in values[:first])
            self._put_inside(output, other, channel)
            for mine, theirs in zip(parts[output], same, strict=True):
                place = mine.part_of
                assert place is not None
                self._put_inside(mine.made[0], *place)
                # The later one has found its part in place, or comes too late for `output`.
                dropped.add(mine if theirs in dropped else theirs)
            return True
        return False

    def _has_place(self, value: Value) -> bool:
        made = self.result
        return value in made.places or value in made.fresh or value in made.slices

    def _put_inside(self, part: Value, whole: Value, channel: int) -> None:
        """Let ``part`` be channels of ``whole``, from ``channel`` on."""
        made = self.result
        if whole in made.places:
            buffer, base = made.places[whole]
            made.places[part] = (buffer, base + channel)
        else:
            outer, base = made.slices.get(whole, (whole, 0))
            made.slices[part] = (outer, base + channel)

    def _may_join(self, value: Value, copy: Step, readers: dict[Value, list[Step]]) -> bool:
        """Whether ``value`` can be written right where ``copy`` would put it."""
        if self._has_place(value):
            return False
        others = [step for step in readers[value] if step is not copy]
        return all(step.any_layout for step in others) and readers[value].count(copy) == 1

    def _buffer(self, value: Value) -> Buffer:
        return Buffer(value.shape, self._stride(value), value.dtype)

    def _stride(self, value: Value) -> tuple[int, ...]:
        """channels_last where convolutions are near, else as traced."""
        if len(value.shape) != 4 or (value not in self._channels_last and _is_dense(value)):
            return value.stride
        return channels_last_stride(value.shape)

    # --- layouts ----------------------------------------------------------------------------------

    def _with_conversions(self, steps: list[Step]) -> list[Step]:
        """Copies in front of steps that must read a tensor as it was traced, and would not."""
        result: list[Step] = []
        converted: dict[Value, Value] = {}
        for step in steps:
            if not step.any_layout:
                for value in dict.fromkeys(step.reads()):
                    if value not in converted and self._laid_out_otherwise(value):
                        copy = Value(value.shape, value.stride, value.dtype, value.device)
                        self.result.places[copy] = (
                            Buffer(value.shape, value.stride, value.dtype), 0,
                        )  # fmt: skip
                        converted[value] = copy
                        result.append(Step(_copy, (value, OUT), {}, [copy], any_layout=True))
                if any(value in converted for value in step.reads()):
                    step = self._reading(step, converted)
            result.append(step)
        return result

    def _laid_out_otherwise(self, value: Value) -> bool:
        made = self.result
        if value in made.places:
            stride = made.places[value][0].stride
        elif value in made.fresh or value in made.slices:
            stride = made.fresh[made.slices.get(value, (value, 0))[0]]
        else:
            return False
        return not same_layout(value.shape, stride, value.stride)

    def _reading(self, step: Step, converted: dict[Value, Value]) -> Step:
        def replace(value: Value) -> Value:
            return converted.get(value, value)

        return Step(
            step.function, substitute(step.args, replace), substitute(step.kwargs, replace),
            step.results, step.single, step.view, step.any_layout,
        )  # fmt: skip

    def _choose_any_layout(self) -> None:
        strict = {
            value
            for step in self.result.steps
            if not step.any_layout or is_convolution(step)
            for value in step.reads()
        }
        outputs = self.graph.output_values()
        self.result.any_layout = set(self.graph.inputs) - strict - outputs

    # --- views and lifetimes ----------------------------------------------------------------------

    def _separate_views(self, steps: list[Step]) -> None:
        """Views of tensors that have a place are made once, with the memory."""
        fixed = dict(self.result.places)
        for step in steps:
            base: Any = step.args[0] if step.view else None
            others = [value for value in step.reads() if value is not base]
            if base in fixed and all(value in self.constants for value in others):
                self.result.static_views.append(step)
                for value in step.made:
                    fixed[value] = fixed[base]
            else:
                self.result.steps.append(step)
        self._home = {value: buffer for value, (buffer, _) in fixed.items()}

    def _lifetimes(self) -> None:
        for index, step in enumerate(self.result.steps):
            for value in (*step.reads(), *(step.made if step.writes else ())):
                if value in self._home:
                    self._home[value].used_at(index)
        for value in self.graph.outputs:
            if isinstance(value, Value) and value in self._home:
                self._home[value].used_at(sys.maxsize - 1)  # copied when the steps are done

    def _overwrite(self) -> None:
        """Let results take the place of what is read for the last time."""
        places = self.result.places
        for index, step in enumerate(self.result.steps):
            old, new = step.overwrites, step.made[0] if step.made else None
            if old is None or new is None or old not in places or new not in places:
                continue
            (ours, _), (theirs, _) = places[new], places[old]
            alike = ours.shape == theirs.shape == new.shape and ours.stride == theirs.stride
            readings = [self._home.get(value) for value in step.reads()].count(theirs)
            if not alike or ours.dtype != theirs.dtype or readings != 1:
                continue
            if ours is theirs or ours.first != index or theirs.last != index:
                continue
            theirs.last = ours.last
            for value, (buffer, channel) in list(places.items()):
                if buffer is ours:
                    places[value] = (theirs, channel)
            self._home = {v: theirs if b is ours else b for v, b in self._home.items()}


def _convolved(steps: list[Step]) -> set[Value]:
    """What convolutions read or write, and what lies side by side with that."""
    convolved = {
        value for step in steps if is_convolution(step) for value in (*step.reads(), *step.made)
    }
    for parts in (steps[::-1], steps):  # a concatenation and its parts have one layout
        for step in parts:
            if step.part_of is not None:
                joined = {step.part_of[0], step.args[0]}
                convolved |= joined if convolved & joined else set()
    return convolved


def _with_pointwise(steps: list[Step], values: set[Value]) -> set[Value]:
    """``values``, and what is computed element by element from them.

    Such an operator takes ten times as long where it writes another layout than it reads.
    """
    spread = set(values)
    for step in steps:
        if sums_channels_last(step):
            spread.add(step.made[0])
        if step.function in POINTWISE_STEPS:
            shape = step.made[0].shape
            if any(value in spread and value.shape == shape for value in step.reads()):
                spread.add(step.made[0])
    return spread


def _is_dense(value: Value) -> bool:
    return (
        not value.numel()
        or 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride, strict=True))
        == value.numel()
    )
