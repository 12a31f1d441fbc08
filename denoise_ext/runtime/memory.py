"""Count a network's memory per pixel; find the free memory."""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from denoise_ext.analysis.geometry import example, without_data
from denoise_ext.engine.capture.shapes import POINTWISE, result_of
from denoise_ext.models import Network
from denoise_ext.runtime.from_module import FromModule

ENOUGH = 1 << 30
"""Default bytes of working memory. More makes tiles larger, not faster. A fixed number gives the
same tiles on every machine."""

# Bytes besides the network for each number of its inputs, outputs and states: the window in float32
# and the network's copy of it, the result in float32 and in the image's type.
_AROUND = 16
# And where a CUDA graph is recorded: its own inputs and results in float32, and the results' copy.
_RECORDED = 12
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def bytes_per_pixel(network: Network, dtype: torch.dtype, recorded: bool = False) -> float:
    """Return the bytes that an image takes per pixel of the reference grid, all ports included.

    The network runs once on tensors without data, and the largest number of live bytes is counted.
    The plans of `denoise_ext.accelerate` place the same tensors, or fewer, in one block. A network
    that depends on values runs on a tiny image instead.  `recorded`: plans are CUDA graphs.
    """
    try:
        try:
            most = _most_per_pixel(without_data(network).eval().to(dtype))
        except Exception:  # a forward may raise anything without data
            most = _most_per_pixel(copy.deepcopy(network).eval().to(dtype))
    except Exception as error:  # another's copying and forward may raise anything
        if not isinstance(network, FromModule):
            raise
        raise ValueError(
            f"{error}; this was a run that counts memory: tile=None computes images as a whole,"
            " uncounted"
        ) from error
    signature = network.signature
    states = tuple(signature.state.values())  # taken and given
    ports = (*signature.inputs.values(), *signature.outputs.values(), *states, *states)
    numbers = sum(port.channels * port.scale**2 for port in ports if port.kind == "image")
    return most + (_AROUND + (_RECORDED if recorded else 0)) * float(numbers)


def _most_per_pixel(network: Network) -> float:
    # A module from elsewhere may pool deeper than its stride.
    side = (64 if isinstance(network, FromModule) else 16) * network.stride
    inputs, state = example(network, side)
    count = _LiveBytes()
    with torch.no_grad(), count:
        if isinstance(network, FromModule):  # its forward names what is wrong with the module
            network(inputs["image"], 0.0)
        else:
            network.compute_any_size(inputs, state)
    return count.most / side**2


class _LiveBytes(TorchDispatchMode):
    """Counts the live bytes of all tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._tensors: Counter[int] = Counter()  # by storage

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler to skip it."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        without = any(x.is_meta for x in tensors)
        result = _result(func, args, kwargs) if without else func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        self.most = max(self.most, self.now)
        return result

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._tensors[key] += 1
        if self._tensors[key] == 1:
            self.now += size
        weakref.finalize(tensor, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._tensors[key] -= 1
        if self._tensors[key] == 0:
            self.now -= size


def _result(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``func`` returns, its strides aside: PyTorch's rules for these load its compiler."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    if func in POINTWISE and len({x.dtype for x in tensors}) == 1:
        return tensors[0].new_empty(np.broadcast_shapes(*(x.shape for x in tensors)))
    if func is torch.ops.aten.mean.dim and not kwargs and args[2:] == (True,):
        dims = {d % args[0].dim() for d in args[1]}
        return args[0].new_empty([1 if d in dims else n for d, n in enumerate(args[0].shape)])
    return result_of(func, args, kwargs)


def available(device: torch.device) -> int | None:
    """Free bytes: of the GPU, or of the machine and of the container it runs in; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_machine(), *(_container(*files) for files in _CGROUPS)]
    return min((x for x in free if x is not None), default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _container(limit: str, usage: str) -> int | None:
    try:
        return max(0, int(Path(limit).read_text()) - int(Path(usage).read_text()))
    except (OSError, ValueError):  # none, or "max"
        return None
