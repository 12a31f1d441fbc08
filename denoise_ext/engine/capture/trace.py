"""One call of a module on tensors without data, recorded operator by operator.

Everything a forward decides by shapes or attributes is decided then, for these shapes alone; what
it would decide by the numbers in a tensor raises, and the call is left to PyTorch.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.engine.capture.graph import Graph, Node, Value, channels_last_stride
from denoise_ext.engine.capture.instrumented_copy import Guard, InstrumentedCopy
from denoise_ext.engine.capture.random_state import random_states, same_on_cpu
from denoise_ext.engine.capture.shapes import result_of
from denoise_ext.engine.capture.signature import PLAIN, tensors_in

_META = torch.device("meta")
# Ways to a tensor's memory that bypass operators.
_MEMORY = frozenset(
    {
        Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.data_ptr, Tensor.storage,
        Tensor.untyped_storage, Tensor.__dlpack__, Tensor.is_shared,
    }
)  # fmt: skip


class _NoMemory(TorchFunctionMode):
    """Refuses what tensors without data cannot show, and keeps the numbers of new ones.

    Refused are reading or handing out a tensor's numbers, and autocast, which passes over them.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _MEMORY:
            raise NotPlannedError(f"it depends on the numbers in a tensor (Tensor.{func.__name__})")
        if torch.is_autocast_enabled(self._device.type):
            raise NotPlannedError("it turns on autocast")
        if func is torch.tensor and len(args) == 1:
            return self._tensor_of(args[0], **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _tensor_of(
        self, data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **more: Any
    ) -> Tensor:
        """``torch.tensor`` of Python numbers, as operators that have them among their arguments.

        ``torch.tensor`` itself is no operator: no record would be left of the numbers.
        """
        shape, numbers = _shape(data), _numbers(data)
        if shape is None or not numbers or any(more.values()):
            raise NotPlannedError("it makes a tensor of something else than Python numbers")
        if dtype is None:
            kinds = {type(number) for number in numbers}
            whole = torch.int64 if int in kinds else torch.bool
            dtype = torch.get_default_dtype() if float in kinds else whole
        if device is not None and torch.device(device).type == self._device.type:
            device = None  # where all tensors of the trace are
        parts = [torch.full((), number, dtype=dtype, device=device) for number in numbers]
        return torch.stack(parts).reshape(shape)


def _numbers(data: Any) -> list[int | float]:
    """The numbers of nested lists, in order."""
    if isinstance(data, (list, tuple)):
        return [number for item in data for number in _numbers(item)]
    return [data]


def _shape(data: Any) -> tuple[int, ...] | None:
    """The sizes of nested lists of Python numbers; None if they are irregular, or of others."""
    if type(data) in (bool, int, float):
        return ()
    if type(data) not in (list, tuple):
        return None
    inner = {_shape(item) for item in data}
    sizes = inner.pop() if len(inner) == 1 else None
    return None if sizes is None else (len(data), *sizes)


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
        self._values: dict[int, Value] = {}
        self._alive: list[Tensor] = []  # ids are unique among living objects only

    def release(self) -> list[weakref.ref[Tensor]]:
        """Let go of the tensors of the trace; what is alive afterwards, others hold."""
        tensors = [weakref.ref(tensor) for tensor in self._alive]
        self._alive.clear()
        return tensors

    def name(self, tensor: Tensor, value: Value) -> None:
        self._values[id(tensor)] = value
        self._alive.append(tensor)

    def value(self, tensor: Tensor) -> Value:
        value = self._values.get(id(tensor))
        if value is None:
            raise NotPlannedError("it uses a tensor that is neither an argument nor an attribute")
        return value

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = result_of(func, args, kwargs)
        if func is torch.ops.prim.device.default:
            return result
        if func is torch.ops.aten.alias.default:
            self.name(result, self.value(args[0]))
            return result
        _check_operator(func)
        leaves = list(result) if isinstance(result, (tuple, list)) else [result]
        results: list[Value | None] = []
        named_args, named_kwargs = self._substitute(args), self._substitute(kwargs)
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
        return self.device if tree == _META else tree


def _check_operator(func: Any) -> None:
    if func._schema.is_mutable:
        raise NotPlannedError(f"it changes an argument or a buffer in place ({func})")
    if torch.Tag.nondeterministic_seeded in func.tags:
        raise NotPlannedError(f"it draws random numbers ({func})")
    if "as_strided" in str(func):
        raise NotPlannedError(f"it depends on the layout of memory ({func})")


def trace(
    module: nn.Module,
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: torch.dtype | None,
    channels_last: bool,
    as_given: Collection[int] = (),
) -> tuple[Graph, list[Tensor], Guard]:
    """Record ``module.method(*args, **kwargs)``.

    Args:
        dtype: floating tensors of module and arguments are taken as if cast to it.
        channels_last: 4-D arguments are taken as if laid out so.
        as_given: positions of tensors, among the arguments, that keep their layout all the same.

    Returns:
        The graph, the module's tensors in the order of ``graph.sources``, and a guard that detects
        later changes of the module.

    Raises:
        NotPlannedError: it cannot be recorded faithfully.
    """
    copied = InstrumentedCopy(module)
    count = len(tensors_in(args, kwargs))
    last = [channels_last and position not in as_given for position in range(count)]
    graph, tensors = _record(copied, method, args, kwargs, dtype, last)
    own, guard = copied.tensors, copied.guard
    del copied  # the last to hold tensors of the trace by right
    if any(tensor() is not None for tensor in tensors):
        gc.collect()
    if any(tensor() is not None for tensor in tensors):
        raise NotPlannedError("its forward keeps tensors outside of the module")
    return graph, own, guard


def _record(
    copied: InstrumentedCopy, method: str, args: tuple[Any, ...], kwargs: dict[str, Any],
    dtype: torch.dtype | None, channels_last: list[bool],
) -> tuple[Graph, list[weakref.ref[Tensor]]]:  # fmt: skip
    """The graph, and all tensors that were made for it.

    ``channels_last`` has a value for each tensor among the arguments.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    given = [x for x in leaves if isinstance(x, Tensor)]
    device = _only_device(given + copied.tensors)
    recorder = _Recorder(device)
    fakes = [_without_data(x, dtype, last) for x, last in zip(given, channels_last, strict=True)]
    stand_ins = [_without_data(x, dtype, False) for x in copied.tensors]
    inputs = [Value.of(fake, device) for fake in fakes]
    sources = [Value.of(fake, device, source=i) for i, fake in enumerate(stand_ins)]
    for fake, value in zip(fakes + stand_ins, inputs + sources, strict=True):
        recorder.name(fake, value)

    output_spec: pytree.TreeSpec | None = None

    def call(tensors: list[Tensor], own: list[Tensor]) -> list[Any]:
        copied.install(own.__getitem__)
        waiting = iter(tensors)
        filled = [next(waiting) if isinstance(x, Tensor) else x for x in leaves]
        call_args, call_kwargs = pytree.tree_unflatten(filled, spec)
        run = copied.module if method == "forward" else getattr(copied.module, method)
        nonlocal output_spec
        flat, output_spec = pytree.tree_flatten(run(*call_args, **call_kwargs))
        return flat

    flat = _run(lambda: torch.func.functionalize(call)(fakes, stand_ins), recorder)
    if copied.refused:
        raise NotPlannedError(copied.refused[0])
    changed = copied.changed()
    if changed is not None:
        raise NotPlannedError(f"its forward writes to {changed}")
    assert output_spec is not None  # `call` has run
    outputs = [recorder.value(leaf) if isinstance(leaf, Tensor) else leaf for leaf in flat]
    for leaf in outputs:
        if not isinstance(leaf, (Value, *PLAIN)):
            raise NotPlannedError(f"it returns a {type(leaf).__name__}")
    graph = Graph(inputs, sources, copied.names, recorder.nodes, outputs, output_spec)
    return graph.remove_dead(), recorder.release()


def _run(call: Callable[..., Any], recorder: _Recorder) -> list[Any]:
    """Run under the recorder; an exception becomes the reason not to plan."""
    states = random_states()
    try:
        with torch.no_grad(), torch.device("meta"), _NoMemory(recorder.device), recorder:
            result = call()
    except NotPlannedError:
        raise
    except Exception as error:  # a forward may raise anything without data
        text = str(error).strip().splitlines()
        raise NotPlannedError(
            f"it cannot be traced: {type(error).__name__}: {text[0] if text else ''}"
        ) from error
    if not same_on_cpu(states, random_states()):
        raise NotPlannedError("it draws random numbers outside of PyTorch")
    return result


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
    return torch.empty_strided(shape, stride, dtype=dtype, device=_META)
