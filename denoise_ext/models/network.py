"""The contract of every network: named tensors and a state in, named tensors and a state out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Port:
    """One named tensor of a network: (N, channels, scale * H, scale * W).

    H and W are the size of the reference grid, which every port of a network shares.

    Example:
        >>> from fractions import Fraction
        >>> denoise_ext.models.Port(3, scale=Fraction(1, 2)).size(64)
        32
    """

    channels: int
    scale: Fraction = Fraction(1)
    """Values per pixel of the reference grid, along each axis."""
    kind: Literal["image", "condition"] = "image"
    """"condition": what the network is conditioned on, such as a noise map.  One value for all
    places, (N, channels, 1, 1), is then allowed too."""

    def __post_init__(self) -> None:
        if isinstance(self.channels, bool) or not isinstance(self.channels, int):
            raise TypeError(f"channels must be an int, got {self.channels!r}")
        if self.channels < 1:
            raise ValueError(f"channels must be >= 1, got {self.channels}")
        object.__setattr__(self, "scale", Fraction(self.scale))
        if self.scale <= 0:
            raise ValueError(f"scale must be > 0, got {self.scale}")
        if self.kind not in ("image", "condition"):
            raise ValueError(f"kind must be image or condition, got {self.kind!r}")

    def size(self, length: int) -> int:
        """Values along an axis of ``length`` reference pixels; a part of one counts as one."""
        return -(-length * self.scale.numerator // self.scale.denominator)


@dataclass(frozen=True)
class Signature:
    """The inputs, outputs and state of a network.

    Each state is an input and an output: pass the state that a call returns to the next call.
    A state has the size of the padded image (see :meth:`Network.padded`), so that it is never cut.

    Example:
        >>> signature = denoise_ext.models.create_model("rdxnet_s_gray").signature
        >>> sorted(signature.inputs), sorted(signature.outputs)
        (['image', 'noise_map'], ['image'])
    """

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    state: Mapping[str, Port] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one port")
        if all(port.scale != 1 or port.kind != "image" for port in self.inputs.values()):
            raise ValueError("inputs must hold an image of scale 1, which is the reference grid")
        if both := set(self.state) & (set(self.inputs) | set(self.outputs)):
            raise ValueError(f"state must have names of its own, got {', '.join(sorted(both))}")

    @property
    def reference(self) -> str:
        """The input whose pixels are the reference grid: the first image of scale 1."""
        return next(
            n for n, port in self.inputs.items() if port.scale == 1 and port.kind == "image"
        )

    @property
    def alignment(self) -> int:
        """Reference pixels after which every port has a whole number of values."""
        ports = (*self.inputs.values(), *self.outputs.values(), *self.state.values())
        return lcm(*(port.scale.denominator for port in ports))


@dataclass(frozen=True)
class Geometry:
    """The part of an image that a network's result depends on.

    Attributes:
        receptive_field: side, in pixels, of the window of the inputs that can influence a
            ``stride`` x ``stride`` block of the outputs; None: the whole image.
        radius: how far from its own place a value of any output or state reads any input or
            state, at most; a tile with this much overlap on every side has exact inner pixels.
            None: the whole image.
        stride: the network commutes with shifts by multiples of this many pixels; a tile's origin
            must be such a multiple.
        global_operations: the places that need the whole image, such as the pooling of a channel
            attention: "module (operator)".

    Example:
        >>> from denoise_ext.analysis.geometry import describe
        >>> geometry = describe(denoise_ext.models.create_model("ffdnet_gray"))
        >>> geometry.radius, geometry.stride
        (31, 2)
    """

    receptive_field: int | None
    radius: int | None
    stride: int
    global_operations: tuple[str, ...]


class Network(nn.Module):
    """Base of all networks.

    A subclass sets ``signature`` and implements :attr:`config`, and :meth:`compute` for sizes that
    are multiples of ``stride``.  Everything else (any size, tiles, plans, memory, training, export)
    is derived from these.  The state is an argument and a result, never an attribute.  A subclass
    may state ``geometry`` where it cannot be found by analysis.
    :func:`~denoise_ext.models.register_architecture` sets ``family``.

    ``stride`` is a multiple of ``signature.alignment``.  ``pad_mode`` is how images are continued
    below and on the right up to a multiple of ``stride``: ``"reflect"`` or ``"replicate"``.

    ``delay`` is by how many calls the outputs of a video network are late: they belong to the image
    of that many calls before. Such a network looks ahead in time.

    Example:
        >>> from denoise_ext.models import Network, Port, Signature
        >>> class Average(Network):  # of a frame and the one before
        ...     config = {}
        ...     signature = Signature({"image": Port(1)}, {"image": Port(1)}, {"last": Port(1)})
        ...     def compute(self, inputs, state):
        ...         mean = (inputs["image"] + state["last"]) / 2
        ...         return {"image": mean}, {"last": inputs["image"]}
        >>> outputs, state = Average()({"image": torch.ones(1, 1, 8, 8)})
        >>> outputs, state = Average()({"image": torch.ones(1, 1, 8, 8)}, state)
        >>> float(outputs["image"].mean())
        1.0
    """

    family: ClassVar[str]
    signature: Signature
    stride: int = 1
    delay: int = 0
    pad_mode: ClassVar[str] = "reflect"
    # Stated by a network in place of the analysis. A text is the reason why there is none.
    geometry: Geometry | str | None = None
    # The method that the engine plans. It has no checks of values.
    accelerated_methods: ClassVar[tuple[str, ...]] = ("compute_any_size",)
    # Names in exported files, where they differ from those of the ports.
    exported_names: ClassVar[Mapping[str, str]] = {}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that rebuilds this network: ``build_model(model.config)``.

        A dict that JSON can hold: "family", and the arguments of the class.
        """
        raise NotImplementedError(f"{type(self).__name__} has no config")

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Compute outputs and next state for images whose H and W are multiples of ``stride``.

        Neither ``inputs`` nor ``state`` is changed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compute")

    def compute_any_size(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """:meth:`compute` for any H, W >= 1: pads the inputs, crops the outputs; no checks."""
        height, width = inputs[self.signature.reference].shape[-2:]
        rows, columns = self.padded(height), self.padded(width)
        if (rows, columns) == (height, width):
            return self.compute(inputs, state)
        padded = {
            name: self._extended(inputs[name], port, rows, columns)
            for name, port in self.signature.inputs.items()
        }
        outputs, state = self.compute(padded, state)
        cropped = {
            name: outputs[name][..., : port.size(height), : port.size(width)]
            for name, port in self.signature.outputs.items()
        }
        return cropped, state

    def forward(self, inputs: Tensors, state: Tensors | None = None) -> tuple[Tensors, Tensors]:
        """Check the inputs, and compute outputs and next state for images of any size.

        Args:
            inputs: one tensor for each input of the signature, of the network's dtype.
            state: what the last call returned; None: the :meth:`initial_state`.

        Raises:
            TypeError, ValueError: names or shapes that are not the signature's.
        """
        self._check(inputs, "inputs", self.signature.inputs)
        height, width = inputs[self.signature.reference].shape[-2:]
        self._check_sizes(inputs, "inputs", self.signature.inputs, height, width)
        if state is None:
            state = self.initial_state(inputs)
        self._check(state, "state", self.signature.state)
        rows, columns = self.padded(height), self.padded(width)
        self._check_sizes(state, "state", self.signature.state, rows, columns)
        return self.run_checked(inputs, state)

    def run_checked(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """Run :meth:`compute_any_size`: the part of :meth:`forward` after its checks."""
        return self.compute_any_size(inputs, state)

    def padded(self, length: int) -> int:
        """``length`` rounded up to a multiple of ``stride``."""
        return -(-length // self.stride) * self.stride

    def initial_state(self, inputs: Tensors) -> Tensors:
        """The state before the first call with images like ``inputs``: zeros."""
        like = inputs[self.signature.reference]
        n, _, height, width = like.shape
        rows, columns = self.padded(height), self.padded(width)
        return {
            name: like.new_zeros(n, port.channels, port.size(rows), port.size(columns))
            for name, port in self.signature.state.items()
        }

    def for_inference(self) -> Network:
        """This network, or one that computes the same in less time, in eval mode."""
        return self.eval()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights that training starts from.

        The default keeps those of the constructor: training seeds torch's generator before.
        """

    def _check(self, given: Tensors, what: str, ports: Mapping[str, Port]) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"{what} must be a dict of tensors, got {type(given).__name__}")
        if set(given) != set(ports):
            raise ValueError(f"{what} must hold {sorted(ports)}, got {sorted(map(str, given))}")
        for name, port in ports.items():
            x = given[name]
            if not isinstance(x, Tensor) or not x.is_floating_point():
                kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
                raise TypeError(f"{what}[{name!r}] must be a floating-point tensor, got {kind}")
            if x.dim() != 4 or x.shape[1] != port.channels or 0 in x.shape[2:]:
                raise ValueError(
                    f"{what}[{name!r}] must have shape (N, {port.channels}, H, W) with H, W >= 1,"
                    f" got {tuple(x.shape)}"
                )

    def _check_sizes(
        self, given: Tensors, what: str, ports: Mapping[str, Port], height: int, width: int
    ) -> None:
        for name, port in ports.items():
            size, wanted = tuple(given[name].shape[-2:]), (port.size(height), port.size(width))
            if size != wanted and not (port.kind == "condition" and size == (1, 1)):
                raise ValueError(
                    f"{what}[{name!r}] must be of {wanted[0]} x {wanted[1]} values beside an image"
                    f" of {height} x {width}, got {size[0]} x {size[1]}"
                )

    def _extended(self, x: Tensor, port: Port, rows: int, columns: int) -> Tensor:
        if port.kind == "condition" and x.shape[-2:] == (1, 1):
            return x
        down, right = port.size(rows) - x.shape[-2], port.size(columns) - x.shape[-1]
        return extend(x, down, right, self.pad_mode)


def extend(x: Tensor, rows: int, columns: int, mode: str) -> Tensor:
    """``x`` (N, C, H, W) continued below and on the right, by any number of rows and columns.

    ``mode="reflect"`` mirrors at the last row, again and again where the image is smaller than the
    continuation (as ``numpy.pad`` does); a single row or column is repeated.
    """
    if mode == "replicate":
        return F.pad(x, (0, columns, 0, rows), mode="replicate")
    while rows or columns:
        height, width = x.shape[-2:]
        down, right = min(rows, height - 1), min(columns, width - 1)
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="reflect")
        else:  # what is left has no neighbour to mirror
            down, right = rows if height == 1 else 0, columns if width == 1 else 0
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        rows, columns = rows - down, columns - right
    return x
