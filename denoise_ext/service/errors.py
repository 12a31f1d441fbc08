"""A request that is refused, with the status and the one line that its answer has."""

from __future__ import annotations


class Refused(Exception):
    """The answer to a request that cannot be carried out.

    Args:
        status: of HTTP.
        message: one line for the client.
        headers: of the answer.
    """

    status: int
    message: str
    headers: dict[str, str]

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


def too_busy(message: str) -> Refused:
    """The answer to a request that comes while the service has enough to do."""
    return Refused(429, message, {"Retry-After": "1"})
