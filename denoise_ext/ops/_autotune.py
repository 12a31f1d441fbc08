"""Kernels of convolutions on a GPU, chosen by measurement on that GPU.

The first call of a geometry times the kernels that can take it and PyTorch's own convolution,
interleaved, for a few milliseconds.  The fastest serves that geometry from then on, in this
process.  The estimated costs of ``csrc/cuda`` choose where nothing may be measured: while a CUDA
graph is recorded, under ``torch.compile``, with ``torch.use_deterministic_algorithms`` and with
``DENOISE_EXT_AUTOTUNE=0``.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from denoise_ext._loader import native
from denoise_ext._tf32 import tf32_allowed
from denoise_ext._timing import interleaved

Call = Callable[[], object]
ENABLED = os.environ.get("DENOISE_EXT_AUTOTUNE") != "0"
ESTIMATED, PYTORCH = "estimated", "PyTorch"
MOST_CHOICES = 1024
ROUNDS = 5
# A contender is a tie, which the estimated choice wins, where it saves less than this part.
TIE = 0.03
# After one turn each, contenders that take so many times the fastest's time leave.
HOPELESS = 4.0
SHORTEST_TURN = 2e-4  # seconds; below, the launch would be part of the result
_EXACT_SIZES = 16  # rows and columns below; larger ones count by their power of 2


@dataclass(frozen=True)
class Choice:
    """What serves a geometry: ``kernels`` in place of the estimated ones, or PyTorch's own."""

    kernels: str = ""  # names, a blank between them
    pytorch: bool = False
    seconds: dict[str, float] = field(default_factory=dict)  # of a call, by contender
    failed: dict[str, str] = field(default_factory=dict)  # contender -> its error

    def __str__(self) -> str:
        chosen = PYTORCH if self.pytorch else self.kernels or "the estimated choice"
        times = sorted(self.seconds.items(), key=lambda item: item[1])
        listed = [f"{name} {1e6 * seconds:.1f} us" for name, seconds in times]
        listed += [f"{name} failed: {error}" for name, error in self.failed.items()]
        return f"measured: {chosen} ({', '.join(listed)})"


