"""What holds for every request: who may ask, what the answer's headers are, what is counted."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from denoise_ext.service.errors import Refused
from denoise_ext.service.metrics import Metrics
from denoise_ext.service.options import ServiceOptions

logger: logging.Logger = logging.getLogger("denoise_ext.service")

# The page has files of its own alone, and pictures that it makes.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Answers after which the rest of the body is not waited for. After others that come before its end
# the rest is read and dropped, for as long as a head may take: a client that is still sending would
# otherwise find the connection reset, and not the answer.
_CLOSING = (408,)


class Guard:
    """The application behind its checks.

    Args:
        app: answers what passes.
        options: token, local, names.
        metrics: counts answers.
    """

    def __init__(self, app: ASGIApp, options: ServiceOptions, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._local, self._names = options.local, {name.lower() for name in options.names}
        self._token = None if options.token is None else options.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, after the checks."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if status in _CLOSING:
                    headers["Connection"] = "close"
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, send_on)
        except Refused as error:
            response = JSONResponse({"error": error.message}, error.status, error.headers)
            await response(scope, receive, send_on)
        finally:
            route = _route(scope)
            self._metrics.request(_method(scope), route, status)
            logger.info(
                "%s %s %d %.3f s", _method(scope), route, status, time.perf_counter() - start
            )  # fmt: skip

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # A page elsewhere must reach this service neither by a name that it made point here, ...
        if not self._is_own(host):
            names = ", ".join(sorted(self._names)) or "alone; --host opens it to others"
            raise Refused(421, f"host: this service is for localhost {names}; --name adds a name")
        # ... nor by sending a form here.
        origin = headers.get("origin")
        if origin is not None and not (_place(origin) == host or self._has_name(_place(origin))):
            raise Refused(403, "requests of pages from other places are refused")
        if self._token is None or not _needs_token(scope["path"]):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = secrets.compare_digest(given.strip().encode("latin-1"), self._token)
        if not (kind.lower() == "bearer" and same):
            raise Refused(
                401,
                "a token is needed: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    def _is_own(self, host: str) -> bool:
        """Whether the host of a request is this service."""
        anyone = not (self._local or self._names)
        return anyone or _is_local(host) or self._has_name(host)

    def _has_name(self, place: str | None) -> bool:
        return bool(place and _name_of(place) in self._names)


def _needs_token(path: str) -> bool:
    """Whether it is more than the page itself, its description and a sign of life."""
    return path.startswith("/v1/") or path == "/metrics"


def _place(origin: str) -> str | None:
    """Host and port of an origin; None if it is malformed."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    name = _name_of(host)
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """Host of "host:port", in small letters; "" if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _route(scope: Scope) -> str:
    """The route's own path, not what a client sent: a log and metrics have few of them."""
    route = scope.get("route")
    return getattr(route, "path", "other")


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"
