"""A schedule bound to memory, ready to run; one copy of that memory per call at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from denoise_ext.engine.capture.graph import (
    Graph,
    Value,
    same_layout,
    substitute,
)
from denoise_ext.engine.fuse.ir import Constants, Step, as_traced, run
from denoise_ext.engine.run import cuda_graph, memory
from denoise_ext.engine.run.schedule import Schedule
from denoise_ext.ops.tuned import Tuned

_POISON = 255  # bytes of it are a NaN in every floating-point format


class Plan:
    """Runs a traced call for arguments of the traced shapes.

    Several threads may run it at once: each takes a workspace from a pool, which makes another one
    when it is empty.  On CUDA every stream has a pool of its own, and a workspace records its steps
    as a CUDA graph.

    Args:
        graph, constants, schedule: what to run.
        device: where.
        poison: for tests: fill memory with NaN before the first step, and every buffer after the
            last step that may read it.
    """

    graph: Graph
    constants: Constants
    schedule: Schedule
    device: torch.device
    poison: bool

    def __init__(
        self,
        graph: Graph,
        constants: Constants,
        schedule: Schedule,
        device: torch.device,
        poison: bool = False,
    ) -> None:
        self.graph, self.constants, self.schedule = graph, constants, schedule
        self.device, self.poison = device, poison
        results = memory.Results(device)
        self.makers: list[Callable[[], Tensor]] = [
            results.maker(v.shape, stride, v.dtype) for v, stride in schedule.fresh.items()
        ]
        self.bytes: int = schedule.size + results.bytes  # a workspace, and blocks for results
        self._pools: dict[int, list[_Workspace]] = {}
        self._lock = threading.Lock()
        self.workspaces: int = 0
        self.unrecorded: str | None = None  # why a GPU launches the steps one by one
        if device.type == "cpu":
            memory.keep_heap(_allocated(schedule.steps))
        if device.type == "cuda":
            self.unrecorded = cuda_graph.obstacle(graph, device)

    def run(self, tensors: list[Tensor], spoil: bool = False) -> Any:
        """The call's result for these tensors, as a nest of new tensors."""
        return pytree.tree_unflatten(self.leaves(tensors, spoil), self.graph.output_spec)

    def leaves(self, tensors: list[Tensor], spoil: bool = False) -> list[Any]:
        """The leaves of the call's result.

        ``spoil``: fill all memory with NaN first, so that what no step writes does not look right
        by chance.
        """
        inputs = self.inputs(tensors)
        # dict.setdefault, list.pop and append are atomic: no lock on the way of a call.
        pool = self._pools.setdefault(self._stream(), [])
        try:
            workspace = pool.pop()
        except IndexError:
            workspace = self._new_workspace()
        try:
            return workspace.run(inputs) if not spoil else workspace.run_spoilt(inputs)
        finally:
            pool.append(workspace)

    def measured(self) -> dict[str, str]:
        """Convolution on a GPU -> what was measured for it, and the kernel that serves therefore.

        Those of one geometry are one.  Empty before the first run.
        """
        found = {}
        for step in self.schedule.steps:
            if isinstance(step.function, Tuned) and step.function.measured is not None:
                name = step.function.op._schema.name.split("::")[1].removesuffix("_out")
                shapes = ["x".join(map(str, x.shape)) for x in step.args[:2]]
                found[f"{name} {shapes[0]}, weight {shapes[1]}"] = str(step.function.measured)
        return found

    def inputs(self, tensors: list[Tensor]) -> list[Tensor]:
        """The call's tensors as they were traced: dtype, and strides where they matter."""
        free = self.schedule.any_layout
        return [
            x
            if x.dtype == v.dtype and (x.stride() == v.stride or v in free)
            else as_traced(x.to(v.dtype), v)
            for x, v in zip(tensors, self.graph.inputs, strict=True)
        ]

    def free_workspaces(self) -> list[_Workspace]:
        """Those no call is using."""
        return [workspace for pool in self._pools.values() for workspace in pool]

    def _stream(self) -> int:
        """What orders the use of memory: on another CUDA stream kernels may still be at work."""
        if self.device.type != "cuda":
            return 0
        return torch.cuda.current_stream(self.device).cuda_stream

    def _new_workspace(self) -> _Workspace:
        with self._lock:
            self.workspaces += 1
        # Memory allocated in inference mode could not be written to outside of it later.
        with torch.inference_mode(False), torch.no_grad():
            return _Workspace(self)


