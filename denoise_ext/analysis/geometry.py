"""Which pixels of its inputs a network's outputs depend on, computed from the network itself.

The network's ``compute`` is run once on tensors without data, and every operator that PyTorch
executes is followed: it maps the input pixels that its inputs depend on to those of its result
(``extent_rules.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from denoise_ext._modules import ModuleT
from denoise_ext.analysis.extent import Axis, Extent, join
from denoise_ext.analysis.extent_rules import POINTWISE, RULES, WHOLE
from denoise_ext.models.network import Geometry, Network, Port, Tensors


class GeometryError(ValueError):
    """A network does something of which it is not known what it depends on; names the place.

    Example:
        >>> from denoise_ext.analysis.geometry import describe
        >>> class Sorted(denoise_ext.models.ImageDenoiser):
        ...     config = {}
        ...     def denoise(self, x, noise_map):
        ...         return x.sort(dim=-1).values
        >>> try:
        ...     describe(Sorted(1, needs_sigma=False))
        ... except denoise_ext.analysis.GeometryError as error:
        ...     print("sort" in str(error))
        True
    """


def describe(model: Network) -> Geometry:
    """The geometry of ``model``, in eval mode; its weights do not matter, and nothing is changed.

    Raises:
        TypeError: not a :class:`Network`.
        GeometryError: (a ValueError) an operator that has no rule here, or one whose result
            depends on absolute positions or on the image's size.
    """
    if not isinstance(model, Network):
        raise TypeError(f"model must be a denoise_ext model, got {type(model).__name__}")
    if isinstance(model.geometry, str):
        raise GeometryError(model.geometry)
    # By default any size that is larger than what a layer pads.
    return model.geometry or analyse(model, 64 * model.stride)


def analyse(model: Network, side: int) -> Geometry:
    """As `describe`, on images of ``side`` x ``side`` pixels, whatever the model states."""
    signature = model.signature
    try:
        twin = without_data(model).eval()
        follower = _Follower(twin)
    except Exception as error:  # whatever a foreign class raises
        raise GeometryError(f"cannot be followed: {type(error).__name__}: {error}") from error
    inputs, state = example(twin, side, device="meta")
    for name, tensor in {**inputs, **state}.items():
        axis = Axis.of_input({**signature.inputs, **signature.state}[name].scale)
        follower.set(tensor, Extent(axis, axis))
    try:
        with torch.no_grad(), follower:
            outputs, new_state = twin.compute(inputs, state)
    except GeometryError:
        raise
    except Exception as error:  # a forward may raise anything without data
        raise GeometryError(f"{follower.place}: cannot run without data: {error}") from error
    ports = {**signature.outputs, **signature.state}
    results = {**outputs, **new_state}
    if set(results) != set(ports):
        raise GeometryError(
            f"compute returned {sorted(results)}, its signature has {sorted(ports)}"
        )
    if follower.whole:
        stride = follower.stride
        return Geometry(None, None, stride, tuple(dict.fromkeys(follower.whole)))
    axes = []
    for name, port in ports.items():
        shape = _shape(port, side)
        if tuple(results[name].shape) != shape:
            found = tuple(results[name].shape)
            raise GeometryError(f"{name}: the signature has {shape}, compute returned {found}")
        extent = follower.get(results[name])
        if not isinstance(extent, Extent) or extent.dims != (2, 3):
            raise GeometryError(f"{name} does not depend on the inputs as an image does")
        axes += [extent.rows, extent.columns]
    return Geometry(
        max(axis.window() for axis in axes),
        max(axis.radius() for axis in axes),
        lcm(*(axis.period for axis in axes)),
        (),
    )


def example(
    model: Network, side: int, device: torch.device | str | None = None
) -> tuple[Tensors, Tensors]:
    """Inputs and state of zeros for ``side`` x ``side`` pixels, a multiple of the stride.

    Of the weights' dtype, and on their device unless another is given.
    """
    weight = next(model.parameters(), torch.empty(0))
    dtype, where = weight.dtype, device or weight.device
    inputs, state = (
        {
            name: torch.zeros(_shape(port, side), dtype=dtype, device=where)
            for name, port in ports.items()
        }
        for ports in (model.signature.inputs, model.signature.state)
    )
    return inputs, state


def _shape(port: Port, side: int) -> tuple[int, int, int, int]:
    return 1, port.channels, port.size(side), port.size(side)


def without_data(model: ModuleT) -> ModuleT:
    """A copy of ``model`` whose parameters and buffers are on the "meta" device: shapes alone."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {id(t): _shape_of(t) for t in tensors}
    return copy.deepcopy(model, memo)


