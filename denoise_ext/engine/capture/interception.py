"""What a traced forward must not do in its own way: read memory, make tensors, write in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from denoise_ext.engine.capture.constants import NotPlannedError
from denoise_ext.ops import is_channels_last

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
        if self._device.type == "cpu" and func in _AS_ON_CPU:
            return _AS_ON_CPU[func](*args, **kwargs)
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


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    """PyTorch makes its input contiguous on other devices; on the CPU channels_last stays."""
    last = input.dim() == 4 and is_channels_last(input)
    if not last or not _fits_groups(input, num_groups, weight, bias):
        return torch.group_norm(input, num_groups, weight, bias, eps, cudnn_enabled)
    n, c, h, w = input.shape
    # Of channels of a larger tensor, the operator itself takes only a copy.
    input = input.contiguous(memory_format=torch.channels_last)
    return torch.native_group_norm(input, weight, bias, n, c, h * w, num_groups, eps)[0]


def _fits_groups(input: Tensor, groups: int, *weights: Tensor | None) -> bool:
    """Whether ``group_norm`` accepts these arguments; it words the error where it does not."""
    channels = input.shape[1]
    return (
        groups > 0 and channels % groups == 0 and input.numel() > 0
        and all(w is None or tuple(w.shape) == (channels,) for w in weights)
    )  # fmt: skip


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """The operator that PyTorch chooses on the CPU.

    On other devices it is written out: a product, a softmax over the whole matrix, a product.
    """
    tensors = [x for x in (query, key, value, attn_mask) if x is not None]
    if enable_gqa or not _is_fused(tensors, dropout_p, is_causal):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(
            attn_mask.logical_not(), float("-inf")
        )
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    return fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def _is_fused(tensors: list[Tensor], dropout: float, is_causal: bool) -> bool:
    """What PyTorch would choose for such tensors with data, in memory that nothing touches."""
    with _Outside():
        alike = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cpu") for x in tensors
        ]
        mask = alike[3] if len(alike) > 3 else None
        return _PRIVATE._fused_sdp_choice(*alike[:3], mask, dropout, is_causal) == _FLASH


_FLASH = 1  # torch.nn.attention.SDPBackend.FLASH_ATTENTION
# Functions that PyTorch divides into other operators on tensors without data than on the CPU.
_AS_ON_CPU: dict[Any, Callable[..., Tensor]] = {
    functional.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    functional.scaled_dot_product_attention: _attention,
}


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
