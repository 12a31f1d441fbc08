"""Pictures that pages look at: kept in memory for some minutes, under names nobody can guess."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from denoise_ext.service.errors import Refused
from denoise_ext.service.pictures import Looked


class Kept:
    """Pictures by name, with bounds on memory and time. For the thread of the event loop alone.

    Args:
        most: bytes of all of them.
        seconds: without use.
        clock: for tests.
    """

    def __init__(
        self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._pictures: OrderedDict[str, tuple[float, Looked]] = OrderedDict()
        self.bytes: int = 0

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, looked: Looked) -> str:
        """Keep a picture; return its name.

        Raises:
            Refused: 413 for one that alone takes more than the memory.
        """
        if looked.size > self._most:
            raise Refused(
                413, f"the picture takes {looked.size} bytes in memory, more than the {self._most}"
                " that are kept for pages; denoise it by /v1/denoise or on the command line",
            )  # fmt: skip
        self.expire()
        while self.bytes + looked.size > self._most:
            self.drop(next(iter(self._pictures)))
        name = secrets.token_urlsafe(16)
        self._pictures[name] = self._clock(), looked
        self.bytes += looked.size
        return name

    def get(self, name: str) -> Looked:
        """The picture; Refused (404) if it is not kept, or not any more."""
        self.expire()
        if name not in self._pictures:
            raise Refused(404, "the picture is not kept, or not any more: send it again")
        _, looked = self._pictures.pop(name)
        self._pictures[name] = self._clock(), looked
        return looked

    def drop(self, name: str) -> None:
        """Forget a picture, if it is there."""
        _, looked = self._pictures.pop(name, (0.0, None))
        self.bytes -= looked.size if looked else 0

    def expire(self) -> None:
        """Forget what was not used for long."""
        oldest = self._clock() - self._seconds
        while self._pictures and next(iter(self._pictures.values()))[0] < oldest:
            self.drop(next(iter(self._pictures)))
