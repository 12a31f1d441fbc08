"""The routes of the service, as an ASGI application."""

from __future__ import annotations

import asyncio
import io as streams
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import resources
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from denoise_ext import __version__
from denoise_ext.io import picture_of, read_image, write_picture
from denoise_ext.service import pictures
from denoise_ext.service.errors import Refused
from denoise_ext.service.guard import Guard
from denoise_ext.service.kept import Kept
from denoise_ext.service.metrics import CONTENT_TYPE, Metrics
from denoise_ext.service.networks import Networks
from denoise_ext.service.openapi import description
from denoise_ext.service.options import ServiceOptions
from denoise_ext.service.page_files import page_files
from denoise_ext.service.parameters import ANALYSE, DENOISE, PART, parsed
from denoise_ext.service.pictures import Answer, Timed
from denoise_ext.service.uploads import Budget, Share, read_body, seconds_for
from denoise_ext.service.work import ClientGone, Work

logger: logging.Logger = logging.getLogger("denoise_ext.service")
_CHUNK = 1 << 18  # bytes of an answer that are sent at a time
_EXPIRE_EVERY = 30.0  # seconds
_MOST_IN_PART = 16_000_000  # pixels that one request for a part may compute
_GONE = 499  # not sent: for the metrics

Handle = Callable[[Request, Send], Awaitable[None]]


def create_app(options: ServiceOptions | None = None) -> Guard:
    """The service as an ASGI application, for `serve` and for servers of your own.

    A server of your own must bound the time that a request's head may take.

    Raises:
        ValueError, RuntimeError: a model that cannot be loaded, a device that cannot be used.

    Example:
        >>> options = denoise_ext.service.ServiceOptions(model="dxnet_s")
        >>> app = denoise_ext.service.create_app(options)  # uvicorn my_service:app
    """
    service = Service(options or ServiceOptions())
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        Refused: _refused,
        HTTPException: _http_error,
        ClientDisconnect: _client_gone,
        ClientGone: _client_gone,
        Exception: _failed,
    }
    app = Starlette(
        routes=service.routes(),
        lifespan=service.lifespan,
        exception_handlers=handlers,
    )
    return Guard(app, service.options, service.metrics)


