"""A network as inference uses it: planned, told sigma, fed images of any channel count."""

from __future__ import annotations

import copy
import math
import os
import threading
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from denoise_ext.analysis.geometry import Geometry, GeometryError, describe
from denoise_ext.engine import Accelerated, accelerate, plan
from denoise_ext.engine.accelerate import accelerated_like
from denoise_ext.models import Network
from denoise_ext.nn import Conv2d, ConvTranspose2d, JointBilateralBlur
from denoise_ext.runtime.device import check_backend, choose_device
from denoise_ext.runtime.families import default_model, member
from denoise_ext.runtime.from_module import FromModule, from_module
from denoise_ext.runtime.loading import load_model
from denoise_ext.runtime.memory import bytes_per_pixel
from denoise_ext.runtime.tiling import Rule, rule

PRECISIONS = ("strict", "default", "fast", "bfloat16", "float16")
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}

Model = Network | Accelerated | nn.Module | JointBilateralBlur | str | os.PathLike[str] | None
Sigma = float | np.ndarray | Tensor | None


class Runner:
    """Calls a network on parts of images; several threads may.

    Args:
        network: from `find_network`.
        precision: one of `PRECISIONS`.
        planned: run it as a plan of this package's kernels (on the CPU; elsewhere they are called
            one by one). One that is accelerated already stays as it is.

    Raises:
        ValueError: a precision for a network that is accelerated already.
        RuntimeError: the native library is missing (with `planned`).
    """

    def __init__(self, network: Network | Accelerated, precision: str, planned: bool) -> None:
        self.original: Network = network.original if _is_accelerated(network) else network
        self.device, self.dtype = _place(self.original)
        half, accelerated = _HALF.get(precision), _is_accelerated(network)
        if accelerated:
            if precision != "default":
                raise ValueError(
                    f"precision {precision!r}: the model is accelerated already, with a precision"
                    " of its own; pass the network it was made from"
                )
        elif planned and self.device.type == "cpu" and is_own(network):
            network = plan(network, "default" if half else precision, half)
        else:
            if half:
                network, self.dtype = copy.deepcopy(network).to(half), half
            if planned and self.device.type == "cpu":  # another's: held against the original
                network = accelerate(network, precision="default" if half else precision)
            elif planned and precision in ("strict", "fast"):
                network = _with_precision(network, precision)
        self._network = network
        # One that is accelerated already may have been so with any precision.
        self._precision = "fast" if accelerated else precision
        self._computed_in = half or self.dtype
        self._bytes_per_pixel: dict[int, float] = {}
        self._exact: Network | None = None
        self._lock = threading.Lock()
        self.needs_sigma = self.original.needs_sigma
        self.in_channels = self.original.in_channels

    takes_guide = False

    def check(self, channels: int) -> None:
        """Raise ValueError unless images of so many channels can be denoised."""
        if channels == 1 and self.in_channels != 1 and not self.needs_sigma:
            raise ValueError(
                "model is a blind one for colour images, but the image is gray: use a gray model"
                f" such as {default_model(1)}"
            )
        if self.in_channels not in (1, channels) and channels != 1:
            raise ValueError(
                f"model takes {self.in_channels} channels, but the image has {channels}"
            )

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
            if isinstance(self.original, FromModule):
                geometry += "; runtime.from_module(model, radius=...) states how far a pixel sees"
            return geometry
        first, *others = geometry.global_operations or ("",)
        if others:
            return f"{first} and {len(others)} more need the whole image"
        return f"{first} needs the whole image" if first else ""

    @property
    def tile_rule(self) -> Rule:
        """Overlap and alignment of tiles; only where it is not `untileable`."""
        geometry = self._geometry
        assert isinstance(geometry, Geometry) and geometry.radius is not None
        return rule(geometry.radius, geometry.stride, self._precision)

    def bytes_per_pixel(self, channels: int) -> float:
        """Memory for each pixel of an image of so many channels."""
        if channels not in self._bytes_per_pixel:
            size = bytes_per_pixel(self.original, self._computed_in, channels)
            self._bytes_per_pixel[channels] = size
        return self._bytes_per_pixel[channels]

    def __call__(
        self, x: Tensor, sigma: float | Tensor | None, guide: Tensor | None = None
    ) -> tuple[Tensor, bool]:
        """Denoise `x` (N, C, H, W), finite and in [0, 1]; networks take no guide.

        Returns:
            The result, finite, and whether it had to be computed again in float32 since a number
            in between had left the range of the network's type.

        Raises:
            RuntimeError: float32 does not hold it either: the network's weights are at fault.
        """
        y = self._apply(self._network, x, sigma)
        if _finite(y):
            return y, False
        y = self._apply(self._in_float32(), x.float(), sigma)
        if not _finite(y):
            raise RuntimeError(
                "the network's output is not finite: it overflows in float32 too, so that its"
                " weights are damaged or do not fit images in [0, 1]"
            )
        return y, True

    def _in_float32(self) -> Network:
        """The network without a plan (Winograd's transforms overflow earlier than sums)."""
        with self._lock:
            if self._exact is None:
                self._exact = copy.deepcopy(self.original).float()
            return self._exact

    def _apply(
        self, network: Network | Accelerated, x: Tensor, sigma: float | Tensor | None
    ) -> Tensor:
        n, c, h, w = x.shape
        if self.in_channels == c:
            return network(x, sigma)
        if c == 1:
            copies = self.in_channels
            output = network(x.expand(n, copies, h, w), sigma * math.sqrt(copies))
            return output.mean(dim=1, keepdim=True)
        # a gray network: every channel is an image of its own
        if isinstance(sigma, Tensor) and sigma.dim() > 0 and sigma.shape[0] == n:
            sigma = sigma.repeat_interleave(c, dim=0)
        return network(x.reshape(n * c, 1, h, w), sigma).reshape(n, c, h, w)


