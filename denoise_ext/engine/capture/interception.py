"""What a traced forward must not do in its own way: read memory, make tensors, write in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from denoise_ext.engine.capture.constants import NotPlannedError

META: torch.device = torch.device("meta")
_PRIVATE: Any = torch  # what `torch.func.functionalize` is made of has no public name
# Ways to a tensor's memory that bypass operators.
_MEMORY = frozenset(
    {
        Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.data_ptr, Tensor.storage,
        Tensor.untyped_storage, Tensor.__dlpack__, Tensor.is_shared,
    }
)  # fmt: skip


class Interception(TorchFunctionMode):
    """Refuses what tensors without data cannot show, and keeps the numbers of new ones.

    Refused are reading or handing out a tensor's numbers, and autocast, which passes over them.

    Args:
        device: where the tensors of the trace would be.
        add_constant: takes a tensor of numbers; returns the one that stands for it in the trace.
    """

    def __init__(self, device: torch.device, add_constant: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._device, self._add_constant = device, add_constant

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MEMORY:
            raise NotPlannedError(f"it depends on the numbers in a tensor (Tensor.{func.__name__})")
        if torch.is_autocast_enabled(self._device.type):
            raise NotPlannedError("it turns on autocast")
        if func is torch.tensor or func is torch.as_tensor:
            data = args[0] if args else kwargs.get("data")
            if func is torch.tensor or not isinstance(data, Tensor):
                return self._tensor_of(func, args, kwargs)
        if func is Tensor.new_tensor:
            kwargs.setdefault("dtype", args[0].dtype)
            return self._tensor_of(torch.tensor, args[1:], kwargs)
        if func is Tensor.to:
            args = (args[0], *map(self._device_here, args[1:]))
        elif func is Tensor.cpu and self._device.type == "cpu":
            return args[0]
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self._device_here(kwargs["device"])}
        return func(*args, **kwargs)

    def _device_here(self, argument: Any) -> Any:
        """A tensor of the trace is where the trace is, by whatever name the forward calls it."""
        if isinstance(argument, (str, torch.device)):
            device = torch.device(argument)
            own = device.type == self._device.type and device.index in (None, self._device.index)
            return META if own else argument
        return argument

    def _tensor_of(
        self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """A tensor of Python's or NumPy's numbers."""
        device = self._device_here(kwargs.get("device"))
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if tensors or device not in (None, META):
            raise NotPlannedError("it makes a tensor of something else than numbers")
        with _Outside(), torch.device(self._device):
            made = func(*args, **{k: v for k, v in kwargs.items() if k != "device"}).clone()
            return _PRIVATE._to_functional_tensor(self._add_constant(made))


class _Outside:
    """Operators run as they do without a trace."""

    def __enter__(self) -> None:
        self._contexts = [_disable_current_modes(), torch._C.DisableTorchFunction()]
        _PRIVATE._disable_functionalization()
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *details: Any) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*details)
        _PRIVATE._enable_functionalization(reapply_views=True)


def functionalized(
    call: Callable[[list[Tensor]], tuple[list[Any], Any]], tensors: list[Tensor]
) -> tuple[list[Any], Any, dict[int, Tensor]]:
    """``call(tensors)`` with every write in place turned into a new tensor.

    ``torch.func.functionalize`` is the same as a transform of functions, which refuses a
    ``torch.autograd.Function`` without ``setup_context``.

    Returns:
        The leaves of the result, as ordinary tensors; what else ``call`` returns; and what it has
        written to ``tensors``, by position.
    """
    wrapped = [_PRIVATE._to_functional_tensor(x) for x in tensors]
    _PRIVATE._enable_functionalization(reapply_views=True)
    try:
        leaves, more = call(wrapped)
    finally:
        _PRIVATE._disable_functionalization()
    last = [_unwrapped(x) for x in wrapped]
    pairs = enumerate(zip(tensors, last, strict=True))
    written = {position: now for position, (given, now) in pairs if now is not given}
    return [_unwrapped(x) if isinstance(x, Tensor) else x for x in leaves], more, written


def _unwrapped(x: Tensor) -> Tensor:
    if not _PRIVATE._is_functional_tensor(x):
        return x
    _PRIVATE._sync(x)
    return _PRIVATE._from_functional_tensor(x)
