"""One call of a module on tensors without data, recorded operator by operator.

Everything a forward decides by shapes or attributes is decided then, for these shapes alone; what
it would decide by the numbers in a tensor raises, and the call is left to PyTorch.
"""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.engine.capture.graph import (
    Graph,
    Node,
    Value,
    Write,
    channels_last_stride,
    same_layout,
)
from denoise_ext.engine.capture.instrumented_copy import Change, Guard, InstrumentedCopy
from denoise_ext.engine.capture.interception import META, Interception, functionalized
from denoise_ext.engine.capture.no_ops import drop_no_ops
from denoise_ext.engine.capture.random_state import random_states, same_on_cpu
from denoise_ext.engine.capture.result_nest import flatten
from denoise_ext.engine.capture.shapes import Known, result_of
from denoise_ext.engine.capture.signature import PLAIN, tensors_in
from denoise_ext.engine.capture.written_slices import join_written_slices


class _Recorder(TorchDispatchMode):
    """Record every operator below autograd and functionalisation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would wrap __torch_dispatch__ for the compiler and load that: seconds, for
        # nothing.
        return False

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.nodes: list[Node] = []
        self.sources: list[Value] = []  # the module's tensors, then constants
        self.constants: list[Tensor] = []
        self._known: Known = {}
        self._values: dict[int, Value] = {}
        self._stand_ins: dict[int, Tensor] = {}  # of tensors that the forward has made of numbers
        self._alive: list[Tensor] = []  # ids are unique among living objects only

    def release(self) -> list[weakref.ref[Tensor]]:
        """Let go of the tensors of the trace; what is alive afterwards, others hold."""
        tensors = [weakref.ref(tensor) for tensor in self._alive]
        self._alive.clear()
        self._stand_ins.clear()
        return tensors

    def name(self, tensor: Tensor, value: Value) -> None:
        self._values[id(tensor)] = value
        self._alive.append(tensor)

    def value(self, tensor: Tensor) -> Value:
        value = self._values.get(id(tensor))
        if value is None:
            raise NotPlannedError("it uses a tensor that is neither an argument nor an attribute")
        return value

    def add_constant(self, tensor: Tensor) -> Tensor:
        """A tensor without data that stands for ``tensor``, whose numbers do not change."""
        fake = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META
        )  # fmt: skip
        value = Value.of(fake, self.device, source=len(self.sources))
        self.sources.append(value)
        self.constants.append(tensor)
        self.name(fake, value)
        return fake

    def _without_data(self, tensor: Tensor) -> Tensor:
        """A tensor with data is one that the forward has made: of a NumPy array, for instance.

        If it outlives the trace, somebody else keeps it, and the call is not planned.
        """
        if tensor.device != self.device or id(tensor) in self._values:
            return tensor
        known = self._stand_ins.get(id(tensor))
        if known is None:
            known = self._stand_ins[id(tensor)] = self.add_constant(tensor.clone())
            self._alive.append(tensor)
        return known

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args, named = pytree.tree_map_only(Tensor, self._without_data, (args, kwargs or {}))
        result = result_of(func, args, named, self._known)
        if func is torch.ops.prim.device.default:
            return result
        if func is torch.ops.aten.alias.default or _strides_alike(func, result, args):
            self.name(result, self.value(args[0]))
            return result
        _check_operator(func)
        leaves = list(result) if isinstance(result, (tuple, list)) else [result]
        results: list[Value | None] = []
        named_args, named_kwargs = self._substitute(args), self._substitute(named)
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                results.append(None)
                continue
            value = Value.of(leaf, self.device)
            results.append(value)
            self.name(leaf, value)
        single = not isinstance(result, (tuple, list))
        node = Node(func, named_args, named_kwargs, results, single)
        for made in results:
            if made is not None:
                made.producer = node
        self.nodes.append(node)
        return result

    def _substitute(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return self.value(tree)
        if isinstance(tree, (tuple, list)):
            return type(tree)(self._substitute(item) for item in tree)
        if isinstance(tree, dict):
            return {key: self._substitute(item) for key, item in tree.items()}
        return self.device if tree == META else tree


# They draw random numbers for dropout alone, with which they are not called here.
_WITHOUT_DROPOUT = frozenset({torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default})
_NOT_THE_FORWARD = (Path(torch.__file__).parent, Path(__file__).parents[1])


def _check_operator(func: Any) -> None:
    if func._schema.is_mutable:
        raise NotPlannedError(f"it changes an argument or a buffer in place ({func})")
    if torch.Tag.nondeterministic_seeded in func.tags and func not in _WITHOUT_DROPOUT:
        raise NotPlannedError(f"it draws random numbers ({func})")
    if "as_strided" in str(func):
        raise NotPlannedError(f"it depends on the layout of memory ({func})")


def _strides_alike(func: Any, result: Any, args: tuple[Any, ...]) -> bool:
    """Whether it only words the strides otherwise, as PyTorch's mean over all pixels does."""
    if func is not torch.ops.aten.as_strided.default or result.shape != args[0].shape:
        return False
    same = same_layout(tuple(result.shape), result.stride(), args[0].stride())
    return same and result.storage_offset() == args[0].storage_offset()


