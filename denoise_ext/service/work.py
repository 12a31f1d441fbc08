"""The way of a request through threads: bounded in number, in order, gone when its client is.

One thread computes, as each kernel uses all cores. Two read and write, so that the next picture is
read and the last one written meanwhile. Parts for pages have a thread of their own: a slider does
not wait for a large picture.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from denoise_ext.service.errors import Refused, too_busy
from denoise_ext.service.pictures import Timed

T = TypeVar("T")

AT_ONCE = 2
"""Pictures that are decoded in memory: one is computed, one is read or written."""
_PARTS = 16  # that wait or are computed


class Work:
    """Threads, and how many requests they are for.

    Args:
        most: requests with a picture in hand.
        seconds: from the start of the work to its end.
    """

    most: int
    in_hand: int
    parts: int

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self._seconds = most, seconds
        self.in_hand = self.parts = 0
        self._decoded = asyncio.Semaphore(AT_ONCE)
        self._files = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="files")
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._views = ThreadPoolExecutor(1, thread_name_prefix="views")

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place among the pictures in hand; Refused (429) where there is none."""
        if self.in_hand >= self.most:
            raise too_busy(f"{self.most} pictures are in hand, and no more may be: try again")
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1

    @asynccontextmanager
    async def decoded(self, timed: Timed) -> AsyncIterator[None]:
        """A place among the pictures that are decoded; waits for it, first come first served."""
        start = time.perf_counter()
        async with self._decoded:
            timed.add("wait", start)
            yield

    async def file(self, timed: Timed, stage: str, function: Callable[..., T], *args: Any) -> T:
        """Run a function that reads or writes."""
        return await _in_thread(self._files, timed, stage, function, *args)

    async def compute(self, timed: Timed, stage: str, function: Callable[..., T], *args: Any) -> T:
        """Run a function that computes."""
        return await _in_thread(self._compute, timed, stage, function, *args)

    async def view(
        self, timed: Timed, function: Callable[..., T], *args: Any, stage: str = "denoise"
    ) -> T:
        """Compute something for a page; Refused (429) where too many wait."""
        if self.parts >= _PARTS:
            raise too_busy(f"{_PARTS} requests of pages wait already: try again")
        self.parts += 1
        try:
            return await _in_thread(self._views, timed, stage, function, *args)
        finally:
            self.parts -= 1

    async def in_time(self, work: Any, gone: Any) -> Any:
        """The result of a coroutine, unless it takes too long or the client goes.

        Args:
            work: a coroutine.
            gone: a coroutine that ends when the client has gone.

        Raises:
            Refused: 504 after the time limit.
            asyncio.CancelledError: the client has gone.
        """
        task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone)
        try:
            await asyncio.wait(
                {task, watch}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if watch.done():
                raise ClientGone
            raise Refused(504, f"not done in {self._seconds:g} s, the time limit of this service")
        finally:
            watch.cancel()
            task.cancel()

    def close(self) -> None:
        """End the threads. What has begun is finished, what waits is not begun."""
        for pool in (self._files, self._compute, self._views):
            pool.shutdown(wait=True, cancel_futures=True)


class ClientGone(Exception):
    """The client has closed the connection: nobody waits for an answer."""


async def _in_thread(
    pool: ThreadPoolExecutor, timed: Timed, stage: str, function: Callable[..., T], *args: Any
) -> T:
    """Run a function in a thread. When cancelled, wait for one that runs: it holds memory."""
    waiting = time.perf_counter()

    def run() -> T:
        timed.add("wait", waiting)
        start = time.perf_counter()
        try:
            return function(*args)
        finally:
            timed.add(stage, start)

    future = pool.submit(run)
    result = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if not future.cancel():
            await asyncio.wait({result})
            result.exception()  # looked at: nobody else will
        raise
