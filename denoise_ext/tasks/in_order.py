"""Work on the items of a stream in threads; results come in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def in_order(work: Callable[[Item], Done], items: Iterable[Item], workers: int) -> Iterator[Done]:
    """Yield ``work(item)`` of each item, computed by `workers` threads.

    At most ``2 * workers`` items are taken ahead of the result that is waited for.  An exception is
    raised where its result would come, and ends the iteration.
    """
    waiting: deque[Future[Done]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="denoise")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
