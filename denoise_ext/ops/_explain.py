"""Which kernel a call would take, and why the others would not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from denoise_ext._loader import native


class _Recorder(TorchDispatchMode):
    """Keeps the last call of one of our operators, with all arguments resolved."""

    def __init__(self) -> None:
        super().__init__()
        self.call: tuple[Any, tuple, Tensor] | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func.namespace == "denoise_ext":
            self.call = func, args, output
        return output


def explain(
    op: Callable[..., Tensor],
    *args: Any,
    device: str = "cpu",
    backward: bool = False,
    **kwargs: Any,
) -> str:
    """Say which kernel ``op(*args, **kwargs)`` would run on ``device``.

    Nothing is computed: only shapes, strides and dtypes of the tensors are looked at, so they may
    be anywhere and the device need not exist.

    Args:
        op: an operator of :mod:`denoise_ext.ops`, for example ``ops.conv2d``; or a filter's
            gradients, ``torch.ops.denoise_ext.gaussian_blur2d_backward`` or
            ``joint_bilateral_blur_backward``.
        args: its arguments.
        device: ``"cpu"``, ``"cuda"`` (the current GPU) or an architecture such as ``"sm_90"``.
        backward: ask about the gradients instead, of the tensors that require one (of all
            arguments, where none does).
        kwargs: its keyword arguments.

    Returns:
        A line per kernel, the chosen one first: its name, and for the others the reason. Gradients
        that kernels of their own compute have a paragraph each, headed by the gradient's name.

    Raises:
        ValueError: unknown device; or what ``op`` raises for these arguments.
        RuntimeError: the native library is missing, or ``device="cuda"`` without a GPU.
    """
    capability = _compute_capability(device)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    args, kwargs = tree_map_only(Tensor, _without_data, (args, kwargs))
    if backward and not any(x.requires_grad for x in tensors):
        args, kwargs = tree_map_only(Tensor, Tensor.requires_grad_, (args, kwargs))
    recorder = _Recorder()
    with torch.set_grad_enabled(backward), recorder:
        output = op(*args, **kwargs)
        if backward and isinstance(output, Tensor):
            _differentiate(output, tree_leaves((args, kwargs)))
    if recorder.call is None:
        raise ValueError(f"op must be an operator of denoise_ext.ops, got {op!r}")
    func, values, output = recorder.call
    arguments = func._schema.arguments
    call = {argument.name: argument.default_value for argument in arguments}
    call.update(zip((argument.name for argument in arguments), values))  # defaults are left out
    call["output"] = output
    if call["input"].numel() == 0:
        return "no kernel: input is empty, there is nothing to compute"
    described = tree_map_only(Tensor, _describe, call)
    return native().explain(func._schema.name.split("::")[1], described, capability)


def _without_data(tensor: Tensor) -> Tensor:
    options = {"dtype": tensor.dtype, "device": "meta", "requires_grad": tensor.requires_grad}
    return torch.empty_strided(tensor.shape, tensor.stride(), **options)


def _differentiate(output: Tensor, arguments: list[Any]) -> None:
    leaves = [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]
    torch.autograd.grad(output, leaves, torch.empty_like(output))


def _describe(tensor: Tensor) -> dict[str, Any]:
    return {
        "size": list(tensor.shape),
        "stride": list(tensor.stride()),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }


def _compute_capability(device: str) -> int:
    """10 * major + minor of a CUDA device; 0 for the CPU."""
    if device == "cpu":
        return 0
    if device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("device='cuda' needs a GPU; name an architecture, such as 'sm_90'")
        major, minor = torch.cuda.get_device_capability()
        return 10 * major + minor
    if match := re.fullmatch(r"sm_(\d{2,3})", device):
        return int(match[1])
    raise ValueError(f"device must be 'cpu', 'cuda' or like 'sm_90', got {device!r}")
