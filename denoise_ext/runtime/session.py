"""A network ready to run: planned, in its precision, on whole images and on tiles."""

from __future__ import annotations

import copy
import math
import threading
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from denoise_ext._precision import PRECISIONS
from denoise_ext.analysis.geometry import GeometryError, describe
from denoise_ext.engine import Accelerated, accelerate, plan
from denoise_ext.models.network import Geometry, Network, Tensors
from denoise_ext.nn import Conv2d, ConvTranspose2d
from denoise_ext.ops import kernel_devices
from denoise_ext.runtime import tiling
from denoise_ext.runtime.from_module import FromModule
from denoise_ext.runtime.memory import bytes_per_pixel


class Session:
    """Runs a network with any inputs, outputs and state. Threads may share it.

    Args:
        network: in eval mode.
        precision: one of `PRECISIONS`.
        run_planned: as a plan of this package's kernels, where the device has them. One that is
            accelerated already stays as it is.
        place: device and dtype of the inputs, where they are not those of the weights.

    Attributes:
        original: the network as it was given, not accelerated.
        device, dtype: of the inputs: those of its weights.

    Raises:
        ValueError: a precision for a network that is accelerated already.
        RuntimeError: the native library is missing (with `run_planned`).

    Example:
        >>> network = denoise_ext.runtime.open_network("dxnet_s", channels=1)
        >>> session = denoise_ext.runtime.Session(network, "default", run_planned=True)
        >>> inputs = {"image": torch.rand(1, 1, 32, 32), "noise_map": torch.full((1, 1, 1, 1), 0.1)}
        >>> outputs, state, recomputed = session.run(inputs)
        >>> outputs["image"].shape, recomputed
        (torch.Size([1, 1, 32, 32]), False)
    """

    device: torch.device
    dtype: torch.dtype

    def __init__(
        self,
        network: Network | Accelerated,
        precision: str,
        run_planned: bool,
        place: tuple[torch.device, torch.dtype] | None = None,
    ) -> None:
        accelerated = isinstance(network, Accelerated)
        self.original: Network = cast("Network", network.original if accelerated else network)
        self.device, self.dtype = place or place_of(self.original)
        half = half_of(precision)
        if accelerated and precision != "default":
            raise ValueError(
                f"precision {precision!r}: the model is accelerated already, with a precision"
                " of its own; pass the network it was made from"
            )
        # Dtype of the inputs: a plan takes inputs of the weights' own type.
        self._fed = self.dtype
        if not accelerated:
            if half and not (run_planned and _has_plans(self.device) and is_own(network)):
                network, self._fed = copy.deepcopy(network).to(half), half
            # Layers have a precision of their own, which counts where no plan replaces them.
            surely_planned = self.device.type == "cpu" and is_own(network)
            if run_planned and precision in ("strict", "fast") and not surely_planned:
                network = _with_precision(cast("Network", network), precision)
            if run_planned:
                network = planned(network, precision)
        self._network = network
        # One that is accelerated already may have been so with any precision.
        self._precision = "fast" if accelerated else precision
        self._computed_in = half or self.dtype
        self._exact: Network | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @cached_property
    def _geometry(self) -> Geometry | str:
        """The network's geometry, or why it is not known."""
        try:
            return describe(self.original)
        except GeometryError as error:
            return str(error)

    @property
    def untileable(self) -> str:
        """Why images cannot be cut into tiles; "" where they can."""
        geometry = self._geometry
        if isinstance(geometry, str):
            return geometry
        first, *others = geometry.global_operations or ("",)
        if others:
            return f"{first} and {len(others)} more need the whole image"
        return f"{first} needs the whole image" if first else ""

    @property
    def tile_rule(self) -> tiling.Rule:
        """Overlap and alignment of tiles; only where it is not `untileable`."""
        geometry, alignment = self._geometry, self.original.signature.alignment
        assert isinstance(geometry, Geometry) and geometry.radius is not None
        # Windows are padded to the network's stride, as the whole image is.
        stride = math.lcm(geometry.stride, self.original.stride, alignment)
        return tiling.rule(geometry.radius, stride, self._precision, alignment)

    @cached_property
    def bytes_per_pixel(self) -> float:
        """Memory for each pixel of an image's reference grid, that of all ports included."""
        recorded = isinstance(self._network, Accelerated) and self.device.type == "cuda"
        return bytes_per_pixel(self.original, self._computed_in, recorded)

    def run(self, inputs: Tensors, state: Tensors | None = None) -> tuple[Tensors, Tensors, bool]:
        """Compute the outputs for finite inputs.

        Args:
            inputs: by name, on `device`, in `dtype`.
            state: what the call before returned; None: the network's `initial_state`.

        Returns:
            Outputs, next state, and whether they were recomputed in float32 after an overflow of
            the network's type. All numbers are finite.

        Raises:
            RuntimeError: an overflow in float32, too: the network's weights are at fault.
        """
        outputs, after = self._network(_in(self._fed, inputs), state and _in(self._fed, state))
        if _finite(outputs) and _finite(after):
            return outputs, after, False
        exact = torch.float32
        outputs, after = self._in_float32()(_in(exact, inputs), state and _in(exact, state))
        if not (_finite(outputs) and _finite(after)):
            raise RuntimeError(
                "the network's output is not finite, not even in float32: its weights are damaged"
                " or do not fit images in [0, 1]"
            )
        return outputs, after, True

    def run_tiles(
        self,
        tiles: tiling.Grid,
        read: tiling.Read,
        write: tiling.Write,
        state: Tensors | None = None,
    ) -> tuple[Tensors, int]:
        """`tiling.run_tiles`; returns the next state, and how many tiles were computed again."""
        recomputed = 0

        def compute(inputs: Tensors, before: Tensors | None) -> tuple[Tensors, Tensors]:
            nonlocal recomputed
            outputs, after, again = self.run(inputs, before)
            recomputed += again
            return outputs, after

        after = tiling.run_tiles(self.original, compute, tiles, read, write, state)
        return after, recomputed

    def _in_float32(self) -> Network:
        """The network without a plan (Winograd's transforms overflow earlier than sums)."""
        with self._lock:
            if self._exact is None:
                self._exact = copy.deepcopy(self.original).float()
            return self._exact


