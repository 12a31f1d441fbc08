"""`from_module`: run any `nn.Module` as a network of this package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from denoise_ext._choices import check_bool
from denoise_ext.analysis.geometry import GeometryError, analyse, without_data
from denoise_ext.engine.accelerate import Accelerated, accelerated_like
from denoise_ext.models.image_denoiser import (
    ImageDenoiser,
    ImageUpscaler,
    Sigma,
    check_positive_int,
    checked_sigma,
)
from denoise_ext.models.network import Geometry, Network, Tensors
from denoise_ext.nn import JointBilateralBlur

# Of the images on which a module is analysed. What it does may depend on the size.
_SIDES = (64, 1024)


def from_module(
    module: nn.Module,
    channels: int,
    needs_sigma: bool = False,
    *,
    stride: int | None = None,
    radius: int | None = None,
) -> FromModule:
    """Make a plain module a network that inference takes.

    Args:
        module: called as ``module(x)`` or ``module(x, sigma)``, in eval mode. ``x`` is (N, C, H, W)
            floating point in [0, 1], where noise may leave that range. ``sigma`` is a tensor
            (N, 1, 1, 1), or (N, 1, H, W) for a map, in x's dtype, on the 0-255 scale. The result is
            the denoised image in x's shape, floating point.
        channels: C, 1 (gray) or 3 (RGB) for images.
        needs_sigma: whether the module takes sigma as its second argument.
        stride: pad H and W to a multiple of it, and crop. None: the module's own, where it is found
            and the module takes no other size; else 1.
        radius: how far from itself a pixel of the result reads, at most. It is the overlap of
            tiles. None: it is found by analysis (`analysis.geometry`), or there are no tiles.

    Raises:
        TypeError, ValueError: an argument that does not fit; a module in training mode; ``stride``
            or ``radius`` that the analysis contradicts.

    Example:
        >>> module = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
        >>> network = denoise_ext.runtime.from_module(module, channels=1, stride=1, radius=1)
        >>> denoise_ext.denoise(np.zeros((32, 32), np.uint8), network).shape
        (32, 32)
    """
    return FromModule(module, channels, needs_sigma, stride, radius)


def adopted(model: Any, channels: int | None, needs_sigma: bool | None) -> Any:
    """`model`, a plain module as a network (`from_module`); all others as they are.

    Raises:
        TypeError, ValueError: `channels` is missing for a module, or given for anything else.
    """
    plain = model.original if isinstance(model, Accelerated) else model
    if not isinstance(plain, nn.Module) or isinstance(plain, (Network, JointBilateralBlur)):
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
    network = from_module(plain, channels, False if needs_sigma is None else needs_sigma)
    return network if plain is model else accelerated_like(model, network)


class ModelKindError(TypeError, ValueError):
    """A network of another kind than is needed: an argument, or what a name stands for."""


def check_image_denoiser(model: Any) -> None:
    """ModelKindError for a network that is no image denoiser; all else passes."""
    network = model.original if isinstance(model, Accelerated) else model
    if isinstance(network, Network) and not isinstance(network, ImageDenoiser):
        inputs, outputs = network.signature.inputs, network.signature.outputs
        other = "restore.Upscaler" if isinstance(network, ImageUpscaler) else "runtime.Session"
        raise ModelKindError(
            "model must be an image denoiser (models.ImageDenoiser: an image and its noise level"
            f" in, an image out), got {type(network).__name__} with inputs {', '.join(inputs)} and"
            f" outputs {', '.join(outputs)}; {other} runs it"
        )


class FromModule(ImageDenoiser):
    """What :func:`from_module` returns. It has no `config`: save the module itself.

    Example:
        >>> module = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
        >>> network = denoise_ext.runtime.from_module(module, channels=1)
        >>> isinstance(network, denoise_ext.runtime.FromModule)
        True
    """

    family = "module"

    def __init__(
        self,
        module: nn.Module,
        channels: int,
        needs_sigma: bool = False,
        stride: int | None = None,
        radius: int | None = None,
    ) -> None:
        if not isinstance(module, nn.Module) or isinstance(module, Network):
            kind = type(module).__name__
            raise TypeError(f"module must be a torch.nn.Module that is no network, got {kind}")
        for name, part in module.named_modules():
            if part.training:
                which = f"its part {name!r}" if name else "it"
                raise ValueError(f"model: {which} is in training mode; call model.eval() first")
        super().__init__(channels, check_bool("needs_sigma", needs_sigma))
        self.module = module
        self.eval()
        given = None if stride is None else check_positive_int("stride", stride)
        if radius is not None:
            check_positive_int("radius", radius, minimum=0)
        found = self._analysed()
        if isinstance(found, Geometry):
            _check_stated(found, given, radius)
            self.stride: int = given or (1 if self._takes_any_size(found.stride) else found.stride)
            # Windows of tiles are padded as the whole image is.
            self.geometry: Geometry | str | None = replace(
                found, stride=max(found.stride, self.stride)
            )
        else:
            self.stride = given or 1
            self.geometry = f"{found}; runtime.from_module(model, radius=...) states the radius"
            if radius is not None:
                self.geometry = Geometry(2 * radius + self.stride, radius, self.stride, ())

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return f"channels={self.in_channels}, needs_sigma={self.needs_sigma}, stride={self.stride}"

    def run_checked(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """As :class:`Network`; ValueError for what the module raises, or returns wrongly."""
        x = inputs["image"]
        try:
            # Copies: the module may change its arguments in place, and they may be the caller's.
            inputs = {name: tensor.clone() for name, tensor in inputs.items()}
            return self.compute_any_size(inputs, state)
        except (_UnfitError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a foreign forward may raise anything
            reason = str(error).strip().splitlines() or ["no reason given"]
            call = "model(x, sigma)" if self.needs_sigma else "model(x)"
            raise ValueError(
                f"{call} of {type(self.module).__name__} fails for x of shape {tuple(x.shape)},"
                f" {x.dtype} (channels={self.in_channels}, needs_sigma={self.needs_sigma}):"
                f" {type(error).__name__}: {reason[0]}"
            ) from error

    def _noise_map(self, x: Tensor, sigma: Sigma) -> Tensor | None:
        """Sigma itself, which modules take, as (N, 1, 1 or H, 1 or W) of their own."""
        if super()._noise_map(x, sigma) is None or sigma is None:
            return None
        shaped = checked_sigma(x, sigma).to(x.dtype)
        return shaped.expand(len(x), -1, -1, -1)

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """What the module returns, checked; ``noise_map`` is sigma on the 0-255 scale."""
        y = self.module(x) if noise_map is None else self.module(x, noise_map)
        kind = type(self.module).__name__
        if not isinstance(y, Tensor):
            what = f"a {type(y).__name__}"
            if isinstance(y, (tuple, list)):
                what += f" of {len(y)}"
            raise _UnfitError(f"model must return one tensor, but {kind} returns {what}")
        if y.shape != x.shape:
            raise _UnfitError(
                f"model must return an image of x's shape {tuple(x.shape)}, but {kind} returns"
                f" shape {tuple(y.shape)} (channels={self.in_channels}, stride={self.stride})"
            )
        if not y.is_floating_point():
            raise _UnfitError(f"model must return floating point, but {kind} returns {y.dtype}")
        if y.device != x.device:
            raise _UnfitError(f"x is on {x.device}, but {kind} returns a tensor on {y.device}")
        return y.to(x.dtype)

    def _analysed(self) -> Geometry | str:
        """The same geometry at every size, or why there is none."""
        try:
            found = [analyse(self, side) for side in _SIDES]
        except GeometryError as error:
            return str(error)
        if found[0] != found[1]:
            return f"what it reads depends on the image's size: {found[0]} and {found[1]}"
        return found[0]

    def _takes_any_size(self, stride: int) -> bool:
        """Whether an image whose sides are no multiples of ``stride`` has a result."""
        twin = without_data(self)
        dtype = next((p.dtype for p in twin.parameters()), torch.float32)
        side = _SIDES[0] * stride
        try:
            for extra in {1, stride - 1} - {0} if stride > 1 else ():
                x = torch.empty(1, self.in_channels, side + extra, side + extra, dtype=dtype)
                x = x.to("meta")
                with torch.no_grad():
                    twin.denoise(x, x[:, :1] if self.needs_sigma else None)
        except Exception:  # any of them means that the size does not fit
            return False
        return True


class _UnfitError(ValueError):
    """A result that is no denoised image."""


def _check_stated(found: Geometry, stride: int | None, radius: int | None) -> None:
    if stride is not None and stride % found.stride:
        raise ValueError(f"stride must be a multiple of {found.stride}, which was found: {stride}")
    if radius is None:
        return
    if found.radius is None:
        raise ValueError(
            f"radius is {radius}, but the model reads the whole image: {found.global_operations}"
        )
    if radius < found.radius:
        raise ValueError(f"radius must be >= {found.radius}, which was found, got {radius}")