class Tuner:
    """The choices of a process.

    Args:
        clock: seconds that one call takes on the GPU.
        prefer: makes this thread's calls take the named kernels; returns the names before.
        capacity: choices that are kept; the one used longest ago makes room.
    """

    def __init__(
        self,
        clock: Callable[[Call], float],
        prefer: Callable[[str], str],
        capacity: int = MOST_CHOICES,
    ) -> None:
        self._clock, self._prefer, self._capacity = clock, prefer, capacity
        self._choices: OrderedDict[Hashable, Choice] = OrderedDict()
        self._lock, self._measuring = threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return len(self._choices)

    def known(self, key: Hashable) -> Choice | None:
        """The choice for a geometry that has been measured."""
        with self._lock:
            choice = self._choices.get(key)
            if choice is not None:
                self._choices.move_to_end(key)
        return choice

    def measure(
        self, key: Hashable, steps: Sequence[Sequence[str]], ours: Call, theirs: Call | None
    ) -> Choice:
        """Time the contenders and keep what is fastest.

        ``steps``: for each kernel that a call takes, the others that could take its place;
        ``theirs``: the same result by PyTorch, if it may serve.  While another thread measures, the
        estimated choice is the answer, and nothing is kept.
        """
        if not self._measuring.acquire(blocking=False):
            return Choice()
        try:
            with torch.no_grad():
                choice = self._compare(steps, ours, theirs)
            with self._lock:
                self._choices[key] = choice
                while len(self._choices) > self._capacity:
                    self._choices.popitem(last=False)
            return choice
        finally:
            self._measuring.release()

    def follow(self, choice: Choice, ours: Call, theirs: Call | None) -> Any:
        """The result, by what was chosen."""
        if choice.pytorch and theirs is not None:
            return theirs()
        return self._with(choice.kernels, ours) if choice.kernels else ours()

    def _with(self, kernels: str, call: Call) -> object:
        before = self._prefer(kernels)
        try:
            return call()
        finally:
            self._prefer(before)

    def _compare(self, steps: Sequence[Sequence[str]], ours: Call, theirs: Call | None) -> Choice:
        contenders: dict[str, Call] = {ESTIMATED: ours}
        for names in steps:
            contenders |= {name: partial(self._with, name, ours) for name in names}
        if theirs is not None:
            contenders[PYTORCH] = theirs
        failed: dict[str, str] = {}
        first: dict[str, float] = {}
        for name, call in contenders.items():
            try:
                call()  # the first one loads code, and finds what fails
                first[name] = self._clock(call)
            except RuntimeError as error:
                failed[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
        if ESTIMATED in failed or len(first) < 2:
            return Choice(seconds=first, failed=failed)
        limit = HOPELESS * min(first.values())
        turns = {
            name: partial(self._clock, contenders[name])
            for name, seconds in first.items()
            if seconds <= limit or name == ESTIMATED
        }
        try:
            samples = interleaved(turns, (ROUNDS, ROUNDS))
        except RuntimeError as error:  # such as memory that ran out meanwhile
            return Choice(failed=failed | {"the measurement": str(error).splitlines()[0]})
        seconds = first | {name: median(turns) for name, turns in samples.items()}
        return self._fastest(steps, seconds, failed)

    @staticmethod
    def _fastest(
        steps: Sequence[Sequence[str]], seconds: dict[str, float], failed: dict[str, str]
    ) -> Choice:
        # The steps run one after the other, so what one saves adds to what another does.
        estimated = expected = seconds[ESTIMATED]
        kernels = []
        for names in steps:
            best = min((n for n in names if n in seconds), key=seconds.__getitem__, default=None)
            if best is not None and seconds[best] < (1 - TIE) * estimated:
                kernels.append(best)
                expected -= estimated - seconds[best]
        pytorch = seconds.get(PYTORCH, float("inf")) < (1 - TIE) * expected
        return Choice("" if pytorch else " ".join(kernels), pytorch, seconds, failed)


def seconds_on_gpu(call: Call) -> float:
    """What one call takes between two events of the current stream, over one turn."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    calls = 1
    while True:
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        seconds = begin.elapsed_time(end) / 1e3
        if seconds >= SHORTEST_TURN or calls >= 64:
            return seconds / calls
        calls *= 4


TUNER = Tuner(seconds_on_gpu, lambda names: native().prefer_kernels(names))


def run(op: Any, by_pytorch: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> Any:
    """``op(*arguments)`` on a GPU, by the fastest kernel that was measured.

    ``by_pytorch`` computes the same of the same arguments with PyTorch's own convolution; None:
    PyTorch is no contender.
    """
    choice = choose(op, by_pytorch, arguments)
    if choice is None:
        return op(*arguments)
    theirs = None if by_pytorch is None else partial(by_pytorch, *arguments)
    return TUNER.follow(choice, partial(op, *arguments), theirs)


def choose(
    op: Any, by_pytorch: Callable[..., Any] | None, arguments: tuple[Any, ...]
) -> Choice | None:
    """What serves this call, measured now if it is the first; None: the estimated choice."""
    if not may_follow():
        return None
    device = next(x for x in arguments if isinstance(x, Tensor)).device
    key = key_of(op, arguments, device.index)
    choice = TUNER.known(key)
    if choice is None:
        if torch.cuda.is_current_stream_capturing():
            return None
        again = repeatable(op, arguments)
        theirs = None
        if by_pytorch is not None and pytorch_may_serve(arguments):
            theirs = partial(by_pytorch, *again)
        with torch.cuda.device(device):
            steps = other_kernels(op, arguments, compute_capability(device))
            choice = TUNER.measure(key, steps, partial(op, *again), theirs)
    return choice


def repeatable(op: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with other memory for a result that lies in what it is made of."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments]
    read = {
        x.untyped_storage().data_ptr()
        for x, is_result in zip(arguments, written)
        if isinstance(x, Tensor) and not is_result
    }
    return tuple(
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
        if is_result and x.untyped_storage().data_ptr() in read
        else x
        for x, is_result in zip(arguments, written)
    )


def may_follow() -> bool:
    """Whether a measured choice may serve now; one result must not depend on a clock's."""
    return (
        ENABLED
        and not torch.are_deterministic_algorithms_enabled()
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0  # such as fake tensors
    )


def pytorch_may_serve(arguments: tuple[Any, ...]) -> bool:
    """PyTorch rounds float32 factors to tf32 by a setting of its own, "strict" never does."""
    strict = "strict" in [x for x in arguments if isinstance(x, str)]
    strict = strict and arguments[0].dtype == torch.float32
    return not (strict and tf32_allowed())


def key_of(op: Any, arguments: Sequence[Any], device: int | None) -> Hashable:
    """A geometry: what kernels are chosen by, large images by their power of 2."""
    tf32 = arguments[0].dtype == torch.float32 and tf32_allowed()
    return (op, device, tf32, *(_part(x) for x in arguments))


def _part(x: object) -> Hashable:
    if isinstance(x, Tensor):
        if x.dim() != 4:
            return (x.dtype, x.shape)
        (n, c, rows, cols), steps = x.shape, x.stride()
        aligned = x.storage_offset() * x.element_size() % 16 == 0
        return (x.dtype, n, c, _size(rows), _size(cols), steps[1] == 1, steps[3], aligned)
    return tuple(x) if isinstance(x, (list, tuple)) else x


def _size(n: int) -> int:
    return n if n < _EXACT_SIZES else -n.bit_length()


def other_kernels(op: Any, arguments: tuple[Any, ...], capability: int) -> list[list[str]]:
    """For each step of the operator the kernels that could run beside the estimated choice."""
    steps: list[list[str]] = [[]]
    for line in _explained(op, arguments, capability):
        name, _, said = line.partition(":")
        if said.startswith(" chosen"):
            steps.append([])
        elif said.startswith(" could run"):
            steps[-1].append(name)
    return [names for names in steps if names]


def compute_capability(device: torch.device) -> int:
    """Of a GPU, as 10 * major + minor."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def estimated_kernel(op: Any, arguments: tuple[Any, ...]) -> str:
    """The kernel that an operator of one step takes by the estimated costs.

    Those of the largest GPU of the architecture: on a smaller one it may be another.
    """
    return _explained(op, arguments, compute_capability(arguments[0].device))[0].partition(":")[0]


def _explained(op: Any, arguments: tuple[Any, ...], capability: int) -> list[str]:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    text = native().explain(partial(op.redispatch, key, *arguments), capability)
    return text.splitlines()


def report(op: Any, arguments: Sequence[Any], device: int) -> str | None:
    """A line on what was measured for this geometry; None where nothing was."""
    defaults = [a.default_value for a in op._schema.arguments[len(arguments) :]]
    choice = TUNER.known(key_of(op, [*arguments, *defaults], device))
    return None if choice is None else str(choice)