def trace(
    module: nn.Module,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: torch.dtype | None,
    channels_last: bool,
    as_given: Collection[int] = (),
    weights_last: bool = False,
) -> tuple[Graph, list[Tensor], Guard]:
    """Record ``module.method(*args, **kwargs)``.

    Args:
        dtype: floating tensors of module and arguments are taken as if cast to it.
        channels_last: 4-D arguments are taken as if laid out so.
        as_given: positions of tensors, among the arguments, that keep their layout all the same.
        weights_last: the module's 4-D tensors are taken as if laid out so.

    Returns:
        The graph, the module's tensors in the order of ``graph.sources``, and a guard that detects
        later changes of the module.

    Raises:
        NotPlannedError: it cannot be recorded faithfully.
    """
    copied = InstrumentedCopy(module)
    count = len(tensors_in(args, kwargs))
    last = [channels_last and position not in as_given for position in range(count)]
    graph, tensors, constants = _record(copied, method, args, kwargs, dtype, last, weights_last)
    own, guard = copied.tensors + constants, copied.guard
    if graph.writes:  # which other calls of the module's own forward repeat
        guard = InstrumentedCopy(module, [write.place for write in graph.writes]).guard
    del copied  # the last to hold tensors of the trace by right
    if any(tensor() is not None for tensor in tensors):
        gc.collect()
    if any(tensor() is not None for tensor in tensors):
        raise NotPlannedError("its forward keeps tensors outside of the module")
    return graph, own, guard