class _Endpoint:
    """An ASGI application of a function that sends its answer itself."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handle(Request(scope, receive), send)


class Service:
    """The state of one service and its handlers."""

    def __init__(self, options: ServiceOptions) -> None:
        self.options = options
        self.metrics: Metrics = Metrics()
        self._networks = Networks(options)
        self._work = Work(options.max_requests, options.time_limit)
        self._budget = Budget(options.body_memory)
        self._kept = Kept(options.kept_memory, options.kept_seconds)
        self._sample: bytes | None = None
        for name, text, value in (
            ("in_hand", "Pictures in hand.", lambda: self._work.in_hand),
            ("in_hand_limit", "Most pictures in hand.", lambda: self._work.most),
            ("body_bytes", "Bytes of uploads and results.", lambda: self._budget.used),
            ("body_bytes_limit", "Most of these bytes.", lambda: self._budget.most),
            ("kept_pictures", "Pictures kept for pages.", lambda: len(self._kept)),
            ("kept_bytes", "Their bytes.", lambda: self._kept.bytes),
        ):
            self.metrics.gauge(name, text, value)

    def routes(self) -> list[Route]:
        """Every path, in the order of docs/service.md."""
        plain = [
            Route("/v1/models", self._models),
            Route("/v1/sample", self._send_sample),
            Route("/v1/pictures/{id}", self._forget, methods=["DELETE"]),
            Route("/healthz", _health),
            Route("/metrics", self._show_metrics),
            Route("/openapi.json", self._description),
        ]
        own = [
            Route("/v1/denoise", _Endpoint(self._denoise), methods=["POST"]),
            Route("/v1/analyse", _Endpoint(self._analyse), methods=["POST"]),
            Route("/v1/pictures/{id}/part", _Endpoint(self._part), methods=["GET"]),
        ]
        return [*own, *plain, *page_files()]

    def lifespan(self, app: Starlette) -> AbstractAsyncContextManager[None]:
        """What runs beside the requests."""

        @asynccontextmanager
        async def run() -> AsyncIterator[None]:
            tasks = [asyncio.create_task(job()) for job in (self._expire, self._warm_up)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.to_thread(self._work.close)

        return run()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_EVERY)
            self._kept.expire()

    async def _warm_up(self) -> None:
        """Plan the default networks: the first page need not wait for that."""
        denoiser = self._networks.denoiser(None)

        def run(frame: np.ndarray) -> None:
            looked, _ = pictures.looked_at(picture_of(frame), {})
            values = {"left": 0, "top": 0, "width": 64, "height": 64}
            for sigma, chooses in ((15.0, False), (None, self._networks.chooses(None))):
                pictures.part_of(looked, denoiser, {**values, "sigma": sigma, "chooses": chooses})

        for shape in ((64, 64, 3), (64, 64)):
            try:
                await self._work.view(Timed(), run, np.full(shape, 128, np.uint8))
            except Refused as error:  # a network for one kind of pictures alone
                logger.debug("warm-up of %s: %s", shape, error.message)
            except Exception:  # nobody waits for this task
                logger.exception("warm-up of %s", shape)

    # --- pictures ---------------------------------------------------------------------------------

    async def _denoise(self, request: Request, send: Send) -> None:
        values = parsed(request.query_params.multi_items(), DENOISE)
        self._networks.check(values.get("model"))
        async with self._work.admitted(), self._budget.share() as share:
            timed = Timed()
            body = await self._received(request, share, timed)
            work = self._denoised(body, values, share, timed)
            answer = await self._work.in_time(work, _gone(request))
            await self._send(request, send, answer, timed)

    async def _denoised(
        self, body: bytearray, values: dict[str, Any], share: Share, timed: Timed
    ) -> Answer:
        async with self._work.decoded(timed):
            picture = await self._read(body, share, timed)
            denoiser = self._networks.denoiser(values.get("model"), values.get("alpha", "keep"))
            result = await self._work.compute(
                timed, "denoise", pictures.denoised, picture, denoiser, values
            )
            del picture
            answer = await self._work.file(
                timed, "write", pictures.written, result, values.get("format")
            )
        share.grow(len(answer.content))
        self.metrics.add("images", 1)
        pixels = sum(frame.shape[0] * frame.shape[1] for frame in result.image.frames)
        self.metrics.add("pixels", pixels)
        return answer

    async def _analyse(self, request: Request, send: Send) -> None:
        values = parsed(request.query_params.multi_items(), ANALYSE)
        async with self._work.admitted(), self._budget.share() as share:
            timed = Timed()
            body = await self._received(request, share, timed)
            work = self._analysed(body, values, share, timed)
            looked, facts = await self._work.in_time(work, _gone(request))
            if values.get("keep"):
                facts["id"] = self._kept.add(looked)
                facts["kept_seconds"] = self.options.kept_seconds
            content = json.dumps(facts).encode()
            await self._send(request, send, Answer(content, "application/json"), timed)

    async def _analysed(
        self, body: bytearray, values: dict[str, Any], share: Share, timed: Timed
    ) -> tuple[pictures.Looked, dict[str, Any]]:
        async with self._work.decoded(timed):
            picture = await self._read(body, share, timed)
            return await self._work.view(
                timed, pictures.looked_at, picture, values, stage="analyse"
            )  # fmt: skip

    async def _part(self, request: Request, send: Send) -> None:
        values = parsed(request.query_params.multi_items(), PART)
        name = self._networks.check(values.get("model"))
        looked = self._kept.get(request.path_params["id"])
        reduce = values.get("reduce", 1)
        rows, columns = (
            min(values[side], size) // reduce + 1
            for side, size in zip(("height", "width"), looked.picture.frames[0].shape, strict=False)
        )
        bound = 4 * rows * columns  # bytes of the answer, about
        denoiser = None
        if not values.get("original"):
            most = _MOST_IN_PART
            if values.get("uncertainty"):
                most //= 2 * pictures.PROBES + 2  # so many passes
            if values["width"] * values["height"] > most:
                raise Refused(422, f"width, height: such a part has at most {most} pixels")
            denoiser = self._networks.denoiser(name)
            values["chooses"] = self._networks.chooses(name)
        async with self._budget.share() as share:
            share.add(bound)
            timed = Timed()
            work = self._work.view(timed, pictures.part_of, looked, denoiser, values)
            answer = await self._work.in_time(work, _gone(request))
            share.grow(len(answer.content) - bound)
            await self._send(request, send, answer, timed)

    async def _forget(self, request: Request) -> Response:
        self._kept.drop(request.path_params["id"])
        return Response(status_code=204)

    async def _received(self, request: Request, share: Share, timed: Timed) -> bytearray:
        start = time.perf_counter()
        body = await read_body(request, self.options.max_upload, share)
        timed.add("receive", start)
        self.metrics.add("received_bytes", len(body))
        return body

    async def _read(self, body: bytearray, share: Share, timed: Timed) -> Any:
        """The picture of a body, which is freed."""
        size = len(body)
        picture = await self._work.file(
            timed, "read", pictures.read, body, self.options.max_pixels
        )  # fmt: skip
        body.clear()
        share.grow(-size)
        return picture

    async def _send(self, request: Request, send: Send, answer: Answer, timed: Timed) -> None:
        """Send an answer bit by bit; drop the connection of a client that takes it too slowly."""
        stages = ", ".join(f"{k};dur={1e3 * v:.1f}" for k, v in timed.stages.items())
        headers = {
            **answer.headers,
            "Content-Type": answer.media_type,
            "Content-Length": str(len(answer.content)),
            "Server-Timing": stages,
            "Cache-Control": "no-store",
        }
        raw = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
        start, content = time.perf_counter(), memoryview(answer.content)
        try:
            async with asyncio.timeout(seconds_for(len(content))):
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                for first in range(0, len(content), _CHUNK):
                    chunk = bytes(content[first : first + _CHUNK])
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            if abort := request.scope.get("state", {}).get("abort"):
                abort()
                await _gone(request)
            return
        timed.add("send", start)
        for stage, seconds in timed.stages.items():
            self.metrics.stage(stage, seconds)
        self.metrics.add("sent_bytes", len(content))

    # --- the rest ---------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        return JSONResponse({
            "version": __version__,
            "models": await asyncio.to_thread(self._networks.described),
            "max_upload": self.options.max_upload,
            "max_pixels": self.options.max_pixels,
            "kept_seconds": self.options.kept_seconds,
        })  # fmt: skip

    async def _send_sample(self, request: Request) -> Response:
        if self._sample is None:
            self._sample = await asyncio.to_thread(_noisy_photograph)
        return Response(self._sample, media_type="image/png")

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _description(self, request: Request) -> Response:
        return JSONResponse(description(self.options))


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _noisy_photograph() -> bytes:
    """The bundled photograph with white noise of level 25, as PNG."""
    with resources.as_file(resources.files("denoise_ext") / "assets" / "kodim21.png") as path:
        clean = read_image(path)
    noisy = clean + np.random.default_rng(0).normal(0, 25, clean.shape)
    stream = streams.BytesIO()
    picture = picture_of(noisy.clip(0, 255).round().astype(np.uint8), format="PNG")
    write_picture(stream, picture)
    return stream.getvalue()


def _error(status: int, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(request: Request, error: Refused) -> Response:
    return _error(error.status, error.message, error.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail, error.headers)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "an error of the service; its log has the details")
