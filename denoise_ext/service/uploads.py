"""Bodies of requests: read with bounds on size, time and the memory of all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from denoise_ext.service.errors import Refused, too_busy

FIRST_SECONDS = 20.0
"""How long a body may take, and the answer's own way back, ..."""
BYTES_PER_SECOND = 64 << 10
"""... and a second more for each so many bytes."""


def seconds_for(size: int) -> float:
    """How long so many bytes may be on their way."""
    return FIRST_SECONDS + size / BYTES_PER_SECOND


class Budget:
    """Bytes that all uploads and results in hand share."""

    most: int
    used: int

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    @asynccontextmanager
    async def share(self) -> AsyncIterator[Share]:
        """What one request holds of it, given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.used -= share.size


class Share:
    """The bytes of one request."""

    size: int

    def __init__(self, budget: Budget) -> None:
        self._budget, self.size = budget, 0

    def add(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            Refused: 429 where all requests together would hold more than the budget.
        """
        if self._budget.used + size > self._budget.most:
            raise too_busy("the service holds as many bytes of pictures as it may: try again")
        self.grow(size)

    def grow(self, size: int) -> None:
        """Hold so many bytes more, or fewer, whatever the budget: they are there already."""
        self._budget.used += size
        self.size += size


async def read_body(request: Request, max_bytes: int, share: Share) -> bytearray:
    """The body of a request.

    Raises:
        Refused: 408 too slow, 411 and 413 no or too large a length, 415 a form, 429 no memory left,
            400 empty.
        starlette.requests.ClientDisconnect: the client has gone.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refused(415, "a form is not read: the body must be the image itself")
    length = request.headers.get("content-length")
    if length is not None and int(length) > max_bytes:  # digits: the HTTP parser sees to that
        raise _too_large(max_bytes)
    body, loop = bytearray(), asyncio.get_running_loop()
    start = loop.time()
    try:
        async with asyncio.timeout(FIRST_SECONDS) as limit:
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    raise _too_large(max_bytes)
                share.add(len(chunk))
                body += chunk
                limit.reschedule(start + seconds_for(len(body)))
    except TimeoutError:
        raise Refused(
            408, f"the body came too slowly: {len(body)} bytes in {loop.time() - start:.0f} s"
        ) from None
    if not body:
        raise Refused(400, "the body is empty: it must be an image")
    return body


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, f"the body has more than {max_bytes} bytes, the limit of this service")
