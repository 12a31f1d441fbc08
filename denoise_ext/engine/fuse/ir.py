"""What a plan is made of: calls of operators, and the sites they replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from denoise_ext.engine.capture.graph import Graph, Node, Value, same_layout, substitute, values_in


@dataclass(frozen=True)
class Out:
    """A placeholder in a step's arguments for the memory of one of its results."""

    position: int = 0


OUT = Out()


@dataclass(eq=False)
class Step:
    """One call: ``function(*args, **kwargs)`` with values and :class:`Out` filled in.

    With :class:`Out` among its arguments it writes all its results into memory that the plan owns;
    without, it returns them.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Sequence[Value | None]
    single: bool = True
    view: bool = False  # the results share the first argument's memory
    any_layout: bool = False  # reads tensors of any strides
    any_output: bool = True  # writes tensors of any strides
    part_of: tuple[Value, int] | None = None  # a copy into a concatenation, at that channel
    # What its result may take the place of: each element is read just before it is written.
    overwrites: Value | None = None

    @property
    def made(self) -> list[Value]:
        """The results that are tensors."""
        return [value for value in self.results if value is not None]

    @property
    def writes(self) -> bool:
        """Whether it writes into given memory."""
        return any(isinstance(a, Out) for a in (*self.args, *self.kwargs.values()))

    def filled(self, results: Sequence[Any]) -> Step:
        """The same call with ``results`` in place of :class:`Out`, and none to give back."""

        def fill(argument: Any) -> Any:
            return results[argument.position] if isinstance(argument, Out) else argument

        kwargs = {key: fill(argument) for key, argument in self.kwargs.items()}
        return Step(self.function, tuple(map(fill, self.args)), kwargs, [])

    def reads(self) -> list[Value]:
        """The tensors it reads, repetitions included."""
        return list(values_in((self.args, self.kwargs)))

    @classmethod
    def of(cls, node: Node) -> Step:
        """The traced operator, unchanged."""
        return cls(
            node.op, node.args, node.kwargs, node.results, node.single, view=node.is_view()
        )  # fmt: skip


@dataclass(eq=False)
class Site:
    """Operators of the graph that one step can replace.

    ``nodes`` in execution order; the last one makes ``output``, which others read, and ``also``.
    """

    nodes: list[Node]
    output: Value
    before: list[Node]  # operators it makes unnecessary if nobody else reads their results
    label: str  # "body.0: conv2d 3x3 64->64 + relu"
    module: str  # where in the model: the name of its weights' owner, or ""

    also: list[Value] = field(default_factory=list, kw_only=True)  # the step's further results

    replaces = True  # whether it computes anything otherwise than PyTorch would

    @property
    def splits(self) -> bool:
        """Whether it took in what could be sites of its own."""
        return False

    def reads(self) -> list[Value]:
        """The tensors the step reads that are computed at run time."""
        raise NotImplementedError

    def variants(self) -> list[str]:
        """List the algorithms that can compute it, the best guess first."""
        raise NotImplementedError

    def step(self, variant: str, constants: Constants) -> Step:
        """Make the call that computes it with ``variant``."""
        raise NotImplementedError

    def error_bound(self, variant: str, env: Callable[[Value], Tensor]) -> float | None:
        """Allowed RMS error of ``variant``, or None if it must be bit-identical.

        ``env`` gives the numbers that the site has read.
        """
        raise NotImplementedError


@dataclass
class Constants:
    """The module's tensors, and what is computed from them alone.

    ``packed`` is kept from plan to plan: packed weights do not depend on the image's size.  A
    tensor that was traced in another layout than it has is laid out when it is first read.
    """

    tensors: list[Tensor]
    packed: dict[Any, Any]
    values: dict[Value, Tensor] = field(default_factory=dict)

    def enter(self, graph: Graph) -> None:
        """Compute every value of ``graph`` that depends on no argument of the call."""
        for value in graph.sources:
            assert value.source is not None
            # The module's are traced in the plan's dtype, what the forward makes in its own.
            self.values[value] = self.tensors[value.source].detach().to(value.dtype)
        for node in graph.nodes:
            if all(value in self.values for value in node.inputs()):
                results = run(Step.of(node), self.__getitem__)
                pairs = zip(node.results, results, strict=True)
                self.values.update((value, x) for value, x in pairs if value is not None)

    def __contains__(self, value: Value | None) -> bool:
        return value in self.values

    def __getitem__(self, value: Value) -> Tensor:
        tensor = self.values[value]
        if tensor.stride() == value.stride:
            return tensor
        key = ("laid out", value.source)
        if key not in self.packed:
            self.packed[key] = as_traced(tensor, value)
        return self.packed[key]

    def as_given(self, value: Value) -> Tensor:
        """The tensor in the module's own layout: no copy of it is kept."""
        return self.values[value]


def call_step(step: Step, env: Callable[[Value], Tensor]) -> Any:
    """Call the step's function on the tensors of ``env``; return its result."""
    return step.function(*substitute(step.args, env), **substitute(step.kwargs, env))


def run(step: Step, env: Callable[[Value], Tensor]) -> list[Any]:
    """Run ``step`` on the tensors of ``env``; its results have the traced layout."""
    result = call_step(step, env)
    results = [result] if step.single else list(result)
    for i, value in enumerate(step.results):
        if value is not None and results[i].stride() != value.stride:
            results[i] = as_traced(results[i], value)
    return results


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    dtype = torch.complex128 if x.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(x, dtype=dtype)) / max(1, x.numel()) ** 0.5


def as_traced(tensor: Tensor, value: Value) -> Tensor:
    """``tensor`` with the strides of ``value``: itself if they are equivalent, else a copy."""
    if tuple(tensor.shape) != value.shape:
        raise RuntimeError(f"an operator returned {tuple(tensor.shape)}, traced: {value.shape}")
    if same_layout(value.shape, tensor.stride(), value.stride):
        return tensor.as_strided(value.shape, value.stride)
    copy = torch.empty_strided(
        value.shape, value.stride, dtype=tensor.dtype, device=tensor.device
    )  # fmt: skip
    return copy.copy_(tensor)
