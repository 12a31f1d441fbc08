"""No call leaves anything behind in the heap.

A few forgotten bytes per call matter more than their number: lying between images they keep the
heap from using that room again, and a training run grows until the system ends it.
"""

from __future__ import annotations

import ctypes
import gc

import pytest
import torch
from cases import CASES, DIFFERENTIABLE, make_tensors
from op_checks import leaves, with_gradient

CALLS = 200
# Less than the smallest block that malloc hands out, per call: one forgotten block a call is seen,
# caches that grow now and then are not.
ALLOWED = 16 * CALLS


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def bytes_in_use() -> int:
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("needs glibc 2.33 or newer, whose malloc tells what is in use")
    mallinfo.restype = MallInfo
    gc.collect()
    info = mallinfo()
    return info.uordblks + info.hblkhd


def growth(function) -> int:
    """Bytes more in use after CALLS calls; again, at most twice, where it is too much.

    Caches fill up in the first calls. What leaks grows each time.
    """
    for _ in range(3):
        before = bytes_in_use()
        for _ in range(CALLS):
            function()
        more = bytes_in_use() - before
        if more < ALLOWED:
            break
    return more


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward(case, one_thread):
    call = next(iter(case.small_calls.values()))
    tensors = make_tensors(call, torch.float32)
    assert growth(lambda: case.op(**tensors, **call.options)) < ALLOWED


@pytest.mark.parametrize("case", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_backward(case, one_thread):
    call = next(iter(case.small_calls.values()))
    tensors = leaves(make_tensors(call, torch.float32))
    wanted = list(with_gradient(tensors).values())

    def function():
        torch.autograd.grad(case.op(**tensors, **call.options).sum(), wanted)

    assert growth(function) < ALLOWED


def test_packed_weights_and_given_memory(one_thread):
    x, weight = torch.rand(1, 3, 4, 4), torch.rand(2, 3, 3, 3)
    out = torch.empty(1, 2, 4, 4)
    raw = torch.ops.denoise_ext

    def function():
        packed = raw.conv2d_pack(weight, "direct")
        raw.conv2d_out(
            x, weight, packed, None, [1, 1], [1, 1], [1, 1], 1, "constant", "relu", 0.0,
            None, None, "before", "direct", out,
        )  # fmt: skip

    assert growth(function) < ALLOWED