def planned(network: Network | Accelerated, precision: str) -> Network | Accelerated:
    """`network` as a plan of this package's kernels, where its device has them."""
    if isinstance(network, Accelerated) or not _has_plans(place_of(network)[0]):
        return network
    algorithm, half = PRECISIONS[precision].algorithm, half_of(precision)
    if is_own(network):
        return plan(network, algorithm, half)
    return accelerate(network, precision=algorithm)  # compared with the original


def _has_plans(device: torch.device) -> bool:
    # Without the native library, planning on the CPU raises, with the reason.
    on_gpu = device.type == "cuda" and "cuda" in kernel_devices("conv2d_out")
    return device.type == "cpu" or on_gpu


def half_of(precision: str) -> torch.dtype | None:
    """The 16-bit type of a precision; None: the network's own type."""
    name = PRECISIONS[precision].dtype
    return None if name is None else getattr(torch, name)


def is_own(network: nn.Module) -> bool:
    """Whether this package's code alone computes `network`, so that plans of it can be trusted."""
    return not isinstance(network, FromModule) and all(
        type(part).__module__.startswith(("denoise_ext.", "torch.nn."))
        for part in network.modules()
    )


def place_of(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a network; of one without numbers: CPU, float32."""
    tensors = [*network.parameters(), *network.buffers()]
    found = next((x for x in tensors if x.is_floating_point()), torch.empty(0))
    return found.device, found.dtype


def _in(dtype: torch.dtype, tensors: Tensors) -> Tensors:
    return {name: x.to(dtype) for name, x in tensors.items()}


def _with_precision(network: Network, precision: str) -> Network:
    """A copy whose convolutions of this package have that precision; it shares the parameters."""
    if not any(isinstance(part, (Conv2d, ConvTranspose2d)) for part in network.modules()):
        return network
    shared = {id(x): x for x in (*network.parameters(), *network.buffers())}
    network = copy.deepcopy(network, shared)
    for part in network.modules():
        if isinstance(part, (Conv2d, ConvTranspose2d)):
            part.precision = precision
    return network


def _finite(tensors: Tensors) -> bool:
    # A sum is one pass and finite only if every term is.  float64 holds any sum of float32s, but
    # takes ten times as long: it decides where the sum in float32 is not finite.
    return all(
        any(math.isfinite(float(x.sum(dtype=kind))) for kind in (_summed_in(x), torch.float64))
        for x in tensors.values()
    )


def _summed_in(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


__all__ = ["Session", "place_of", "planned"]
