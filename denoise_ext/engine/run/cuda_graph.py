"""A plan's steps on a GPU as one CUDA graph: recorded once, then launched by a single call.

A small image's kernels are shorter than the microseconds that Python takes to launch each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph

# Recording waits for all devices and empties PyTorch's cache of free memory: one at a time.
_one_at_a_time = threading.Lock()


def obstacle(graph: Graph, device: torch.device) -> str | None:
    """Why the steps of ``graph`` cannot be recorded, or None."""
    elsewhere = {v.device for v in graph.values() if v.device != device}
    if elsewhere:  # a graph repeats what the GPU did, not what the processor computed meanwhile
        return f"a tensor is on {', '.join(sorted(map(str, elsewhere)))}"
    return None


class Recorder:
    """Record what ``launch`` enqueues at the first call; replay it afterwards.

    A graph's kernels read and write the addresses they were recorded with; so inputs are copied in
    and results out (PyTorch, CUDA semantics, "CUDA Graphs").

    Args:
        launch: takes the inputs, returns the results' leaves.
        copied: for each leaf whether it lies in memory that the next replay overwrites.
        device: where.
    """

    def __init__(
        self, launch: Callable[[list[Tensor]], list[Any]], copied: list[bool], device: torch.device
    ) -> None:
        self._launch, self._copied, self._device = launch, copied, device
        self._tried = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._results: list[Any] = []
        self.failure: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether it has a graph."""
        return self._graph is not None

    def __call__(self, inputs: list[Tensor]) -> list[Any]:
        """Run ``launch(inputs)``, recorded or not."""
        if torch.cuda.is_current_stream_capturing():  # the caller records: these steps among others
            return self._launch(inputs)
        if not self._tried:
            self._tried = True
            self._record(inputs)
        if self._graph is None:
            return self._launch(inputs)
        self._copy_in(inputs)
        self._graph.replay()
        return [
            leaf.clone() if copied else leaf
            for leaf, copied in zip(self._results, self._copied, strict=True)
        ]

    def _copy_in(self, inputs: list[Tensor]) -> None:
        for own, given in zip(self._inputs, inputs, strict=True):
            if 0 in own.stride():  # expanded: PyTorch refuses to write one element several times
                own, given = _unexpanded(own), _unexpanded(given)
            own.copy_(given)

    def _record(self, inputs: list[Tensor]) -> None:
        current = torch.cuda.current_stream(self._device)
        # Memory allocated in inference mode could not be written to outside of it later.
        with (
            torch.inference_mode(False), torch.no_grad(), _one_at_a_time,
            torch.cuda.device(self._device),
        ):  # fmt: skip
            # One of this device: torch.cuda.graph's own belongs to the device it was first used on.
            stream = torch.cuda.Stream(self._device)
            stream.wait_stream(current)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.stream(stream):
                    self._inputs = [
                        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
                        for x in inputs
                    ]
                    self._copy_in(inputs)
                    # The warm-up: libraries load kernels and make this thread's handles in it.
                    self._launch(list(self._inputs))
                # Other threads may allocate memory meanwhile.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._results = self._launch(list(self._inputs))
                self._graph = graph
            except RuntimeError as error:  # a step that waits for the GPU, for instance
                self.failure = str(error).strip().splitlines()[0]
                self._inputs, self._results = [], []
            finally:
                # A recording that fails leaves its stream the current one.
                torch.cuda.set_stream(current)
                current.wait_stream(stream)


def _unexpanded(x: Tensor) -> Tensor:
    """The elements of ``x`` that lie apart in memory."""
    for dim, (size, step) in enumerate(zip(x.shape, x.stride(), strict=True)):
        if step == 0 and size > 1:
            x = x.narrow(dim, 0, 1)
    return x
