"""The leaves of what a call returns, and the nest that they are put into again.

PyTorch's nests are tuples, lists, dicts and the classes that are registered with it.  Dataclasses
are taken apart here in addition.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.utils import _pytree as pytree


class _Fields:
    """A dataclass's fields, as a node of a nest."""

    def __init__(self, cls: type, values: dict[str, Any]) -> None:
        self.cls, self.values = cls, values


def _put_together(values: Any, context: tuple) -> Any:
    cls, names = context
    result = object.__new__(cls)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(result, name, value)  # also of a frozen one
    return result


pytree.register_pytree_node(
    _Fields,
    lambda fields: (list(fields.values.values()), (fields.cls, tuple(fields.values))),
    _put_together,
    serialized_type_name="denoise_ext.engine.fields",
)


def flatten(result: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The leaves of ``result`` and a spec from which ``tree_unflatten`` makes equal results."""
    return pytree.tree_flatten(_opened(result))


def _opened(result: Any) -> Any:
    if type(result) in (tuple, list):
        return type(result)(map(_opened, result))
    if type(result) is dict:
        return {key: _opened(value) for key, value in result.items()}
    if _is_plain(result):
        return _Fields(type(result), {k: _opened(v) for k, v in vars(result).items()})
    return result


def _is_plain(result: Any) -> bool:
    """Whether it is a dataclass of its fields and nothing else."""
    cls = type(result)
    if not dataclasses.is_dataclass(cls) or cls in pytree.SUPPORTED_NODES:
        return False
    fields = {field.name for field in dataclasses.fields(cls)}
    return cls.__new__ is object.__new__ and getattr(result, "__dict__", {}).keys() == fields
