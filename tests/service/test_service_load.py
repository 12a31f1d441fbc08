"""Many clients, slow clients, hostile clients, and the end of a service with work in hand."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from live_service import file_of, live_service, noisy_image

from denoise_ext import Denoiser, io
from denoise_ext._loader import native_error

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
pytestmark = [
    pytest.mark.skipif(native_error() is not None, reason="needs the native library"),
    pytest.mark.xdist_group("service_load"),
    pytest.mark.slow,
]

IN_HAND = "denoise_ext_in_hand"
SIZES = [(48, 64), (64, 48), (50, 61), (96, 96)]
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def service():
    with live_service() as running:
        yield running


def head(length: int, path: str = "/v1/denoise?sigma=15", *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def opened(service, sent: bytes) -> socket.socket:
    """A connection on which these bytes were sent, and no more."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    connection.sendall(sent)
    return connection


def test_64_clients_each_get_their_own_answer(service):
    """Four pictures from each client, all different, on connections that are kept."""
    images = [noisy_image(*SIZES[i % 4], seed=i) for i in range(256)]
    direct = Denoiser(sigma=15.0)
    expected = [direct(image) for image in images]
    bodies = [file_of(image) for image in images]
    service.denoise(bodies[0], "?sigma=15")
    before = service.memory()["VmRSS"]

    def client(number: int) -> list[np.ndarray]:
        connection, results = service.connection(), []
        for i in range(4 * number, 4 * number + 4):
            status = 429
            while status == 429:  # each waits for its own answer: 64 at most are in hand
                connection.request("POST", "/v1/denoise?sigma=15", bodies[i])
                response = connection.getresponse()
                status, body = response.status, response.read()
            assert status == 200, body
            results.append(io.read_picture(body).frames[0])
        connection.close()
        return results

    with ThreadPoolExecutor(64) as clients:
        results = [image for part in clients.map(client, range(64)) for image in part]
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, right)
    # Small pictures, two at a time: what grows are plans for their four sizes.
    assert service.memory()["VmHWM"] - before < 400 * MEBIBYTE
    service.until(IN_HAND, 0)
    assert service.metrics()["denoise_ext_body_bytes"] == 0


