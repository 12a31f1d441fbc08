"""What the emulator cannot show and a GPU can: CUDA graphs, streams, threads, several devices."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import pytest
import torch
from cases import CASES, Call, OpCase, make_tensors
from op_checks import check_forward, check_gradients
from real_gpu import missing_gpu
from torch import Tensor

from denoise_ext import ops

T = TypeVar("T")


pytestmark = pytest.mark.skipif(missing_gpu() is not None, reason=str(missing_gpu()))
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")

KINDS = [(torch.float32, "contiguous"), (torch.float16, "channels_last"),
         (torch.bfloat16, "strided")]  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_kind = pytest.mark.parametrize("dtype, layout", KINDS, ids=str)
SLEEP_CYCLES = 1_000_000_000  # half a second: longer than it takes to start everything behind it


def same(got: list[Tensor], expected: list[Tensor], name: str = "") -> None:
    """The same kernels on the same values: equal to the last bit."""
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{name} {text}"
        )


def forward_and_backward(case: OpCase, call: Call, tensors: dict[str, Tensor]) -> list[Tensor]:
    """The output, and the gradient of every tensor for an output's gradient of ones."""
    # Leaves of its own, so that what autograd keeps of them belongs to the stream in use.
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    output = case.op(**leaves, **call.options)
    gradients = torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))
    return [output.detach(), *gradients]


def captured(function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """A graph of what ``function`` starts, and what it returns, which a replay fills."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what happens once, such as loading kernels, is not recorded
        function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph, outputs


@every_case
@every_kind
def test_a_graph_replays_every_call_forward_and_backward(case, dtype, layout):
    calls = {name: call for name, call in case.calls.items() if 0 not in call.shapes["input"]}

    def random(seed: int) -> dict[str, dict[str, Tensor]]:
        return {n: make_tensors(call, dtype, "cuda", layout, seed) for n, call in calls.items()}

    tensors = random(0)
    graph, outputs = captured(
        lambda: {n: forward_and_backward(case, call, tensors[n]) for n, call in calls.items()}
    )
    for seed in (1, 2):
        for name, values in random(seed).items():
            for argument, x in tensors[name].items():
                x.copy_(values[argument])
        graph.replay()
        torch.cuda.synchronize()
        for name, call in calls.items():
            same(outputs[name], forward_and_backward(case, call, tensors[name]), name)


@every_case
def test_it_runs_on_the_current_stream_and_nobody_waits(case):
    call = next(iter(case.calls.values()))
    tensors = make_tensors(call, torch.float32, "cuda")
    values = make_tensors(call, torch.float32, "cuda", seed=1)
    expected = forward_and_backward(case, call, values)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # the stream's memory is there from now on
        forward_and_backward(case, call, tensors)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        for name, x in tensors.items():
            x.copy_(values[name])
        got = forward_and_backward(case, call, tensors)
    assert not stream.query()  # the GPU still sleeps, so nothing has waited for it
    stream.synchronize()
    same(got, expected)


# --- kernels with more than 48 KiB of shared memory, different ones for different shapes ----------


def conv_tensors(channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Image and weight of a 3x3 convolution.

    The kernel takes 98 KiB of shared memory for 64 channels and, on sm_90, 196 KiB for 128.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((1, channels, 40, 70), generator=generator)
    w = torch.rand((channels, channels, 3, 3), generator=generator) - 0.5
    last = {"dtype": torch.float16, "memory_format": torch.channels_last}
    return x.to("cuda", **last), w.to("cuda", **last)


def conv(x: Tensor, w: Tensor) -> Tensor:
    return ops.conv2d(x, w, padding=1, activation="relu")


def test_one_graph_with_two_shapes():
    pairs = [conv_tensors(64), conv_tensors(128), conv_tensors(64, seed=3)]
    graph, outputs = captured(lambda: [conv(x, w) for x, w in pairs])
    for x, _ in pairs:
        x.copy_(1 - x)
    graph.replay()
    torch.cuda.synchronize()
    same(outputs, [conv(x, w) for x, w in pairs])


def test_two_threads_with_two_shapes():
    """One may not take away the shared memory that the other's launch is about to ask for."""
    pairs = [conv_tensors(64), conv_tensors(128)]
    expected = [conv(x, w) for x, w in pairs]
    torch.cuda.synchronize()
    start = Barrier(len(pairs))

    def work(pair: tuple[Tensor, Tensor]) -> Tensor:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            start.wait()
            for _ in range(2000):
                output = conv(*pair)
        stream.synchronize()
        return output

    with ThreadPoolExecutor(len(pairs)) as pool:
        same(list(pool.map(work, pairs)), expected)


# --- devices -------------------------------------------------------------------------------------


def native_conv(x: Tensor, w: Tensor) -> Tensor:
    """Without the checks of ops.conv2d."""
    pairs = ([1, 1], [1, 1], [1, 1])
    options = ("none", 0.0, None, None, "before")
    return torch.ops.denoise_ext.conv2d(x, w, None, *pairs, 1, *options)


def test_a_weight_on_the_cpu_is_an_error():
    x, w = conv_tensors(8)
    message = "conv2d: weight is on cpu, but input on cuda:0; they must be on the same device"
    with pytest.raises(RuntimeError, match=message):
        native_conv(x, w.cpu())
    with pytest.raises(ValueError, match="weight must be on input's device"):
        conv(x, w.cpu())


@two_gpus
def test_a_weight_on_another_gpu_is_an_error():
    x, w = conv_tensors(8)
    with pytest.raises(RuntimeError, match="weight is on cuda:1, but input on cuda:0"):
        native_conv(x, w.to("cuda:1"))


@two_gpus
@every_case
@every_kind
def test_the_second_device(case, dtype, layout):
    """While the first is current; a kernel's shared memory is a setting of each device."""
    for call in case.calls.values():
        tensors = make_tensors(call, dtype, "cuda:1", layout)
        assert check_forward(case, call, tensors).device == torch.device("cuda:1")
        check_gradients(case, call, tensors)
        assert torch.cuda.current_device() == 0
