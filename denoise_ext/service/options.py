"""The options and limits of the service."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from denoise_ext.runtime import RunOptions

MEBIBYTE = 1 << 20
MOST_PIXELS = 50_000_000
MOST_BYTES = 256 * MEBIBYTE
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True)
class ServiceOptions:
    """What a service does, and how much it takes on.

    Raises:
        ValueError: a limit below 1, an empty token, a name that is none.

    Example:
        >>> options = denoise_ext.service.ServiceOptions(token="7f3a", max_pixels=20_000_000)
        >>> options.max_requests
        64
    """

    model: str | None = None
    """Network where a request names none: a model's name, a checkpoint file; None: by the noise."""
    run: RunOptions = field(default_factory=RunOptions)
    token: str | None = None
    """What a client must send as ``Authorization: Bearer TOKEN``; None: nothing."""
    local: bool = True
    """Whether it listens to this machine alone; requests for other hosts are then refused."""
    names: tuple[str, ...] = ()
    """Host names of this service besides localhost, as a reverse proxy has them.  Requests for
    others are refused.  Empty, and not `local`: every name is accepted."""
    max_upload: int = MOST_BYTES
    """Bytes of one upload."""
    max_pixels: int = MOST_PIXELS
    """Pixels of one picture, over all its frames."""
    max_requests: int = 64
    """Pictures in hand: those that arrive, wait, are computed or sent. One more gets 429."""
    body_memory: int = 1024 * MEBIBYTE
    """Bytes of all uploads and results in hand together. One more gets 429."""
    kept_memory: int = 512 * MEBIBYTE
    """Bytes of the decoded pictures that pages look at. The one unused longest makes room."""
    kept_seconds: float = 1800.0
    """How long such a picture is kept without use."""
    time_limit: float = 120.0
    """Seconds from the last byte of a request to the first of its answer."""

    def __post_init__(self) -> None:
        limits = ("max_upload", "max_pixels", "max_requests", "body_memory", "kept_memory")
        for name in (*limits, "kept_seconds", "time_limit"):
            if not getattr(self, name) >= (1 if name in limits else 0):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in self.names:
            if not (isinstance(name, str) and len(name) <= 253 and _NAME.fullmatch(name)):
                raise ValueError(
                    "name must be a host name without scheme and port, such as"
                    f" pictures.example.org, got {name!r}"
                )
        if self.token is not None and not (self.token and self.token.isascii()):
            raise ValueError("token must be ASCII text that is not empty")
