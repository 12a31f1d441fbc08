"""Sockets, clients that are slow on purpose, and the end of the service."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from denoise_ext.service.app import create_app
from denoise_ext.service.options import ServiceOptions

HEAD_SECONDS = 10.0
"""How long a connection may take to the end of a request's head, from its start or last answer."""
_HEAD_BYTES = 16 << 10
_MOST_CONNECTIONS = 512


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with bounds on connections and on the time without a complete head.

    uvicorn bounds the time between requests, but not that of a head which comes byte by byte, nor
    that of a body which nobody reads because the answer is sent already.
    """

    head_seconds = HEAD_SECONDS

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, {**app_state, "abort": self.abort}, _loop)
        self._head_limit: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """Drop the connection, with what is not yet sent."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a head, if there are not too many connections."""
        super().connection_made(cast("asyncio.Transport", transport))
        if len(self.connections) > _MOST_CONNECTIONS:
            self.abort()
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stop waiting once a head is complete, which makes a new cycle."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next head. It may be here already: then a cycle begins within."""
        self._wait_for_head()
        super().on_response_complete()

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._head_limit = self.loop.call_later(self.head_seconds, self.abort)

    def _stop_waiting(self) -> None:
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None


class _Server(uvicorn.Server):
    """Calls `ready` when it listens, and ends without raising the signal that ended it."""

    ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 is any free one.

    Raises:
        ValueError: an address that this machine does not have, a port that is in use or forbidden.

    Example:
        >>> listener = denoise_ext.service.bind("127.0.0.1", 0)
        >>> host, port = listener.getsockname()
        >>> listener.close()
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"host {host!r}: {reason}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ValueError(f"host {host!r}, port {port}: {error.strerror}") from None
    return listener


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(
    options: ServiceOptions,
    listener: socket.socket,
    ready: Callable[[], None] = lambda: None,
    stop_seconds: float = 30.0,
) -> None:
    """Answer requests until SIGINT or SIGTERM; then finish what is in hand.

    Args:
        options: of the service.
        listener: from `bind`.
        ready: called when requests are answered.
        stop_seconds: how long requests may take to finish at the end.

    Raises:
        ValueError, RuntimeError: as `create_app`.

    Example:
        >>> import signal
        >>> listener = denoise_ext.service.bind("127.0.0.1", 0)
        >>> def ready():
        ...     print("ready")
        ...     signal.raise_signal(signal.SIGTERM)  # stops the service; leave this line out
        >>> denoise_ext.service.serve(denoise_ext.service.ServiceOptions(), listener, ready)
        ready
    """
    config = uvicorn.Config(
        create_app(options), http=BoundedProtocol, ws="none", lifespan="on", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, loop="asyncio",
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_graceful_shutdown=max(1, round(stop_seconds)),
    )  # fmt: skip
    server = _Server(config)
    server.ready = ready
    server.run([listener])
