"""A GPU whose kernels are measured by a fake clock: the emulator, and the operators' own tuner."""

from __future__ import annotations

import cuda_emulator
import pytest
import torch

from denoise_ext._loader import native
from denoise_ext.engine.fuse import conv
from denoise_ext.ops import _autotune
from denoise_ext.ops._autotune import PYTORCH, Tuner
from denoise_ext.ops.tuned import Tuned

WITH_CUDA = native().build_info()["cuda"]


@pytest.fixture
def machine(monkeypatch):
    """(capturing, fastest): whether a graph is recorded, and which contender is fastest."""
    if cuda_emulator.missing() or not WITH_CUDA:
        pytest.skip("needs the emulator and a build with CUDA kernels")
    preferred, used = [""], []

    def prefer(names: str) -> str:
        before, preferred[0] = preferred[0], names
        used.append(names)
        cuda_emulator.emulator().configure(variant=names)
        return before

    def clock(call):
        used.clear()
        call()
        theirs = getattr(call.func, "__name__", "").endswith("by_pytorch")
        return 1.0 if fastest[0] in used or (theirs and fastest[0] == PYTORCH) else 2.0

    fastest = [""]
    monkeypatch.setattr(_autotune, "TUNER", Tuner(clock, prefer))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    capturing = [False]
    with cuda_emulator.emulated_cuda():
        yield capturing, fastest


@pytest.fixture
def planned_as_on_a_gpu(machine, monkeypatch):
    """Plans of CPU tensors whose steps are those that a GPU would get."""
    monkeypatch.setattr(conv, "_writer", lambda op, device, packed: Tuned(op, packed))
    monkeypatch.setattr(conv.ConvSite, "_packed", lambda *_: None)
    direct = lambda self: ["auto" if self.transposed else "direct"]  # noqa: E731
    monkeypatch.setattr(conv.ConvSite, "variants", direct)
    return machine
