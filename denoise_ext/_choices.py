"""Checks of arguments of many kinds: one of a few names, true or false, a strength."""

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


def check_strength(strength: object) -> float:
    """`strength` as a float if it is a number from 0 to 1, or a ValueError."""
    number = None if isinstance(strength, bool) else strength
    if not isinstance(number, (int, float)) or not 0 <= number <= 1:
        raise ValueError(f"strength must be a number from 0 to 1, got {strength!r}")
    return float(number)


def check_bool(name: str, value: object) -> bool:
    """``value`` if it is a bool, or a TypeError naming the argument: "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, got {value!r}")
    return value
