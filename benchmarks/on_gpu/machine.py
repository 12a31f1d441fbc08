"""Where the benchmark runs: on a GPU, or as a dry run on the emulated kernels without any clock."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from denoise_ext._timing import Timing, interleaved, timing
from harness.cases import Call

SHORTEST_REPLAY_MS = 0.3  # an event's clock has steps of half a microsecond
L2_MULTIPLE = 4  # all sets of tensors are this many times the cache: none is still in it
MOST_CALLS = 64  # of one replay


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TimeoutError in the middle of whatever Python does after so many seconds."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Gpu:
    """The current CUDA device."""

    device = "cuda"
    dry = False
    explained_as = "cuda"

    def __init__(self) -> None:
        self.properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.cache_bytes = self.properties.L2_cache_size
        torch.backends.cudnn.benchmark = True  # cuDNN takes its fastest algorithm
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, for every contender
        torch.backends.cuda.matmul.allow_tf32 = False

    def operators(self):
        """The context in which ``torch.ops.denoise_ext`` runs the kernels under test."""
        return nullcontext()

    def facts(self) -> dict[str, object]:
        p = self.properties
        return {
            "gpu": p.name,
            "capability": f"{p.major}.{p.minor}",
            "multiprocessors": p.multi_processor_count,
            "memory_gib": round(p.total_memory / 2**30, 1),
            "l2_mib": round(p.L2_cache_size / 2**20, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }

    def compile(self, function: Callable[..., object]) -> Callable[..., object]:
        # "max-autotune" with the CUDA graphs that every contender has here. Its own graphs would
        # copy the inputs in every call.
        return torch.compile(function, mode="max-autotune-no-cudagraphs", fullgraph=True)

    def set_count(self, bytes_per_call: int) -> int:
        """How many sets of tensors to go through so that none is found in the L2 cache."""
        wanted = -(-L2_MULTIPLE * self.cache_bytes // max(bytes_per_call, 1))
        return min(max(wanted, 2), MOST_CALLS)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def release(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def milliseconds(self, replay: Call) -> float:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def record(self, calls: list[Call]) -> tuple[Call, bool]:
        """(one launch of all calls, whether it is a CUDA graph).

        The calls' outputs are kept while recording, so that each has memory of its own.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # lazy initialisation must not be recorded
            for call in calls[:2]:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                outputs = [call() for call in calls]
        except RuntimeError:
            torch.cuda.synchronize()
            return lambda: [call() for call in calls], False
        del outputs
        return graph.replay, True


class DryRun:
    """The CPU, on which our operators run their emulated CUDA kernels; nothing is timed."""

    device = "cpu"
    dry = True
    explained_as = "sm_90"
    cache_bytes = 0

    def operators(self):
        from cuda_emulator import emulated_cuda

        return emulated_cuda(seed=0)

    def facts(self) -> dict[str, object]:
        return {"gpu": "none: a dry run on the emulated kernels, nothing is timed"}

    def compile(self, function: Callable[..., object]) -> Callable[..., object]:
        if "max-autotune-no-cudagraphs" not in torch._inductor.list_mode_options():
            raise RuntimeError("this torch has no compile mode max-autotune-no-cudagraphs")
        return torch.compile(function, backend="eager", fullgraph=True)

    def set_count(self, bytes_per_call: int) -> int:
        return 1

    def synchronize(self) -> None:
        pass

    def release(self) -> None:
        pass

    def milliseconds(self, replay: Call) -> float:
        return float("nan")

    def record(self, calls: list[Call]) -> tuple[Call, bool]:
        for call in calls:
            call()
        return lambda: None, False


Machine = Gpu | DryRun


@dataclass
class Recorded:
    """A contender ready to be timed."""

    replay: Call
    calls: int
    by_graph: bool


def prepare(machine: Machine, calls: list[Call]) -> Recorded:
    """Record the calls, repeated until a replay is long enough to be timed."""
    replay, by_graph = machine.record(calls)
    replay()
    took = machine.milliseconds(replay)
    repeats = 1
    if took < SHORTEST_REPLAY_MS:
        repeats = min(-(-MOST_CALLS // len(calls)), int(SHORTEST_REPLAY_MS / max(took, 1e-3)) + 1)
    if repeats > 1:
        replay, by_graph = machine.record(calls * repeats)
    return Recorded(replay, len(calls) * repeats, by_graph)


def compare(machine: Machine, recorded: dict[str, Recorded], rounds: int) -> dict[str, Timing]:
    """Interleaved timing, in seconds per call; NaN in a dry run."""
    for one in recorded.values():  # once untimed: clocks and caches
        one.replay()

    def turn(one: Recorded) -> float:
        return machine.milliseconds(one.replay) / 1e3 / one.calls

    turns = {name: partial(turn, one) for name, one in recorded.items()}
    samples = interleaved(turns, (rounds, rounds))
    return {name: timing(samples[name], one.calls) for name, one in recorded.items()}


@contextmanager
def tf32_products() -> Iterator[None]:
    """Matrix products of float32 may round their factors to tf32."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def measure_ceilings(machine: Machine, rounds: int) -> dict[str, object]:
    """What this GPU does at best: copying, and square matrix products of random values.

    (Zeros run faster.)
    """
    elements, size = (2**8, 32) if machine.dry else (2**28, 8192)
    source = torch.rand(elements, device=machine.device)
    target = torch.empty_like(source)

    def product_rate(dtype: torch.dtype, n: int) -> float:
        a = torch.rand(n, n, device=machine.device).to(dtype)
        b = torch.rand(n, n, device=machine.device).to(dtype)
        out = torch.empty_like(a)
        return 2 * n**3 / seconds(lambda: torch.mm(a, b, out=out)) / 1e9

    def seconds(call: Call) -> float:
        return compare(machine, {"": prepare(machine, [call])}, rounds)[""].median

    copied = seconds(lambda: target.copy_(source))
    with tf32_products():
        in_tf32 = product_rate(torch.float32, size)
    return {
        "copy_gb_per_s": 2 * source.nbytes / copied / 1e9,
        "gflop_per_s": {
            "bf16": product_rate(torch.bfloat16, size),
            "tf32": in_tf32,
            "float32": product_rate(torch.float32, size // 2),
        },
    }
