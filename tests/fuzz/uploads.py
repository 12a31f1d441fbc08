"""Uploads to the service: bodies and queries give an answer of its description, never an error 500.

The first target sends damaged images in chunks, with random queries. The second sends damaged HTTP
to the protocol.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import random
from urllib.parse import quote

from fuzz import images
from fuzz.mutate import mutated
from fuzz.target import MEBIBYTE, REFUSED, RESULT, Target, tell

FORMATS = ("PNG", "TIFF", "JPEG", "BMP", "PNM", "NPY", "NPZ", "WEBP", "DICOM")
QUERIES = {
    "sigma": ("15", "0", "-1", "nan", "1e999", "x", "", "5,5"),
    "strength": ("0", "0.5", "1", "2", "inf"),
    "model": ("auto", "dxnet_s", "ffdnet_gray_small", "dxnet_s_photo", "/etc/passwd", "../x"),
    "format": ("png", "tif", "jpg", "npy", "dcm", "exe"),
    "alpha": ("keep", "denoise", "drop"),
    "value_range": ("0,255", "1,1", "0", "nan,nan", "-5,1e300", "0,1e999"),
    "axes": ("YX", "YXS", "ZYX", "Q", "YY", ""),
    "keep": ("true", "false", "1"),
    "left": ("0",),
    "\x00": ("\r\nX: y",),
}
HTTP = (
    b"POST /v1/denoise?sigma=5 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST /v1/denoise HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n4;a=b\r\ndefg\r\n0\r\nX: y\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n",
    b"GET /page/main.js HTTP/1.0\r\nHost: 127.0.0.1:80\r\nIf-None-Match: x\r\n\r\n",
    b"GET /v1/pictures/a/part?left=0&top=0&width=1&height=1 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    b"DELETE /v1/pictures/%2e%2e HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
)


@functools.cache
def service():
    """The application and what is written of it; once for each process."""
    from denoise_ext.service import ServiceOptions, create_app
    from denoise_ext.service.openapi import description

    options = ServiceOptions(max_pixels=images.MAX_PIXELS, max_upload=MEBIBYTE)
    documented = {
        path: {int(status) for status in next(iter(item.values()))["responses"]}
        for path, item in description(options)["paths"].items()
    }
    return create_app(options), documented


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    """One loop for all cases: the application keeps what belongs to it."""
    return asyncio.new_event_loop()


async def answered(path: str, query: str, chunks: list[bytes]) -> tuple[int, dict, bytes]:
    """Status, headers and body of the answer to a POST."""
    app, _ = service()
    messages = [{"type": "http.request", "body": x, "more_body": True} for x in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict] = []

    async def receive() -> dict:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()  # a client that stays

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:])


def upload(rng: random.Random) -> str:
    """One damaged image with a random query."""
    name = rng.choice(
        [x for x in FORMATS if importlib.util.find_spec(images.NEEDS.get(x, "numpy"))]
    )
    data = images.damaged(rng, name) if rng.random() < 0.5 else rng.choice(images.samples(name))
    path = rng.choice(("/v1/denoise", "/v1/denoise", "/v1/analyse"))
    names = rng.sample(sorted(QUERIES), rng.choice((0, 0, 0, 1, 2)))
    query = "&".join(f"{quote(n)}={quote(rng.choice(QUERIES[n]))}" for n in names)
    if path == "/v1/denoise" and "sigma" not in names:  # none is found in images so small
        query += "&sigma=15"
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 5))))
    ends = zip([0, *cuts], [*cuts, len(data)], strict=True)
    chunks = [data[a:b] for a, b in ends]
    tell(lambda: f"{path}?{query}: {name}, {len(data)} bytes, {data[:64]!r}")
    status, headers, body = loop().run_until_complete(answered(path, query, chunks))
    assert status in service()[1][path], f"status {status} is not described: {body[:300]!r}"
    if status == 200:
        assert int(headers["content-length"]) == len(body)
        return RESULT
    error = json.loads(body)["error"]
    assert error and "\n" not in error and error.isprintable(), error
    assert status != 503, f"out of memory: {error}"
    return REFUSED


class Transport(asyncio.Transport):
    """Takes what a protocol writes."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 8000)})
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        """Nothing more is sent here anyway."""

    resume_reading = pause_reading


async def spoken(data: list[bytes]) -> bytes:
    """What the protocol answers to these bytes, before the client closes the connection."""
    import uvicorn
    from uvicorn.server import ServerState

    from denoise_ext.service.server import BoundedProtocol

    config = uvicorn.Config(
        service()[0], ws="none", lifespan="off", log_config=None, access_log=False
    )
    state = ServerState()
    protocol, transport = BoundedProtocol(config, state, {}), Transport()
    protocol.connection_made(transport)
    for piece in data:
        if piece and not transport.closed:  # b"" would mean the end of the stream
            protocol.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(200):
        if not state.tasks or transport.closed:
            break
        await asyncio.sleep(0.001)
    protocol.connection_lost(None)
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=20)
    assert not state.tasks, "a request goes on although its client has gone"
    return bytes(transport.written)


def http(rng: random.Random) -> str:
    """Damaged HTTP, in pieces."""
    data = rng.choice(HTTP) * rng.choice((1, 1, 2))
    data = mutated(rng, data, list(HTTP)) if rng.random() < 0.9 else data
    middle = rng.randrange(len(data) + 1)
    tell(lambda: repr(data[:500]))
    answer = loop().run_until_complete(spoken([data[:middle], data[middle:]]))
    assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
    assert b"HTTP/1.1 500" not in answer, answer[:500]
    status = int(answer[9:12]) if answer else 400
    return RESULT if status < 400 else REFUSED


def targets() -> list[Target]:
    """Both, where the extra web is installed."""
    if not (importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn")):
        return []
    return [
        Target("uploads/images", upload, seconds=20, memory=384 * MEBIBYTE),
        Target("uploads/http", http, seconds=10, memory=128 * MEBIBYTE),
    ]
