"""Close matches for a name that was mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message: what `name` may have been meant to be, or nothing.

    >>> did_you_mean("dnxet_s", ["dxnet_s", "drunet"])
    '; did you mean dxnet_s?'
    """
    close = get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
