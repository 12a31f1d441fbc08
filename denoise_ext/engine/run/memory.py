"""Where a plan keeps its tensors: one block of memory, shared by those that never live together."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_HUGE_PAGE = 2 * 1024 * 1024  # bytes
_RECYCLED = 256 * 1024  # bytes from which memory is worth keeping
_MOST_IDLE = 2  # blocks of a result: the one that is read while the other one is written
_MADV_HUGEPAGE = 14  # Linux, <sys/mman.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, <malloc.h>
_LARGEST_IN_HEAP = 32 * 1024 * 1024  # bytes: the most that glibc takes for M_MMAP_THRESHOLD
_MOST_KEPT = 1 << 29  # bytes of the heap, half of the largest threshold
_OTHERS = 16 * 1024 * 1024  # bytes that others may have left free at the heap's end
_kept = 0  # bytes that the heap has been told to keep


@dataclass(eq=False)
class Buffer:
    """Memory for one tensor, or several side by side in one, from step ``first`` to ``last``."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    first: int = sys.maxsize
    last: int = -1
    offset: int = -1

    @property
    def bytes(self) -> int:
        """Its size, a multiple of the alignment."""
        elements = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        size = elements * self.dtype.itemsize
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def used_at(self, step: int) -> None:
        """Extend its life to ``step``."""
        self.first, self.last = min(self.first, step), max(self.last, step)


def place(buffers: list[Buffer]) -> int:
    """Give every buffer an offset; return the total size.

    The largest first, each into the smallest gap that fits between the buffers alive at the same
    time ("greedy by size", Pisarchyk and Lee 2020, Efficient memory management for deep neural net
    inference, with best fit).
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        together = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
        buffer.offset = _best_fit(sorted(together, key=lambda b: b.offset), buffer.bytes)
        placed.append(buffer)
    return max((b.offset + b.bytes for b in placed), default=0)


def _best_fit(occupied: list[Buffer], size: int) -> int:
    best, best_gap, end = None, None, 0
    for buffer in occupied:
        gap = buffer.offset - end
        if gap >= size and (best_gap is None or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, buffer.offset + buffer.bytes)
    return end if best is None else best


def allocate(size: int, device: torch.device) -> Tensor:
    """Uninitialised bytes; on Linux in huge pages where there are enough of them.

    A page that is touched for the first time costs a fault; of 4 KiB pages a 64 MiB tensor has
    16384.
    """
    if device.type != "cpu" or size < _HUGE_PAGE or not sys.platform.startswith("linux"):
        block = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=device)
        start = -block.data_ptr() % _ALIGNMENT
        return block[start : start + size]
    whole = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    block = torch.empty(whole + _HUGE_PAGE, dtype=torch.uint8)
    start = -block.data_ptr() % _HUGE_PAGE
    aligned = block[start : start + whole]
    # Advice: where the system has no huge pages the call fails and changes nothing.
    libc = ctypes.CDLL(None)
    libc.madvise(
        ctypes.c_void_p(aligned.data_ptr()), ctypes.c_size_t(whole), ctypes.c_int(_MADV_HUGEPAGE)
    )
    return aligned[:size]


def keep_heap(size: int) -> None:
    """Let glibc keep ``size`` free bytes of the process's heap, instead of returning them.

    glibc returns *all* free bytes at the heap's end once they are more than a threshold.  Other
    free blocks lie beside those of a call, so the threshold is ``2 * size`` and 16 MiB.

    For results that PyTorch allocates in each call.  By default glibc returns them to the system
    after each call.  The next call then has a page fault for every 4 KiB: up to half of its time.
    Blocks of more than 32 MiB never come from the heap.
    """
    global _kept
    size = min(size, _MOST_KEPT)
    if size <= _kept or not sys.platform.startswith("linux"):
        return
    _kept = size
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library: nothing to set
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        mallopt(_M_TRIM_THRESHOLD, 2 * size + _OTHERS)


def keep_heap_of(graph: Graph) -> None:
    """Let glibc keep the largest result of an operator, as it will for the plan.

    What allocates its result would else be timed with page faults that the plan has none of.
    """
    results = [v for node in graph.nodes for v in node.results if v is not None]
    on_cpu = [v.numel() * v.dtype.itemsize for v in results if v.device.type == "cpu"]
    keep_heap(max(on_cpu, default=0))


class Results:
    """Memory of a plan's results, which goes from result to result.

    A result belongs to the caller.  Once the last tensor in a block is gone, a later call may
    write the block.  A state that one call returns and the next takes lies in two blocks in turn.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int = 0  # of all blocks that may be idle

    def maker(
        self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype
    ) -> Callable[[], Tensor]:
        """A function that makes such a tensor."""
        size = Buffer(shape, stride, dtype).bytes
        if self._device.type != "cpu" or size < _RECYCLED:
            device = self._device
            return lambda: torch.empty_strided(shape, stride, dtype=dtype, device=device)
        self.bytes += _MOST_IDLE * size
        idle: list[Tensor] = []

        def make() -> Tensor:
            try:
                block = idle.pop()
            except IndexError:
                with torch.inference_mode(False):
                    block = allocate(size, self._device)
            # The tensor holds this array, and nothing else does.
            array = block.numpy()
            weakref.finalize(array, _give_back, idle, block).atexit = False
            return torch.from_numpy(array).view(dtype).as_strided(shape, stride)

        return make


def _give_back(idle: list[Tensor], block: Tensor) -> None:
    if len(idle) < _MOST_IDLE:
        idle.append(block)


def view(arena: Tensor, buffer: Buffer) -> Tensor:
    """The tensor that ``buffer`` is."""
    raw = arena[buffer.offset : buffer.offset + buffer.bytes].view(buffer.dtype)
    return raw.as_strided(buffer.shape, buffer.stride)
