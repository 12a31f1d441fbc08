"""Which kernel a call would take, and why the others would not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from denoise_ext._loader import native
from denoise_ext.ops._autotune import report

# Operators whose kernels are chosen by shapes, strides and dtypes alone.
_EXPLAINED = (
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "gaussian_blur2d",
    "gaussian_blur2d_backward",
    "bilateral_blur",
    "joint_bilateral_blur",
    "joint_bilateral_blur_backward",
    "block_match",
    "block_warp",
    "block_warp_backward",
    "recurrent_fuse",
    "recurrent_fuse_backward",
    "layer_norm2d",
    "group_norm",
)


# Of these, those that PyTorch computes on a GPU where the build has no CUDA kernels.
_BY_PYTORCH = ("layer_norm2d", "group_norm")


class _Recorder(TorchDispatchMode):
    """Keeps the last call of one of our operators, with all arguments resolved."""

    def __init__(self) -> None:
        super().__init__()
        self.call: tuple[Any, tuple[Any, ...]] | None = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.namespace == "denoise_ext":
            self.call = func, args
        return output


def explain(
    op: Callable[..., Tensor],
    *args: Any,
    device: str = "cpu",
    backward: bool = False,
    **kwargs: Any,
) -> str:
    """Name the kernel that ``op(*args, **kwargs)`` would run on ``device``.

    The operator's own code chooses.  Nothing is computed: only shapes, strides and dtypes of the
    tensors matter, so tensors may be on any device, and ``device`` need not exist.

    Args:
        op: an operator of :mod:`denoise_ext.ops`, for example ``ops.conv2d``; or a filter's
            gradients, ``torch.ops.denoise_ext.gaussian_blur2d_backward`` or
            ``joint_bilateral_blur_backward``.
        args: its arguments.
        device: ``"cpu"``, ``"cuda"`` (the current GPU) or an architecture such as ``"sm_90"``.
        backward: explain the gradients instead, of the tensors that require one, or of all
            arguments if none does.
        kwargs: its keyword arguments.

    Returns:
        A line per kernel, the chosen one first: its name, on a GPU with the estimated time by which
        kernels are compared (not a measurement), and for the others the reason. Gradients
        that kernels of their own compute have a paragraph each, headed by the gradient's name.
        With ``device="cuda"`` a last line has what was measured for a convolution of this geometry
        in this process, and what serves it therefore.

    Raises:
        ValueError: unknown device; or what ``op`` raises for these arguments.
        RuntimeError: the native library is missing, or ``device="cuda"`` without a GPU.

    Example:
        >>> x, weight = torch.rand(1, 64, 32, 32), torch.rand(64, 64, 3, 3)
        >>> report = denoise_ext.ops.explain(denoise_ext.ops.conv2d, x, weight, padding=1)
        >>> "chosen" in report.splitlines()[0]
        True
    """
    capability = _compute_capability(device)
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    described = _Described()
    args, kwargs = tree_map_only(Tensor, described, (args, kwargs))
    if backward and not any(x.requires_grad for x in tensors):
        args, kwargs = tree_map_only(Tensor, Tensor.requires_grad_, (args, kwargs))
    recorder = _Recorder()
    with torch.set_grad_enabled(backward), recorder:
        output = op(*args, **kwargs)
        if backward and isinstance(output, Tensor):
            _differentiate(output, tree_leaves((args, kwargs)))
    if recorder.call is None:
        raise ValueError(f"op must be an operator of denoise_ext.ops, got {op!r}")
    func, values = recorder.call
    name = func._schema.name.split("::")[1]
    if name not in _EXPLAINED:
        raise ValueError(f"op must be one of {', '.join(_EXPLAINED)}, got {name}")
    if capability and name in _BY_PYTORCH and not native().build_info()["cuda"]:
        return f"{name}: this build has no CUDA kernels, PyTorch's own operators run"
    values = tree_map_only(Tensor, described.missing, values)  # such as numbers made a tensor
    key = torch._C.DispatchKey.CUDA if capability else torch._C.DispatchKey.CPU
    kernel = partial(func.redispatch, torch._C.DispatchKeySet(key), *values)
    text = native().explain(kernel, capability)
    has_kernels = not capability or native().build_info()["cuda"]  # else the text has the reason
    if has_kernels and ": chosen" not in text:
        return "no kernel: input is empty, there is nothing to compute"
    if device == "cuda" and (measured := report(func, values, torch.cuda.current_device())):
        text += f"\n{measured}"
    return text


class _Described:
    """Gives meta tensors of the shapes, strides and dtypes of others; the same one for the same."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._known:
            self._known[id(tensor)] = tensor, self._describe(tensor)
        return self._known[id(tensor)][1]

    def missing(self, tensor: Tensor) -> Tensor:
        """The tensor itself, if it is or shows one that was given before; else its description."""
        known = tensor.device.type == "meta" and tensor.storage_offset() > 0
        return tensor if known else self(tensor)

    def _describe(self, tensor: Tensor) -> Tensor:
        # A meta tensor's address is its offset in bytes. Each has one of its own, which is aligned
        # and not 0: the address 0 is for tensors that are not given.
        offset = 4096 * (1 + len(self._known))
        extent = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride()) if n)
        memory = torch.empty(offset + extent, dtype=tensor.dtype, device="meta")
        described = memory.as_strided(tensor.shape, tensor.stride(), offset)
        return described.requires_grad_(tensor.requires_grad)


def _differentiate(output: Tensor, arguments: list[Any]) -> None:
    leaves = [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]
    torch.autograd.grad(output, leaves, torch.empty_like(output))


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