def find_network(
    model: Model, channels: int, device: str | torch.device | None, backend: str
) -> Network | Accelerated:
    """The network that `model` stands for, in eval mode.

    Args:
        model: a network (also accelerated), the name of one with trained weights or of a family
            of two ("dxnet_s"), a checkpoint file, or None: the shipped one for images of
            `channels` channels.
        device, backend: see `choose_device`; a network that is passed in stays where it is, and
            `device` must be "auto", None or that device.

    Raises:
        TypeError, ValueError, RuntimeError: an argument that does not fit, or cannot be used.
    """
    check_backend(backend)
    model = member(model, channels)
    if isinstance(model, (str, os.PathLike)):
        return load_model(model, device, backend)
    if not isinstance(model, Network) and not _is_accelerated(model):
        raise TypeError(
            "model must be a denoise_ext model, a torch.nn.Module, a name or a path, got"
            f" {type(model).__name__}"
        )
    if model.training:
        raise ValueError("model is in training mode; call model.eval() first")
    place = _place(model)[0]
    if device not in (None, "auto"):
        wanted = choose_device(device, "torch")
        if wanted.type != place.type or wanted.index not in (None, place.index):
            raise ValueError(f"model is on {place}, but device is {str(device)!r}")
    return model


def adopted(model: Model, channels: int | None, needs_sigma: bool | None) -> Model:
    """`model`, a plain module as a network (`runtime.from_module`); all others as they are.

    Raises:
        TypeError, ValueError: `channels` is missing for a module, or given for anything else.
    """
    known = isinstance(model, (Network, JointBilateralBlur)) or _is_accelerated(model)
    if known or not isinstance(model, nn.Module):
        for name, value in (("channels", channels), ("needs_sigma", needs_sigma)):
            if value is not None:
                kind = repr(model) if isinstance(model, str) else type(model).__name__
                raise ValueError(
                    f"{name} is for a plain torch.nn.Module, but model is {kind}, got {value!r}"
                )
        return model
    if channels is None:
        raise ValueError(
            f"channels is required with a plain torch.nn.Module ({type(model).__name__}): 1 for a"
            " gray model, 3 for RGB; needs_sigma=True where it is called as model(x, sigma)"
        )
    plain = model.original if isinstance(model, Accelerated) else model
    network = from_module(plain, channels, False if needs_sigma is None else needs_sigma)
    return network if plain is model else accelerated_like(model, network)


def is_own(network: nn.Module) -> bool:
    """Whether this package's code alone computes `network`, so that plans of it can be trusted."""
    return not isinstance(network, FromModule) and all(
        type(part).__module__.startswith(("denoise_ext.", "torch.nn."))
        for part in network.modules()
    )


def _place(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a network; of one without numbers: CPU, float32."""
    tensors = [*network.parameters(), *network.buffers()]
    found = next((x for x in tensors if x.is_floating_point()), torch.empty(0))
    return found.device, found.dtype


def check_sigma(sigma: object) -> None:
    """Raise TypeError or ValueError unless `sigma` is None, an array, or a number >= 0."""
    if sigma is None or isinstance(sigma, (np.ndarray, np.generic, Tensor)):
        return
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
        raise TypeError(f"sigma must be a number, an array or a tensor, got {type(sigma).__name__}")
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and >= 0 (0-255 scale), got {sigma!r}")


def sigma_argument(sigma: Sigma, x: Tensor) -> float | Tensor | None:
    """sigma in a form the network takes for `x` (N, C, H, W): a number, (N,), (N, 1, H, W)."""
    if isinstance(sigma, np.generic):
        return sigma.item()
    if isinstance(sigma, np.ndarray):
        if sigma.dtype.kind not in "iuf":
            raise TypeError(f"sigma must hold real numbers, got {sigma.dtype}")
        sigma = torch.from_numpy(np.ascontiguousarray(sigma, dtype=np.float64))
    if isinstance(sigma, Tensor):
        if sigma.dim() == 2:
            if sigma.shape != x.shape[-2:]:
                raise ValueError(
                    f"sigma: a map must have the image's size {tuple(x.shape[-2:])}, got"
                    f" {tuple(sigma.shape)}"
                )
            sigma = sigma.expand(x.shape[0], 1, *sigma.shape)
        return sigma
    check_sigma(sigma)
    return sigma


def _is_accelerated(model: object) -> bool:
    return isinstance(model, Accelerated) and isinstance(model.original, Network)


def _with_precision(network: Network, precision: str) -> Network:
    """A copy whose convolutions of this package have that precision; it shares the parameters."""
    shared = {id(x): x for x in (*network.parameters(), *network.buffers())}
    network = copy.deepcopy(network, shared)
    for part in network.modules():
        if isinstance(part, (Conv2d, ConvTranspose2d)):
            part.precision = precision
    return network


def _finite(x: Tensor) -> bool:
    # A sum is one pass and finite only if every term is; float64 holds any sum of float32s.
    return math.isfinite(float(x.sum(dtype=torch.float64)))
