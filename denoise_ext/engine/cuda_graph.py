"""A plan's steps on a GPU as one CUDA graph: recorded once, then launched by a single call.

A small image's kernels are shorter than the microseconds that Python takes to launch each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.graph import Graph

# torch.cuda.graph records on one stream of its own per process.
_one_at_a_time = threading.Lock()


def obstacle(graph: Graph, device: torch.device) -> str | None:
    """Why the steps of ``graph`` cannot be recorded, or None."""
    elsewhere = {v.device for v in graph.values() if v.device != device}
    if elsewhere:  # a graph repeats what the GPU did, not what the processor computed meanwhile
        return f"a tensor is on {', '.join(sorted(map(str, elsewhere)))}"
    return None


class Recorder:
    """Calls ``launch``, which enqueues kernels; records them at the second call and replays them.

    The first call is the warm-up that recording needs: libraries load kernels and choose algorithms
    in it.  A graph's kernels read and write the addresses they were recorded with; so inputs are
    copied in and results out (PyTorch, CUDA semantics, "CUDA Graphs").

    Args:
        launch: takes the inputs, returns the results' leaves.
        copied: for each leaf whether it lies in memory that the next replay overwrites.
        device: where.
    """

    def __init__(
        self, launch: Callable[[list[Tensor]], list[Any]], copied: list[bool], device: torch.device
    ) -> None:
        self._launch, self._copied, self._device = launch, copied, device
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._results: list[Any] = []
        self.failure: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether it has a graph."""
        return self._graph is not None

    def __call__(self, inputs: list[Tensor]) -> list[Any]:
        """``launch(inputs)``, by one way or the other."""
        if torch.cuda.is_current_stream_capturing():  # the caller records: these steps among others
            return self._launch(inputs)
        self._calls += 1
        if self._calls == 2:
            self._record(inputs)
        if self._graph is None:
            return self._launch(inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return [
            leaf.clone() if copied else leaf
            for leaf, copied in zip(self._results, self._copied, strict=True)
        ]

    def _record(self, inputs: list[Tensor]) -> None:
        # Memory allocated in inference mode could not be written to outside of it later.
        with torch.inference_mode(False), torch.no_grad(), _one_at_a_time:
            self._inputs = [
                torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
                for x in inputs
            ]
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads may allocate memory meanwhile.
                with (
                    torch.cuda.device(self._device),
                    torch.cuda.graph(graph, capture_error_mode="thread_local"),
                ):
                    self._results = self._launch(list(self._inputs))
            except RuntimeError as error:  # a step that waits for the GPU, for instance
                self.failure = str(error).strip().splitlines()[0]
                self._inputs, self._results = [], []
            else:
                self._graph = graph
