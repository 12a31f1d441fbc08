"""What an attribute may be for a plan to rely on it: values that nobody can change in place."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np
import torch

_TYPES = frozenset(
    {
        bool, int, float, complex, str, bytes, type(None), type(...), range,
        types.FunctionType, types.BuiltinFunctionType, torch.dtype, torch.device, torch.layout,
        torch.memory_format, Fraction, torch._ops.OpOverload, torch._ops.OpOverloadPacket,
    }
)  # fmt: skip
_OPERATORS = [
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor",
]  # fmt: skip
_OTHERS = [
    "getattribute", "setattr", "delattr", "call", "bool", "len", "iter", "next", "getitem",
    "setitem", "delitem", "contains", "eq", "ne", "lt", "le", "gt", "ge", "hash", "repr", "str",
    "format", "int", "float", "complex", "index", "array", "enter", "exit", "neg", "pos", "abs",
]  # fmt: skip


class NotPlannedError(Exception):
    """The reason why a call is left to PyTorch, for the report.

    ``lasting``: it may hold for other arguments, too.  ``certain``: it does.
    """

    def __init__(self, reason: str, lasting: bool = True, certain: bool = False) -> None:
        super().__init__(reason)
        self.lasting, self.certain = lasting, certain


def is_fixed(value: Any) -> bool:
    """Whether ``value`` is immutable."""
    if type(value) in _TYPES or isinstance(value, (type, enum.Enum, np.generic)):
        return True
    if isinstance(value, (tuple, frozenset)):
        return all(map(is_fixed, value))
    if type(value) is functools.partial:
        return all(map(is_fixed, (value.func, value.args, *value.keywords.values())))
    if isinstance(value, types.MethodType):
        return is_fixed(value.__self__)
    if is_frozen(value):
        return all(is_fixed(getattr(value, field.name)) for field in dataclasses.fields(value))
    return False


def is_frozen(value: Any) -> bool:
    """Whether it is a frozen dataclass: what its fields hold may change, the fields do not."""
    return dataclasses.is_dataclass(type(value)) and type(value).__dataclass_params__.frozen


class _Plain:
    """An object that is its attributes."""


class _PlainDict(dict):
    """A dict with attributes."""


class _PlainOrderedDict(OrderedDict):
    """An ordered dict with attributes."""


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or by few C extensions


def is_plain_object(value: Any) -> bool:
    """Whether it is its attributes, and its items if it is a dict: no slots, nothing in C."""
    cls = type(value)
    if cls is types.SimpleNamespace:
        return True
    if isinstance(value, dict):
        like = _PlainOrderedDict if isinstance(value, OrderedDict) else _PlainDict
    else:
        like = _Plain
    bases = [base for base in cls.__mro__ if base not in like.__mro__]
    return (
        cls.__basicsize__ == like.__basicsize__
        and cls.__reduce__ is like.__reduce__
        and cls.__reduce_ex__ is object.__reduce_ex__
        and all(base.__flags__ & _HEAP_TYPE for base in bases)
    )


class Unwatched:
    """A placeholder for an attribute that can change unnoticed; any access raises."""

    def __init__(self, reason: str, refused: list[str]) -> None:
        object.__setattr__(self, "_reason", reason)
        object.__setattr__(self, "_refused", refused)


def _refuse(self: Unwatched, *args: Any, **kwargs: Any) -> None:
    reason = object.__getattribute__(self, "_reason")
    object.__getattribute__(self, "_refused").append(reason)
    raise NotPlannedError(reason)


for _name in (*_OTHERS, *(prefix + name for name in _OPERATORS for prefix in ("", "r", "i"))):
    setattr(Unwatched, f"__{_name}__", _refuse)
