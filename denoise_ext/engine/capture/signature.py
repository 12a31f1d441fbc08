"""Decide from a call's arguments and state whether a plan may serve it, and which one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.utils import _pytree as pytree

PLAIN = (bool, int, float, str, type(None), torch.dtype)


def is_ordinary(args: tuple[Any, ...], kwargs: dict[str, Any], grad: bool) -> bool:
    """Whether the call does not require the original, as gradients and autocast do.

    Args:
        grad: whether gradients are being recorded for whatever these arguments meet.
    """
    if grad or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]  # not in its `__all__`
        return False
    if modules._global_forward_hooks or modules._global_forward_pre_hooks:
        return False
    tensors = tensors_in(args, kwargs)
    return not (
        any(type(x) not in (Tensor, nn.Parameter) for x in tensors)
        or any(torch.is_autocast_enabled(device) for device in {x.device.type for x in tensors})
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
    )


def tensors_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments, nested ones included."""
    if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
        return [args[0]]
    return [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]


def without_numbers(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """A call's key without the values of its ints and floats."""
    return tuple(
        part[0] if type(part) is tuple and part[:1] in ((int,), (float,)) else part for part in key
    )


def call_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Tensor]]:
    """The key that selects a call's plan, and its tensors; None if no plan is possible."""
    leaves: Sequence[Any]
    parts: list[Any]
    if not kwargs and all(a is None or type(a) is Tensor for a in args):  # no nest to take apart
        leaves, parts = args, [len(args)]
    else:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        parts = [spec]
    tensors = []
    for leaf in leaves:
        if type(leaf) in (Tensor, nn.Parameter):
            if leaf.layout != torch.strided:
                return None, []
            tensors.append(leaf)
            parts.append((leaf.shape, leaf.stride(), leaf.dtype, leaf.device))
        elif isinstance(leaf, PLAIN):
            # repr: -0.0 equals 0.0, and is not the same.
            parts.append((type(leaf), repr(leaf) if isinstance(leaf, float) else leaf))
        else:
            return None, []
    return tuple(parts), tensors
