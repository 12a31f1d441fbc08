"""Counters in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STAGES = ("receive", "wait", "read", "analyse", "denoise", "write", "send")


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str, labels: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_sum{{{labels}}} {self.sum:.6f}"
        yield f"{name}_count{{{labels}}} {total}"


class Metrics:
    """What the service has done. For the thread of the event loop alone."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._stages = {stage: _Histogram() for stage in STAGES}
        self._counters: Counter[str] = Counter()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number as it is when it is asked for."""
        self._gauges[name] = text, value

    def request(self, method: str, route: str, status: int) -> None:
        """Count an answer. `route` is the service's own name of a path, not what a client sent."""
        self._requests[method, route, status] += 1

    def stage(self, name: str, seconds: float) -> None:
        """Count the time of a stage of a request."""
        self._stages[name].add(seconds)

    def add(self, name: str, amount: int) -> None:
        """Count images, pixels, bytes."""
        self._counters[name] += amount

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        lines = [*_head("requests_total", "counter", "Answers by method, route and status.")]
        for (method, route, status), count in sorted(self._requests.items()):
            labels = f'method="{method}",route="{route}",status="{status}"'
            lines.append(f"denoise_ext_requests_total{{{labels}}} {count}")
        for name, text in (
            ("images", "Pictures that were denoised."), ("pixels", "Their pixels."),
            ("received_bytes", "Bytes of uploads."), ("sent_bytes", "Bytes of results."),
        ):  # fmt: skip
            lines += [*_head(f"{name}_total", "counter", text)]
            lines.append(f"denoise_ext_{name}_total {self._counters[name]}")
        for name, (text, value) in self._gauges.items():
            lines += [*_head(name, "gauge", text), f"denoise_ext_{name} {value()}"]
        lines += [*_head("stage_seconds", "histogram", "Time of the stages of a request.")]
        for stage, histogram in self._stages.items():
            lines += histogram.lines("denoise_ext_stage_seconds", f'stage="{stage}"')
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP denoise_ext_{name} {text}"
    yield f"# TYPE denoise_ext_{name} {kind}"
