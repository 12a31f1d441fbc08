"""Changes of global state that several threads make at once: made once, undone once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class SharedContext:
    """A context manager of global state for any number of threads.

    The first thread enters it, the last one leaves it. Without this, two threads that overlap
    would restore each other's state and leave one of them behind for good.

    Args:
        make: makes the context manager for one thread, each time that nobody is inside.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._count = 0
        self._context: AbstractContextManager[Any] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Be inside."""
        with self._lock:
            if self._count == 0:
                context = self._make()
                context.__enter__()
                self._context = context
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if self._count == 0 and self._context is not None:
                    self._context.__exit__(None, None, None)
