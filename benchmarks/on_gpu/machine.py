"""Where the benchmark runs: on a GPU, or as a dry run on the emulated kernels without any clock."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median, quantiles

import torch

Call = Callable[[], object]
SHORTEST_REPLAY_MS = 0.3  # an event's clock has steps of half a microsecond
L2_MULTIPLE = 4  # inputs and outputs in turn are this many times the cache: none is still in it
MOST_CALLS = 64  # of one replay


@dataclass(frozen=True)
class Timing:
    """Microseconds per call over the rounds; NaN in a dry run."""

    median: float
    quartile_low: float
    quartile_high: float
    rounds: int
    calls_per_replay: int
    by_graph: bool  # CUDA graph replays, or calls from Python where it could not be recorded


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
        torch.backends.cudnn.benchmark = True  # cuDNN's fastest algorithm, as a user would ask for
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, for everyone
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
        # "max-autotune" with the same CUDA graphs as everyone here; its own would add copies of
        # the inputs to every call.
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
    """Time everyone ``rounds`` times, by turns, in an order that rotates."""
    names = list(recorded)
    micros: dict[str, list[float]] = {name: [] for name in names}
    for contender in recorded.values():  # once untimed: clocks and caches
        contender.replay()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            contender = recorded[name]
            took = machine.milliseconds(contender.replay)
            micros[name].append(1e3 * took / contender.calls)
    timings = {}
    for name, values in micros.items():
        low, _, high = quantiles(values, n=4, method="inclusive")
        one = recorded[name]
        timings[name] = Timing(median(values), low, high, rounds, one.calls, one.by_graph)
    return timings


@dataclass(frozen=True)
class Ceilings:
    """What this GPU does at best, measured in the same run."""

    copy_gb_per_s: float
    bf16_tflop_per_s: float
    tf32_tflop_per_s: float
    float32_tflop_per_s: float


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


def measure_ceilings(machine: Machine, rounds: int) -> Ceilings:
    """Copying, and square matrix products of random values (zeros run faster)."""
    elements, size = (2**8, 32) if machine.dry else (2**28, 8192)
    source = torch.rand(elements, device=machine.device)
    target = torch.empty_like(source)

    def product(dtype: torch.dtype, n: int) -> Call:
        a = torch.rand(n, n, device=machine.device).to(dtype)
        b = torch.rand(n, n, device=machine.device).to(dtype)
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    def micros(call: Call) -> float:
        return compare(machine, {"": prepare(machine, [call])}, rounds)[""].median

    half = size // 2
    moved = 2 * source.nbytes
    copied = micros(lambda: target.copy_(source))
    with tf32_products():
        in_tf32 = micros(product(torch.float32, size))
    return Ceilings(
        moved / copied / 1e3,
        2 * size**3 / micros(product(torch.bfloat16, size)) / 1e6,
        2 * size**3 / in_tf32 / 1e6,
        2 * half**3 / micros(product(torch.float32, half)) / 1e6,
    )
