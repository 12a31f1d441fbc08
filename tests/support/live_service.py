"""`denoise-ext serve` as a process of its own, at a free port of this machine.

A pytest plugin, for the services that tests of several files share.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import written

from denoise_ext import io

STARTING = 180.0  # seconds, on a busy machine too
PATIENCE = 180.0
TOKEN = "a secret: 7f3a"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


class Answer:
    """What the service answered."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line of a refusal."""
        text = self.json["error"]
        assert text and "\n" not in text and "Traceback" not in text
        return text

    @property
    def picture(self) -> io.Picture:
        assert self.status == 200, self.body[:300]
        return io.read_picture(self.body)


class LiveService:
    """A running service."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "denoise_ext.cli", "serve", "--port", "0", *arguments]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe nobody reads would fill)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=os.environ | environment,
        )  # fmt: skip
        ready, _, _ = select.select([self.process.stdout], [], [], STARTING)
        line = self.process.stdout.readline() if ready else ""
        found = re.fullmatch(r"listening at (http://.*:(\d+)/)\n", line)
        if found is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{line!r}: {self.log()}")
        self.url, self.port = found[1], int(found[2])

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict | None = None
    ) -> Answer:  # fmt: skip
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def denoise(self, body: Any, query: str = "", **headers: str) -> Answer:
        return self.ask("POST", f"/v1/denoise{query}", body, headers)

    def metrics(self, **headers: str) -> dict[str, float]:
        text = self.get("/metrics", **headers).body.decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def memory(self) -> dict[str, int]:
        """Bytes in use now (VmRSS) and at most (VmHWM)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        pairs = (line.split(":") for line in lines if line.startswith(("VmRSS", "VmHWM")))
        return {name: int(text.split()[0]) << 10 for name, text in pairs}

    def until(self, metric: str, value: float, **headers: str) -> None:
        """Wait until a number of the metrics is this one."""
        end = time.monotonic() + PATIENCE
        while self.metrics(**headers)[metric] != value:
            assert time.monotonic() < end, f"{metric} is not {value}: {self.metrics(**headers)}"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal: exit code, and what it wrote to its standard error."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code, self.log()

    def log(self) -> str:
        """What it wrote to its standard error."""
        self._log.seek(0)
        return self._log.read()


@contextmanager
def live_service(*arguments: str, **environment: str) -> Iterator[LiveService]:
    """A service that is ended, and that must have ended well."""
    service = LiveService(*arguments, **environment)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()
        assert service.process.returncode == 0, service.log()
        assert "Traceback" not in service.log(), service.log()


@pytest.fixture(scope="session")
def service():
    with live_service() as running:
        yield running


@pytest.fixture(scope="session")
def strict():
    """Small limits and a token, which the environment gives."""
    limits = ("--max-upload", "200KB", "--max-pixels", "40000")
    with live_service(*limits, "--quiet", DENOISE_EXT_TOKEN=TOKEN) as running:
        yield running


def noisy_image(height: int, width: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    """A smooth (H, W, 3) picture with white noise of level 15; each seed another one."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = random.uniform(1, 6, (3, 2))
    clean = [np.sin(a * rows * 6 + b * columns * 6 + seed) for a, b in waves]
    x = 128 + 60 * np.stack(clean, axis=-1) + random.normal(0, 15, (height, width, 3))
    full = np.iinfo(dtype).max
    return (x.clip(0, 255) / 255 * full).round().astype(dtype)


def file_of(image: np.ndarray, format: str = "PNG") -> bytes:
    return written(io.picture_of(image), format=format)