def _record(
    copied: InstrumentedCopy, method: str, args: tuple[Any, ...], kwargs: dict[str, Any],
    dtype: torch.dtype | None, channels_last: list[bool], weights_last: bool,
) -> tuple[Graph, list[weakref.ref[Tensor]], list[Tensor]]:  # fmt: skip
    """The graph, all tensors that were made for it, and the constants among its sources.

    ``channels_last`` has a value for each tensor among the arguments.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    given = [x for x in leaves if isinstance(x, Tensor)]
    device = _only_device(given + copied.tensors)
    recorder = _Recorder(device)
    fakes = [_without_data(x, dtype, last) for x, last in zip(given, channels_last, strict=True)]
    stand_ins = [_without_data(x, dtype, weights_last) for x in copied.tensors]
    inputs = [Value.of(fake, device) for fake in fakes]
    recorder.sources += [Value.of(fake, device, source=i) for i, fake in enumerate(stand_ins)]
    for fake, value in zip(fakes + stand_ins, inputs + recorder.sources, strict=True):
        recorder.name(fake, value)

    def call(tensors: list[Tensor]) -> tuple[list[Any], tuple[pytree.TreeSpec, int, list[Change]]]:
        copied.install(tensors[len(fakes) :].__getitem__)
        waiting = iter(tensors)
        filled = [next(waiting) if isinstance(x, Tensor) else x for x in leaves]
        call_args, call_kwargs = pytree.tree_unflatten(filled, spec)
        run = copied.module if method == "forward" else getattr(copied.module, method)
        results, spec_of_results = flatten(run(*call_args, **call_kwargs))
        changes = [*copied.changes()]
        more = [change.after for change in changes if isinstance(change.after, Tensor)]
        return results + more, (spec_of_results, len(results), changes)

    leaves_and_more, (output_spec, length, changes), written = _run(
        call, fakes + stand_ins, recorder
    )
    if copied.refused:
        raise NotPlannedError(copied.refused[0])
    flat, attributes = leaves_and_more[:length], leaves_and_more[length:]
    outputs = [recorder.value(leaf) if isinstance(leaf, Tensor) else leaf for leaf in flat]
    writes = _writes(copied, recorder, inputs, outputs, written, changes, attributes)
    if writes and (dtype is not None or weights_last):  # they would have another dtype or layout
        raise NotPlannedError(writes[0].reason)
    for leaf in outputs:
        if not isinstance(leaf, (Value, *PLAIN)):
            raise NotPlannedError(f"it returns a {type(leaf).__name__}")
    names = copied.names + ["constant"] * len(recorder.constants)
    graph = Graph(inputs, recorder.sources, names, recorder.nodes, outputs, output_spec, writes)
    return join_written_slices(drop_no_ops(graph)), recorder.release(), recorder.constants


def _writes(
    copied: InstrumentedCopy, recorder: _Recorder, inputs: list[Value], outputs: list[Any],
    written: dict[int, Tensor], changes: list[Change], attributes: list[Tensor],
) -> list[Write]:  # fmt: skip
    """What the forward leaves in the module, if that is the same at every call.

    Args:
        inputs, outputs: of the call.
        written: new values of arguments and of the module's tensors, by position.
        changes: new items of containers.
        attributes: those of them that are tensors, in order.
    """
    found, after = [], iter(attributes)
    replaced: dict[Value, str] = {}  # values of the module's that are there before the call alone
    for position, tensor in written.items():
        if position < len(inputs):
            raise NotPlannedError("it changes an argument in place")
        place = position - len(inputs)
        reason = f"it changes {copied.names[place]} in place"
        found.append(Write(reason, recorder.value(tensor), copied.tensors[place]))
        replaced[recorder.sources[place]] = reason
    for change in changes:
        reason = f"its forward writes to {change.name}"
        if not isinstance(change.after, Tensor) or not change.is_attribute:
            raise NotPlannedError(reason)
        found.append(Write(reason, recorder.value(next(after)), change.container, change.key))
        if change.position is not None:
            replaced[recorder.sources[change.position]] = reason
    for write in found:
        if not _ancestors(write.value).isdisjoint((*inputs, *replaced)):
            raise NotPlannedError(write.reason)
    for result in (x for x in outputs if replaced and isinstance(x, Value)):
        for value in replaced.keys() & _ancestors(result):  # the next call would read another one
            raise NotPlannedError(replaced[value])
    return found


def _ancestors(value: Value) -> set[Value]:
    """The value, and all that it is computed from."""
    waiting, seen = [value], {value}
    while waiting:
        producer = waiting.pop().producer
        more = () if producer is None else set(producer.inputs()) - seen
        waiting += more
        seen.update(more)
    return seen


def _run(
    call: Callable[[list[Tensor]], tuple[list[Any], Any]], tensors: list[Tensor],
    recorder: _Recorder,
) -> tuple[list[Any], Any, dict[int, Tensor]]:  # fmt: skip
    """Run under the recorder; an exception becomes the reason not to plan."""
    states = random_states()
    try:
        with (
            torch.no_grad(), torch.device("meta"),
            Interception(recorder.device, recorder.add_constant), recorder,
        ):  # fmt: skip
            result = functionalized(call, tensors)
    except NotPlannedError as error:
        raise NotPlannedError(str(error) + _line_of(error)) from error
    except Exception as error:  # a forward may raise anything without data
        text = str(error).strip().splitlines()
        reason = f"it cannot be traced: {type(error).__name__}: {text[0] if text else ''}"
        raise NotPlannedError(reason + _line_of(error)) from error
    if not same_on_cpu(states, random_states()):
        raise NotPlannedError("it draws random numbers outside of PyTorch")
    return result


def _line_of(error: Exception) -> str:
    """The line of the forward that raised it: the innermost that is PyTorch's nor the engine's."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(folder in Path(frame.filename).parents for folder in _NOT_THE_FORWARD)
    ]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _only_device(tensors: list[Tensor]) -> torch.device:
    devices = {x.device for x in tensors}
    if len(devices) != 1:
        names = ", ".join(sorted(map(str, devices))) or "none"
        raise NotPlannedError(f"its tensors are not on one device ({names})")
    return devices.pop()


def _without_data(x: Tensor, dtype: torch.dtype | None, channels_last: bool) -> Tensor:
    shape, stride = tuple(x.shape), x.stride()
    if channels_last and x.dim() == 4 and x.numel():
        stride = channels_last_stride(shape)
    if dtype is None or not x.is_floating_point():
        dtype = x.dtype
    return torch.empty_strided(shape, stride, dtype=dtype, device=META)
