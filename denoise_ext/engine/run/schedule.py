"""Turns a graph and what is to be replaced in it into steps; decides where their results lie."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch

from denoise_ext.engine.capture.graph import (
    Graph,
    Value,
    channels_last_stride,
    same_layout,
    substitute,
)
from denoise_ext.engine.fuse.ir import OUT, Constants, Site, Step
from denoise_ext.engine.fuse.match import ConcatSite
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
    fresh: list[Value] = field(default_factory=list)  # results of the call that a step writes
    size: int = 0  # bytes of the plan's memory
    joined: int = 0  # tensors written in place into a concatenation


class Scheduler:
    """Builds a :class:`Schedule`."""

    def __init__(self, graph: Graph, constants: Constants, chosen: dict[Site, Step | None]) -> None:
        self.graph = graph
        self.constants = constants
        self.chosen = chosen
        self.result = Schedule()

    def run(self) -> Schedule:
        """Build the schedule."""
        steps = self._ordered_steps()
        self._choose_fresh(steps)
        self._place_results(steps)
        self._separate_views(self._with_conversions(steps))
        self._lifetimes()
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
                steps.append(self.chosen[site])
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
        written = {step.results[0] for step in steps if step.writes}
        view_of = {
            result: step.args[0] for step in steps if step.view for result in step.results
        }  # fmt: skip
        for value in self.graph.outputs:
            while isinstance(value, Value) and value in view_of:
                value = view_of[value]
            if value in written and value not in self.result.fresh:
                self.result.fresh.append(value)

    def _place_results(self, steps: list[Step]) -> None:
        readers: dict[Value, list[Step]] = {}
        for step in steps:
            for value in step.reads():
                readers.setdefault(value, []).append(step)
        parts: dict[Value, list[Step]] = {}
        for step in steps:
            if step.part_of is not None:
                parts.setdefault(step.part_of[0], []).append(step)
        writer = {value: step for step in steps if step.writes for value in step.results}
        dropped: set[Step] = set()
        # Concatenations from last to first: one inside another finds the outer one placed.
        for output in reversed(parts):
            if output not in self.result.places:
                self.result.places[output] = (self._buffer(output), 0)
            buffer, base = self.result.places[output]
            for step in parts[output]:
                value, channel = step.args[0], base + step.part_of[1]
                self.result.places[step.results[0]] = (buffer, channel)
                inside = value in parts or (value in writer and writer[value].any_output)
                if inside and self._may_join(value, step, readers):
                    self.result.places[value] = (buffer, channel)
                    dropped.add(step)
        self.result.joined = len(dropped)
        steps[:] = [step for step in steps if step not in dropped]
        for step in steps:
            for value in step.results if step.writes else ():
                if value not in self.result.places and value not in self.result.fresh:
                    self.result.places[value] = (self._buffer(value), 0)

    def _may_join(self, value: Value, copy: Step, readers: dict[Value, list[Step]]) -> bool:
        """Whether ``value`` can be written right where ``copy`` would put it."""
        if value in self.result.places or value in self.result.fresh:
            return False
        others = [step for step in readers[value] if step is not copy]
        return all(step.any_layout for step in others) and readers[value].count(copy) == 1

    def _buffer(self, value: Value) -> Buffer:
        stride = channels_last_stride(value.shape) if len(value.shape) == 4 else value.stride
        return Buffer(value.shape, stride, value.dtype)

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
        if value in self.result.fresh:
            return not same_layout(value.shape, channels_last_stride(value.shape), value.stride)
        if value not in self.result.places:
            return False
        return not same_layout(value.shape, self.result.places[value][0].stride, value.stride)

    def _reading(self, step: Step, converted: dict[Value, Value]) -> Step:
        def replace(value: Value) -> Value:
            return converted.get(value, value)

        return Step(
            step.function, substitute(step.args, replace), substitute(step.kwargs, replace),
            step.results, step.single, step.view, step.any_layout,
        )  # fmt: skip

    # --- views and lifetimes ----------------------------------------------------------------------

    def _separate_views(self, steps: list[Step]) -> None:
        """Views of tensors that have a place are made once, with the memory."""
        fixed = dict(self.result.places)
        for step in steps:
            base = step.args[0] if step.view else None
            others = [value for value in step.reads() if value is not base]
            if base in fixed and all(value in self.constants for value in others):
                self.result.static_views.append(step)
                for value in step.results:
                    fixed[value] = fixed[base]
            else:
                self.result.steps.append(step)
        self._home = {value: buffer for value, (buffer, _) in fixed.items()}

    def _lifetimes(self) -> None:
        for index, step in enumerate(self.result.steps):
            for value in (*step.reads(), *(step.results if step.writes else ())):
                if value in self._home:
                    self._home[value].used_at(index)
        for value in self.graph.outputs:
            if isinstance(value, Value) and value in self._home:
                self._home[value].used_at(sys.maxsize - 1)  # copied when the steps are done
