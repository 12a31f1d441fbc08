"""How much memory a network takes for each pixel, and how much there is."""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from denoise_ext.models import Denoiser as Network
from denoise_ext.models import FromModule

ENOUGH = 1 << 30
"""Bytes to compute in where nothing else is asked for: more makes tiles larger, not faster, and the
same everywhere means the same tiles everywhere."""

# What surrounds the network, per pixel and channel: the window in float32, the network's copy of
# it, its result, the blend and the result in the image's type; float64 for some of them.
_AROUND = 32
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def bytes_per_pixel(network: Network, dtype: torch.dtype, channels: int) -> float:
    """Memory that denoising an image of `channels` channels takes for each pixel.

    Counted in a run on a tiny image: the most bytes that are alive at one time. The plans of
    `denoise_ext.accelerate` place the same tensors, or fewer, in one block. (A run on tensors
    without data would have torch import its compiler, which takes as long as several photographs.)
    """
    # Another's module may pool deeper than its stride says.
    side = (64 if isinstance(network, FromModule) else 16) * network.stride
    count = _LiveBytes()
    try:
        twin = copy.deepcopy(network).eval().to(dtype)
        device = next((x.device for x in (*twin.parameters(), *twin.buffers())), None)
        options = {"dtype": dtype, "device": device}
        x = torch.zeros(1, network.in_channels, side, side, **options)
        noise_map = torch.zeros(1, 1, side, side, **options) if network.needs_sigma else None
        with torch.no_grad(), count:
            run = twin if isinstance(network, FromModule) else twin.denoise_any_size
            run(x, noise_map)
    except Exception as error:  # another's copying and forward may raise anything
        if not isinstance(network, FromModule):
            raise
        raise ValueError(
            f"{error}; this was a run on {side} x {side} pixels that counts memory: tile=None"
            " computes images as a whole, uncounted"
        ) from error
    images = channels if network.in_channels == 1 else 1  # a gray network takes each by itself
    return images * count.most / side**2 + _AROUND * max(channels, network.in_channels)


class _LiveBytes(TorchDispatchMode):
    """Follows how much memory the tensors that operators return hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._tensors: Counter[int] = Counter()  # by storage

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler to skip it."""
        return False

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
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