def _allocated(steps: list[Step]) -> int:
    """Bytes of all results that operators allocate themselves in a call."""
    results = [v for step in steps if not step.writes and not step.view for v in step.results]
    return sum(v.numel() * v.dtype.itemsize for v in results if v is not None)


class _Workspace:
    """Memory for one call at a time, and the steps with that memory filled in.

    Neither it nor its plan is in a cycle of references: what is dropped is free at once.
    """

    def __init__(self, plan: Plan) -> None:
        schedule, self._constants = plan.schedule, plan.constants
        self._arena = memory.allocate(schedule.size, plan.device)
        self._static: dict[Value, Tensor] = {}
        self._known = _Known(self._static, plan.constants)
        for value, (buffer, channel) in schedule.places.items():
            self._static[value] = _slice(memory.view(self._arena, buffer), value, channel)
        for step in schedule.static_views:
            results = run(step, self._known)
            self._static.update(
                (v, r) for v, r in zip(step.results, results, strict=True) if v is not None
            )
        self._slots: dict[Value, int] = {}
        for value in (*plan.graph.inputs, *schedule.fresh):
            self._slots[value] = len(self._slots)
        self._makers = plan.makers
        self._slices = []  # slots of a part and of its whole, first channel, channels
        for value, (whole, channel) in schedule.slices.items():
            slot = self._slots.setdefault(value, len(self._slots))
            self._slices.append((slot, self._slots[whole], channel, value.shape[1]))
        self._calls = [
            call for i, step in enumerate(schedule.steps) for call in self._bind(i, step, plan)
        ]
        if plan.poison:
            self._calls.insert(0, (self._arena.fill_, (_POISON,), {}, None, None))
        self._outputs = [self._output(leaf) for leaf in plan.graph.outputs]
        self._plan, self._recorder = weakref.ref(plan), None
        if plan.device.type == "cuda" and plan.unrecorded is None and not plan.poison:
            leaves = plan.graph.outputs
            copied = [isinstance(leaf, Value) and leaf.source is None for leaf in leaves]
            self._recorder = cuda_graph.Recorder(_weak(self._launch), copied, plan.device)

    @property
    def recorded(self) -> bool:
        """Whether a call is one launch of a CUDA graph."""
        return self._recorder is not None and self._recorder.recorded

    def run(self, inputs: list[Tensor]) -> list[Any]:
        """Carry out all steps."""
        if self._recorder is None:
            return self._launch(inputs)
        results = self._recorder(inputs)
        plan = self._plan()
        if self._recorder.failure is not None and plan is not None:
            plan.unrecorded = self._recorder.failure
        return results

    def run_spoilt(self, inputs: list[Tensor]) -> list[Any]:
        """Fill all memory with NaN, and carry out all steps, one by one."""
        self._arena.fill_(_POISON)
        return self._launch(inputs, [_spoilt(make()) for make in self._makers])

    def _launch(self, inputs: list[Tensor], made: list[Tensor] | None = None) -> list[Any]:
        env: list[Any] = inputs + ([make() for make in self._makers] if made is None else made)
        env += [None] * (len(self._slots) - len(env))
        for slot, whole, channel, channels in self._slices:
            env[slot] = env[whole].narrow(1, channel, channels)
        for function, args, kwargs, patches, store in self._calls:
            if patches is None:
                result = function(*args, **kwargs)
            elif patches:
                args = list(args)
                for position, slot in patches:
                    args[position] = env[slot]
                result = function(*args, **kwargs)
            else:
                result = function(env)
            if store is not None:
                store(env, result)
        return [output(env) for output in self._outputs]

    # --- binding ----------------------------------------------------------------------------------

    def _bind(self, index: int, step: Step, plan: Plan) -> list[tuple[Any, ...]]:
        """The calls that ``step`` is: (function, args, kwargs, patches, what to do with results).

        ``patches`` are the arguments of each call, as (position, slot). ``()`` means a function
        that looks them up.
        """
        if step.writes:
            calls = [self._call(step.filled(step.results), None)]
        else:
            for value in step.results:
                if value is not None:
                    self._slots.setdefault(value, len(self._slots))
            calls = [self._call(step, _Store(step, self._slots))]
        if plan.poison:
            calls += self._poisoning(index, plan)
        return calls

    def _call(self, step: Step, store: Callable[..., Any] | None) -> tuple[Any, ...]:
        patches: list[tuple[int, int]] = []
        args: list[Any] = []
        for position, argument in enumerate(step.args):
            if isinstance(argument, Value) and argument in self._slots:
                patches.append((position, self._slots[argument]))
                args.append(None)
            else:
                args.append(argument)
        rest = Step(step.function, tuple(args), step.kwargs, [])
        if any(value in self._slots for value in rest.reads()):
            # A tensor made during the call, inside a list or a keyword: looked up each time.
            return (_Nested(step, self._slots, self._known), None, None, (), store)
        fixed = substitute(tuple(args), self._known)
        return (
            step.function, fixed, substitute(step.kwargs, self._known), patches or None, store,
        )  # fmt: skip

    def _poisoning(self, index: int, plan: Plan) -> list[tuple[Any, ...]]:
        ended = {
            id(b): b for b, _ in plan.schedule.places.values() if b.last == index
        }.values()  # fmt: skip
        return [
            (self._arena[b.offset : b.offset + b.bytes].fill_, (_POISON,), {}, None, None)
            for b in ended
        ]

    def _output(self, leaf: Any) -> Callable[[list[Any]], Any]:
        if not isinstance(leaf, Value):
            return lambda env: leaf
        if leaf in self._slots:
            slot = self._slots[leaf]
            return lambda env: env[slot]
        if leaf.source is not None:
            given = self._constants.as_given(leaf)
            return lambda env: given
        known = self._known(leaf)
        return lambda env: known.clone()