def _shape_of(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty


class _Follower(TorchDispatchMode):
    """Runs operators and keeps what each of their results depends on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.whole: list[str] = []
        self.stride = 1
        self._extents: dict[int, Extent | str] = {}
        self._alive: list[Tensor] = []  # ids are unique among living objects only
        self._modules: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._entering(name))
            module.register_forward_hook(lambda *_: self._modules.pop() and None)

    @property
    def place(self) -> str:
        """The module that runs."""
        return self._modules[-1] if self._modules else "compute"

    def _entering(self, name: str) -> Callable[..., None]:
        return lambda *_: self._modules.append(name or "compute")

    def set(self, tensor: Tensor, extent: Extent | str) -> None:
        self._extents[id(tensor)] = extent
        self._alive.append(tensor)
        if isinstance(extent, Extent):
            self.stride = lcm(self.stride, extent.rows.period, extent.columns.period)

    def get(self, tensor: Tensor) -> Extent | str | None:
        return self._extents.get(id(tensor))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        arguments = _by_name(func, args, kwargs)
        inputs = list(_tensors_in(list(arguments.values())))
        extents = [self.get(tensor) for tensor in inputs]
        results = list(_tensors_in([result]))
        if any(extent is not None for extent in extents) and results:
            site = f"{self.place} ({func._schema.name})"
            site = site.replace("aten::", "").replace("denoise_ext::", "")
            try:
                extent = _result_extent(func, arguments, inputs, extents, results[0])
            except ValueError as error:
                raise GeometryError(f"{site}: {error}") from None
            if extent == WHOLE and any(isinstance(x, Extent) for x in extents):
                self.whole.append(site)
            for tensor in results:
                self.set(tensor, extent)
        return result


def _result_extent(
    func: Any,
    arguments: dict[str, Any],
    inputs: list[Tensor],
    extents: list[Extent | str | None],
    result: Tensor,
) -> Extent | str:
    name = func._schema.name
    local = [x for x in extents if isinstance(x, Extent)]
    if not local:
        return WHOLE
    if func._schema.is_mutable:
        name = name.removesuffix("_")
        # Whoever shares the memory changes too: harmless only where places do not mix.
        if name not in POINTWISE or len(local) > 1 or extents[0] not in local:
            raise ValueError("writes into a tensor that others may hold")
    if name in POINTWISE or name == "aten::cat":
        for tensor, extent in zip(inputs, extents, strict=True):
            if extent is None:
                _check_constant(tensor, local[0], result)
    if name in POINTWISE:
        return join(local)
    if name not in RULES:
        raise ValueError("an operator of which it is not known what its result depends on")
    if name == "aten::cat":
        RULES[name](arguments, local[0], tuple(result.shape))
        return join(local)
    image, residual = inputs[0], arguments.get("residual")
    for tensor, extent in zip(inputs, extents, strict=True):
        if (extent is None) == (tensor is image or tensor is residual):
            raise ValueError("takes something computed from the image as a parameter")
    extent = RULES[name](arguments, local[0], tuple(result.shape))
    # The residual of our convolution is read at the result's own place.
    return join([extent, *local[1:]]) if isinstance(extent, Extent) else extent


def _check_constant(tensor: Tensor, extent: Extent, result: Tensor) -> None:
    """Refuse a parameter with numbers of its own for different places."""
    shape = (1,) * (result.dim() - tensor.dim()) + tuple(tensor.shape)
    if any(shape[dim] != 1 for dim in extent.dims):
        raise ValueError(f"a constant of shape {tuple(tensor.shape)} differs from place to place")


def _by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of an operator's schema, defaults included."""
    schema = func._schema.arguments
    values = {argument.name: argument.default_value for argument in schema}
    values.update({argument.name: value for argument, value in zip(schema, args, strict=False)})
    return values | kwargs


def _tensors_in(values: Sequence[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)
