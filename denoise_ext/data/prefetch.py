"""Batches prepared by threads while the step before them is computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """``get(step)`` is ``make(step)``, begun early by threads; a context manager.

    Args:
        make: a function of the step alone: it may run in any thread, in any order.
        end: no step from here on is prepared.
        workers: threads, and batches that are ready or in work at most; 0: made on request.

    Example:
        >>> with denoise_ext.data.Prefetcher(lambda step: step**2, end=10, workers=2) as squares:
        ...     [squares.get(step) for step in range(4)]
        [0, 1, 4, 9]
    """

    def __init__(self, make: Callable[[int], T], end: int, workers: int) -> None:
        self._make, self._end, self._workers = make, end, workers
        self._pool = ThreadPoolExecutor(workers, "batches") if workers else None
        self._waiting: dict[int, Future[T]] = {}
        self.waited: float = 0.0  # seconds that `get` has taken so far

    def get(self, step: int) -> T:
        """The batch of ``step``; those after it are begun. Raises what ``make`` raised."""
        began = time.perf_counter()
        if self._pool is None:
            batch = self._make(step)
        else:
            ready = self._waiting.pop(step, None)
            ahead = range(step + (ready is not None), min(self._end, step + 1 + self._workers))
            for number in ahead:
                if number not in self._waiting:
                    self._waiting[number] = self._pool.submit(self._make, number)
            batch = (ready or self._waiting.pop(step)).result()
        self.waited += time.perf_counter() - began
        return batch

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