def _weak(method: Callable[[list[Tensor]], list[Any]]) -> Callable[[list[Tensor]], list[Any]]:
    """``method`` for what its object owns: a reference would be a cycle."""
    reference = weakref.WeakMethod(method)

    def call(inputs: list[Tensor]) -> list[Any]:
        bound = reference()
        assert bound is not None  # its object calls
        return bound(inputs)

    return call


class _Known:
    """Tensors that are there before the call."""

    def __init__(self, static: dict[Value, Tensor], constants: Constants) -> None:
        self._static, self._constants = static, constants

    def __call__(self, value: Value) -> Tensor:
        return self._static[value] if value in self._static else self._constants[value]


class _Nested:
    """Runs a step some of whose tensors are made during the call and stand in a list or keyword."""

    def __init__(
        self, step: Step, slots: dict[Value, int], known: Callable[[Value], Tensor]
    ) -> None:
        self._step, self._slots, self._known = step, slots, known

    def __call__(self, env: list[Any]) -> Any:
        def look_up(value: Value) -> Tensor:
            slot = self._slots.get(value)
            return self._known(value) if slot is None else env[slot]

        step = self._step
        return step.function(*substitute(step.args, look_up), **substitute(step.kwargs, look_up))


class _Store:
    """Puts a step's results, laid out as traced, where later steps find them."""

    def __init__(self, step: Step, slots: dict[Value, int]) -> None:
        self._single = step.single
        self._targets = [
            (i, slots[value], value) for i, value in enumerate(step.results) if value is not None
        ]

    def __call__(self, env: list[Any], result: Any) -> None:
        results = (result,) if self._single else result
        for i, slot, value in self._targets:
            tensor = results[i]
            env[slot] = tensor if tensor.stride() == value.stride else as_traced(tensor, value)


def _spoilt(tensor: Tensor) -> Tensor:
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor


def _slice(whole: Tensor, value: Value, channel: int) -> Tensor:
    if tuple(whole.shape) != value.shape:
        return whole.narrow(1, channel, value.shape[1])
    alike = same_layout(value.shape, whole.stride(), value.stride)
    return as_traced(whole, value) if alike else whole
