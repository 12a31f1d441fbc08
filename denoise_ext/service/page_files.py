"""The page: files of the package, read once."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_files() -> list[Route]:
    """A route for each file; index.html is `/`."""
    folder = resources.files("denoise_ext") / "service" / "page"
    routes = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        suffix = file.name[file.name.rfind(".") :]
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        routes.append(_route(path, file.read_bytes(), _TYPES[suffix]))
    return routes


def _route(path: str, content: bytes, media_type: str) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"Content-Type": media_type, "Cache-Control": "no-cache", "ETag": tag}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return Route(path, send)
