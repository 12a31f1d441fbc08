"""The query of a request: checked here, described by `openapi`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from denoise_ext._suggestions import did_you_mean
from denoise_ext.io import CODECS
from denoise_ext.service.errors import Refused
from denoise_ext.tasks.axes import check_axes

WRITTEN = tuple(suffix[1:] for codec in CODECS if codec.write for suffix in codec.suffixes)
"""Values of ``format``: suffixes without their dot."""


@dataclass(frozen=True)
class Parameter:
    """One name that a query may have."""

    name: str
    text: str
    schema: Mapping[str, Any]
    """Of OpenAPI (JSON Schema)."""
    parse: Callable[[str], Any]
    """From the text to the value; ValueError with what is allowed."""
    required: bool = False


def _number(low: float, high: float = math.inf) -> Callable[[str], float]:
    allowed = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number >= {low:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(allowed)
        return value

    return parse


def _whole(low: int, high: int = 10**9) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _one_of(names: Iterable[str]) -> Callable[[str], str]:
    names = tuple(names)

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}{did_you_mean(text, names)}")
        return text

    return parse


def _flag(text: str) -> bool:
    return _one_of(("false", "true"))(text) == "true"


def _range(text: str) -> tuple[float, float]:
    ends = re.fullmatch(r"([^,]+),([^,]+)", text)
    try:
        low, high = (_number(-1e300, 1e300)(end) for end in ends.groups()) if ends else (1, 0)
    except ValueError:
        low, high = 1, 0
    if not low < high:
        raise ValueError("two numbers BLACK,WHITE, the first less than the second")
    return low, high


def _axes(text: str) -> str | None:
    try:
        return check_axes(text)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("axes must be ").rpartition(", got")[0]) from None


_NUMBER, _INTEGER, _BOOLEAN = {"type": "number"}, {"type": "integer"}, {"type": "boolean"}

_DENOISING = (
    Parameter(
        "sigma", "Standard deviation of the noise on the 0-255 scale, for every type of pixels."
        " Default: by the noise of the picture. Blind networks ignore it.",
        {**_NUMBER, "minimum": 0, "maximum": 1e6}, _number(0, 1e6),
    ),
    Parameter(
        "model", "A name of `/v1/models`. Default: the network of the service; without one, the"
        " noise of the picture decides.",
        {"type": "string"}, str,
    ),
)  # fmt: skip
_RANGE = Parameter(
    "value_range", "Numbers that mean black and white, as `0,4095`. Default: by the file.",
    {"type": "string"}, _range,
)  # fmt: skip

DENOISE = (
    *_DENOISING,
    Parameter(
        "strength", "Blend of picture and result: 0 is the picture, 1 the result. Default: 1.",
        {**_NUMBER, "minimum": 0, "maximum": 1}, _number(0, 1),
    ),
    Parameter(
        "alpha", "Transparency: `keep` (default), or `denoise` as a gray picture.",
        {"enum": ["keep", "denoise"]}, _one_of(("keep", "denoise")),
    ),
    Parameter(
        "format", "Format of the result. Default: that of the picture, or TIFF where that is only"
        " read.",
        {"enum": list(WRITTEN)}, _one_of(WRITTEN),
    ),
    _RANGE,
    Parameter(
        "axes", "Letters for the axes of an array, as `ZYX`. Default: by the file.",
        {"type": "string"}, _axes,
    ),
)  # fmt: skip

ANALYSE = (
    _RANGE,
    Parameter(
        "keep", "`true`: keep the picture for some minutes, for `/v1/pictures/{id}/part`.",
        _BOOLEAN, _flag,
    ),
)  # fmt: skip


def _place(name: str, text: str, low: int) -> Parameter:
    text = f"{text} of the part, in pixels of the picture."
    return Parameter(name, text, {**_INTEGER, "minimum": low}, _whole(low), required=True)


PART = (
    _place("left", "First column", 0),
    _place("top", "First row", 0),
    _place("width", "Columns", 1),
    _place("height", "Rows", 1),
    Parameter(
        "reduce", "Return the means of so many x so many pixels. Default: 1.",
        {**_INTEGER, "minimum": 1, "maximum": 1024}, _whole(1, 1024),
    ),
    Parameter("original", "`true`: the picture as it is.", _BOOLEAN, _flag),
    Parameter(
        "uncertainty", "`true`: in place of the result, the standard deviation of its error as a"
        " gray image. `Denoise-Uncertainty-Scale` has its levels for each of the 0-255 scale.",
        _BOOLEAN, _flag,
    ),
    *_DENOISING,
)  # fmt: skip


def parsed(query: Iterable[tuple[str, str]], known: Iterable[Parameter]) -> dict[str, Any]:
    """The values of a query by name; those that are not given are missing.

    Raises:
        Refused: 400 for a name that is unknown, missing or given twice, and for a wrong value.
    """
    parameters = {parameter.name: parameter for parameter in known}
    values: dict[str, Any] = {}
    for name, text in query:
        if name not in parameters:
            close = did_you_mean(name, parameters)
            raise Refused(400, f"{_shown(name)} is no parameter of this request{close}")
        if name in values:
            raise Refused(400, f"{name} is given twice")
        try:
            values[name] = parameters[name].parse(text)
        except ValueError as error:
            raise Refused(400, f"{name} must be {error}, got {_shown(text)}") from None
    for parameter in parameters.values():
        if parameter.required and parameter.name not in values:
            raise Refused(400, f"{parameter.name} is missing")
    return values


def _shown(text: str) -> str:
    """What a client sent, in one short line of ASCII."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
