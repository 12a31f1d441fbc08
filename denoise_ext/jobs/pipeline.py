"""Run stages concurrently, in threads, over a stream of items: bounded memory, any order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from denoise_ext._openmp import release_threads

_END = object()


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline."""

    function: Callable[[Any], Any]
    """Takes what the stage before returned (the first: the item)."""
    threads: int = 1
    prepare: Callable[[], object] = lambda: None
    """Called once in each thread, first."""


@dataclass(frozen=True)
class Finished:
    """An item and its result."""

    item: Any
    value: Any = None
    """What the last stage returned."""
    error: Exception | None = None
    """What a stage raised; the later ones have then not seen the item."""


class Done(Exception):
    """Raised by a stage to end an item early, with a value and no error."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def run_stages(
    items: Iterable[Any], stages: list[Stage], waiting: int = 1, *, wait_for_items: bool = True
) -> Generator[Finished, None, None]:
    """Send every item through all stages, each stage in threads of its own.

    At most ``sum of threads + waiting x (number of stages - 1)`` items are under way at a time,
    including finished ones that the caller has not read. Memory is bounded for any number of items.
    Closing the iterator (or leaving its loop) ends the threads after their current items.

    Args:
        items: iterated in a thread of its own, as fast as there is room.
        stages: what to do, in order.
        waiting: how many items may lie between two stages.
        wait_for_items: False: closing does not wait for the next item, as from a silent pipe.
    """
    run = _Run(stages, waiting, wait_for_items)
    try:
        run.start(items)
        yield from run.results()
    finally:
        run.stop()


class _Run:
    def __init__(self, stages: list[Stage], waiting: int, wait_for_items: bool) -> None:
        self._wait_for_items = wait_for_items
        self._room = threading.Semaphore(
            sum(s.threads for s in stages) + waiting * (len(stages) - 1)
        )
        self._stopped = threading.Event()
        self._stages = stages
        self._queues: list[queue.SimpleQueue[Any]] = [
            queue.SimpleQueue() for _ in range(len(stages) + 1)
        ]
        self._left = [s.threads for s in stages]
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._feed_error: Exception | None = None

    def start(self, items: Iterable[Any]) -> None:
        release_threads()  # this thread waits for results from here on
        self._spawn(self._feed, items)
        for index, stage in enumerate(self._stages):
            for _ in range(stage.threads):
                self._spawn(self._work, index, stage)

    def results(self) -> Iterator[Finished]:
        while (finished := self._queues[-1].get()) is not _END:
            self._room.release()
            yield finished
        if self._feed_error is not None:
            raise self._feed_error

    def stop(self) -> None:
        self._stopped.set()
        self._room.release()  # the feeding thread may be waiting for room
        for thread in self._threads[0 if self._wait_for_items else 1 :]:  # the feeding one is first
            thread.join()

    def _spawn(self, function: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _feed(self, items: Iterable[Any]) -> None:
        try:
            for item in items:
                self._room.acquire()
                if self._stopped.is_set():
                    break
                self._queues[0].put((item, item))
        except Exception as error:  # the caller's iterable: raised where the results are taken
            self._feed_error = error
        finally:
            self._end(0)

    def _end(self, index: int) -> None:
        """End the queue for every thread of a stage, or for the consumer after the last stage."""
        readers = self._stages[index].threads if index < len(self._stages) else 1
        for _ in range(readers):
            self._queues[index].put(_END)

    def _work(self, index: int, stage: Stage) -> None:
        own, following = self._queues[index], self._queues[index + 1]
        last = index + 1 == len(self._stages)
        stage.prepare()
        while (entry := own.get()) is not _END:
            item, value = entry
            if self._stopped.is_set():
                continue
            try:
                value = stage.function(value)
            except Done as done:
                self._queues[-1].put(Finished(item, done.value))
            except Exception as error:  # one bad item never ends the others
                self._queues[-1].put(Finished(item, error=error))
            else:
                following.put(Finished(item, value) if last else (item, value))
            del entry, value  # held until the next item comes otherwise
        with self._lock:
            self._left[index] -= 1
            ended = self._left[index] == 0
        if ended:
            self._end(index + 1)
