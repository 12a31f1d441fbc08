"""The check of an argument that is one of a few names."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`, or a ValueError naming the argument.

    >>> check_choice("predicts", "noise", ("image", "noise"))
    'noise'
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)