def test_memory_is_bounded_where_many_upload_at_once():
    """Bodies that only arrive hold no more than their bytes; one too many gets 429."""
    size = 8 * MEBIBYTE
    with live_service("--max-requests", "4") as service:
        before = service.memory()["VmRSS"]
        held = [opened(service, head(size) + bytes(size // 2)) for _ in range(4)]
        service.until(IN_HAND, 4)
        service.until("denoise_ext_body_bytes", 4 * size // 2)
        refused = service.denoise(file_of(noisy_image(9, 9)), "?sigma=15")
        assert refused.status == 429 and "4" in refused.error
        assert int(refused.headers["Retry-After"]) >= 1
        assert service.memory()["VmHWM"] - before < 4 * size + 64 * MEBIBYTE
        for connection in held:
            connection.close()
        service.until(IN_HAND, 0)  # whose client has gone holds no place
        assert service.metrics()["denoise_ext_body_bytes"] == 0
        assert service.denoise(file_of(noisy_image(9, 9)), "?sigma=15").status == 200


def test_slow_clients_are_cut_off_and_others_served_meanwhile(service):
    """A head that comes byte by byte, and nothing at all: 10 s; a body that trickles: 20 s."""
    start = time.monotonic()
    silent = opened(service, b"")
    by_bytes = opened(service, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    trickling = opened(service, head(10_000) + b"\x89PNG")
    ends: dict[str, float] = {}
    waiting = {"silent": silent, "head": by_bytes, "body": trickling}
    last = b""
    while waiting and time.monotonic() - start < 60:
        for name, connection in list(waiting.items()):
            connection.settimeout(0.2)
            try:
                if name != "silent":
                    connection.sendall(b"x")
                data = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if name == "body" and data:
                last += data
            if not data or name == "body":
                ends[name] = time.monotonic() - start
                del waiting[name]
        assert service.get("/healthz").status == 200
    assert set(ends) == {"silent", "head", "body"}
    assert 9 < ends["silent"] < 20 and 9 < ends["head"] < 20 and 19 < ends["body"] < 40
    trickling.settimeout(30)
    while data := trickling.recv(4096):  # to the end of the connection
        last += data
    assert last.startswith(b"HTTP/1.1 408 ") and b'"error"' in last
    service.until(IN_HAND, 0)


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
    "no length": b"POST /v1/denoise HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
    "negative": b"POST /v1/denoise HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /v1/denoise HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    b"Content-Length: 4\r\n\r\nabcd",
    "smuggling": b"POST /v1/denoise HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked, identity\r\n\r\nabc",
    "bad chunk": b"POST /v1/denoise HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "long head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "line feeds": b"GET /\r\rHTTP/1.1\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_end_with_400_or_the_connection(service, case):
    connection = opened(service, b"")
    try:
        connection.sendall(MALFORMED[case])
        answer = connection.recv(65536)
    except OSError:
        answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    connection.close()
    assert service.get("/healthz").status == 200
    service.until(IN_HAND, 0)


def test_a_body_that_ends_early(service):
    connection = opened(service, head(5000) + file_of(noisy_image(9, 9))[:100])
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(100) == b""  # there is nobody to answer
    connection.close()
    service.until(IN_HAND, 0)
    assert service.get("/healthz").status == 200


def test_an_upgrade_and_pipelined_requests(service):
    connection = opened(
        service,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
        + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3
        + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    received = b""
    while data := connection.recv(65536):
        received += data
    assert received.count(b"HTTP/1.1 200 OK") == 5


def test_clients_that_go_away_while_they_wait_hold_nothing(service):
    body = file_of(noisy_image(400, 400))
    left = [opened(service, head(len(body)) + body) for _ in range(8)]
    time.sleep(0.3)
    for connection in left:
        connection.close()
    service.until(IN_HAND, 0)
    name = 'denoise_ext_requests_total{method="POST",route="/v1/denoise",status="499"}'
    assert service.metrics().get(name, 0) >= 1
    assert service.metrics()["denoise_ext_body_bytes"] == 0


@pytest.mark.rotates(turn=0, turns=2)
def test_the_time_limit():
    with live_service("--time-limit", "1") as service:
        body = file_of(noisy_image(1500, 1500))
        answer = service.denoise(body, "?sigma=15")
        assert answer.status == 504 and "1 s" in answer.error
        service.until(IN_HAND, 0)


@pytest.mark.rotates(turn=1, turns=2)
def test_what_is_in_hand_is_finished_at_the_end():
    service_end = {}
    with live_service() as service:
        images = [noisy_image(900, 900, seed=i) for i in range(4)]
        service.denoise(file_of(images[0]), "?sigma=15")
        idle = opened(service, b"")
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(service.denoise, file_of(x), "?sigma=15") for x in images]
            service.until(IN_HAND, 4)
            service_end["code"], service_end["log"] = service.stop()
            pictures = [answer.result().picture.frames[0] for answer in answers]
    direct = Denoiser(sigma=15.0)
    for picture, image in zip(pictures, images, strict=True):
        np.testing.assert_array_equal(picture, direct(image))
    assert service_end["code"] == 0 and "Traceback" not in service_end["log"]
    assert idle.recv(10) == b""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", service.port), timeout=5)


# --- parts of it ---------------------------------------------------------------------------------


def test_kept_pictures_make_room_and_are_forgotten():
    from denoise_ext.service.errors import Refused
    from denoise_ext.service.kept import Kept
    from denoise_ext.service.pictures import looked_at

    now = [0.0]
    picture = looked_at(io.picture_of(noisy_image(40, 40)), {})[0]  # 4800 bytes of pixels
    kept = Kept(3 * picture.size - 1, 60.0, clock=lambda: now[0])
    first, second = kept.add(picture), kept.add(picture)
    kept.get(first)
    third = kept.add(picture)  # the second was unused longest
    assert (len(kept), kept.bytes) == (2, 2 * picture.size)
    with pytest.raises(Refused, match="send it again"):
        kept.get(second)
    now[0] = 50.0
    kept.get(third)
    now[0] = 70.0
    kept.expire()
    assert len(kept) == 1 and kept.get(third) is picture
    kept.drop(third)
    kept.drop("unknown")
    assert (len(kept), kept.bytes) == (0, 0)
    with pytest.raises(Refused, match=str(picture.size)):
        Kept(picture.size - 1, 60.0).add(picture)


def test_a_client_that_does_not_read_is_dropped(monkeypatch):
    """Its connection is aborted, and its place is free again."""
    from denoise_ext.service import app, create_app

    monkeypatch.setattr(app, "seconds_for", lambda size: 0.2)
    aborted = asyncio.Event()
    body = file_of(noisy_image(20, 20))
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict:
        if messages:
            return messages.pop()
        await aborted.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # a full buffer

    scope = {
        "type": "http", "method": "POST", "path": "/v1/denoise", "query_string": b"strength=0",
        "headers": [(b"host", b"localhost")], "state": {"abort": aborted.set},
    }  # fmt: skip

    async def run() -> str:
        service = create_app()
        await asyncio.wait_for(service(scope, receive, send), 30)
        return service._metrics.text()

    text = asyncio.run(run())
    assert aborted.is_set()
    assert "denoise_ext_in_hand 0" in text and "denoise_ext_body_bytes 0" in text


def test_the_memory_of_all_bodies_is_bounded():
    from denoise_ext.service.errors import Refused
    from denoise_ext.service.uploads import Budget

    async def run() -> None:
        budget = Budget(100)
        async with budget.share() as one, budget.share() as other:
            one.add(60)
            other.add(40)
            with pytest.raises(Refused) as refused:
                other.add(1)
            assert refused.value.status == 429
            one.grow(-60)
            other.add(1)
        assert budget.used == 0

    asyncio.run(run())
