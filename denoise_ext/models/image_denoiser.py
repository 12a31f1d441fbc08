"""Networks of one image, denoisers and upscalers: ``model(x, sigma=None)``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.models.network import Network, Port, Signature, Tensors

Sigma = float | int | Tensor | None

# Limits for files: a larger network would exhaust memory.
MAX_LAYERS = 1000
MAX_LEVELS = 16
MAX_SCALE = 8
MAX_UNSHUFFLE = 16


class ImageNetwork(Network):
    """Base of networks that take one image and its noise level, and give one image.

    Call it as ``model(x, sigma)``:

    * ``x``: (N, C, H, W) floating point, nominally in [0, 1] (noise may leave that range), with
      ``C == model.in_channels`` and any H, W >= 1.
    * ``sigma``: standard deviation of the noise **on the 0-255 scale**: a number, a tensor (N,)
      with one value per image, or a map (N, 1, H, W). ``None`` for models that do not use it
      (``model.needs_sigma`` is False); a blind model checks a given sigma and then ignores it.

    Returns the image (N, C, scale * H, scale * W), of x's dtype, not clipped.

    As a :class:`Network` it takes ``image`` and, with ``needs_sigma``, ``noise_map`` (sigma / 255),
    and gives ``image``; it has no state.  ``model({"image": x, ...})`` calls it so.

    Example:
        >>> network = denoise_ext.models.create_model("dxnet_s_gray", pretrained=True)
        >>> x = torch.rand(1, 1, 40, 32)
        >>> level = torch.full((1, 1, 1, 1), 25 / 255)
        >>> with torch.no_grad():
        ...     y = network(x, sigma=25.0)
        ...     outputs, state = network({"image": x, "noise_map": level})
        >>> torch.equal(outputs["image"], y), state
        (True, {})
    """

    needs_sigma: bool
    scale: int

    def __init__(self, in_channels: int, needs_sigma: bool, scale: int = 1) -> None:
        super().__init__()
        self.in_channels: int = check_positive_int("channels", in_channels)
        self.needs_sigma, self.scale = needs_sigma, scale
        inputs = {"image": Port(in_channels)}
        if needs_sigma:
            inputs["noise_map"] = Port(1, kind="condition")
        outputs = {"image": Port(in_channels, scale=Fraction(scale))}
        self.signature: Signature = Signature(inputs, outputs)

    # A network of one image names its arguments x and sigma.
    @overload
    def forward(self, x: Tensor, sigma: Sigma = None) -> Tensor: ...
    @overload
    def forward(self, x: Tensors, sigma: Tensors | None = None) -> tuple[Tensors, Tensors]: ...
    def forward(self, x: Any, sigma: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The image that the network makes of ``x``; inputs by name as :class:`Network`."""
        if isinstance(x, Mapping):
            return super().forward(cast("Tensors", x), sigma)
        inputs = self.inputs_for(x, sigma)
        if x.numel() == 0:  # empty batch: there is nothing to compute
            return x.new_empty(*x.shape[:2], *(side * self.scale for side in x.shape[2:]))
        outputs, _ = self.run_checked(inputs, {})
        return outputs["image"]

    def inputs_for(self, x: Tensor, sigma: Sigma) -> Tensors:
        """The network's inputs for an image and a noise level as in a call, both checked."""
        self._check_image(x)
        noise_map = self._noise_map(x, sigma)
        return {"image": x} if noise_map is None else {"image": x, "noise_map": noise_map}

    def _check_image(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}")
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.shape[2] < 1 or x.shape[3] < 1:
            raise ValueError(
                f"x must have shape (N, {self.in_channels}, H, W) with H, W >= 1, "
                f"got {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point in [0, 1], got {x.dtype}")

    def _noise_map(self, x: Tensor, sigma: Sigma) -> Tensor | None:
        """sigma / 255 as (1 or N, 1, 1 or H, 1 or W) in x's dtype, on x's device; checked."""
        if sigma is None:
            if self.needs_sigma:
                raise ValueError(
                    "sigma is required by this model: a number, a tensor (N,) or a map "
                    "(N, 1, H, W), on the 0-255 scale"
                )
            return None
        noise_map = checked_sigma(x, sigma) / 255.0
        return noise_map.to(x.dtype) if self.needs_sigma else None


class ImageDenoiser(ImageNetwork):
    """Base of networks that take one noisy image and give the clean one, of the same size.

    Called as :class:`ImageNetwork`.  Subclasses implement :meth:`denoise` and :attr:`config`
    (docs/models.md).

    Example:
        >>> class Smooth(denoise_ext.models.ImageDenoiser):
        ...     config = {}
        ...     def denoise(self, x, noise_map):  # noise_map: sigma / 255
        ...         return torch.nn.functional.avg_pool2d(x, 3, 1, padding=1)
        >>> Smooth(in_channels=1, needs_sigma=True)(torch.rand(1, 1, 9, 7), 25.0).shape
        torch.Size([1, 1, 9, 7])
    """

    exported_names: ClassVar[Mapping[str, str]] = {"image": "denoised"}

    def __init__(self, in_channels: int, needs_sigma: bool) -> None:
        super().__init__(in_channels, needs_sigma)

    def denoise(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """Denoise ``x`` (N, C, H, W), H and W multiples of ``stride``.

        ``noise_map`` is sigma / 255, broadcastable to (N, 1, H, W), or None for blind models.
        """
        raise NotImplementedError(f"{type(self).__name__} has no denoise")

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        return {"image": self.denoise(inputs["image"], inputs.get("noise_map"))}, state


class ImageUpscaler(ImageNetwork):
    """Base of networks that enlarge one image ``scale`` times, 2 to 8.

    Called as :class:`ImageNetwork`.  Subclasses implement :meth:`enlarge` and :attr:`config`.

    Example:
        >>> class Repeat(denoise_ext.models.ImageUpscaler):
        ...     config = {}
        ...     def enlarge(self, x, noise_map):
        ...         return torch.nn.functional.interpolate(x, scale_factor=self.scale)
        >>> Repeat(in_channels=3, needs_sigma=False, scale=2)(torch.rand(1, 3, 8, 6)).shape
        torch.Size([1, 3, 16, 12])
    """

    exported_names: ClassVar[Mapping[str, str]] = {"image": "enlarged"}

    def __init__(self, in_channels: int, needs_sigma: bool, scale: int) -> None:
        scale = check_positive_int("scale", scale, 2, MAX_SCALE)
        super().__init__(in_channels, needs_sigma, scale)

    def enlarge(self, x: Tensor, noise_map: Tensor | None) -> Tensor:
        """Enlarge ``x`` (N, C, H, W) to (N, C, scale * H, scale * W).

        H and W are multiples of ``stride``. ``noise_map`` is as for `ImageDenoiser.denoise`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no enlarge")

    def compute(self, inputs: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        """See :meth:`Network.compute`."""
        return {"image": self.enlarge(inputs["image"], inputs.get("noise_map"))}, state


def append_noise_map(x: Tensor, noise_map: Tensor | None) -> Tensor:
    """The image (N, C, H, W) with the noise map as one more channel; without one as it is."""
    if noise_map is None:
        return x
    n, _, h, w = x.shape
    return torch.cat([x, noise_map.expand(n, 1, h, w)], dim=1)  # (N, C+1, H, W)


def unshuffle_with_noise_map(x: Tensor, noise_map: Tensor | None, side: int = 2) -> Tensor:
    """Image (N, C, H, W) and noise map at 1 / side of the resolution.

    Returns (N, side^2 C + 1, H / side, W / side), without a map (N, side^2 C, ...). side x side
    pixels become channels; a map of the image's size is averaged over them. H and W are multiples.
    """
    if side == 1:
        return append_noise_map(x, noise_map)
    if noise_map is not None and noise_map.shape[-2:] == x.shape[-2:]:
        noise_map = F.avg_pool2d(noise_map, side)
    return append_noise_map(F.pixel_unshuffle(x, side), noise_map)


def shuffle(x: Tensor, side: int) -> Tensor:
    """(N, side^2 C, H, W) to (N, C, side H, side W)."""
    return x if side == 1 else F.pixel_shuffle(x, side)


def checked_sigma(x: Tensor, sigma: float | int | Tensor) -> Tensor:
    """sigma as float32 (float64 for a float64 image), shape (1 or N, 1, 1 or H, 1 or W)."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float, Tensor)):
        raise TypeError(f"sigma must be a number or a tensor, got {type(sigma).__name__}")
    if not isinstance(sigma, Tensor):
        if not 0 <= sigma < math.inf:  # comparisons alone: torch.compile makes a symbol of it
            raise ValueError(f"sigma must be finite and >= 0 (0-255 scale), got {sigma}")
        return torch.full((1, 1, 1, 1), float(sigma), dtype=dtype, device=x.device)
    if sigma.is_complex() or sigma.dtype == torch.bool:
        raise TypeError(f"sigma must be a real number tensor, got {sigma.dtype}")
    n, _, h, w = x.shape
    if sigma.dim() == 0:
        shaped = sigma.reshape(1, 1, 1, 1)
    elif tuple(sigma.shape) == (n,):
        shaped = sigma.reshape(n, 1, 1, 1)
    elif sigma.dim() == 4 and tuple(sigma.shape) in ((n, 1, h, w), (n, 1, 1, 1), (1, 1, h, w)):
        shaped = sigma
    else:
        raise ValueError(
            f"sigma must be a number, a tensor of shape ({n},) or a map of shape "
            f"({n}, 1, {h}, {w}), got shape {tuple(sigma.shape)}"
        )
    if sigma.device != x.device and sigma.dim() != 0:
        raise ValueError(f"sigma is on {sigma.device} but x is on {x.device}")
    # Reading values back would break a graph being traced; eager calls are always checked.
    if not torch.compiler.is_compiling():
        values = sigma.detach()
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise ValueError("sigma must be finite and >= 0 (0-255 scale) everywhere")
    return shaped.to(device=x.device, dtype=dtype)


def check_positive_int(
    name: str, value: object, minimum: int = 1, maximum: int | None = None
) -> int:
    """``value`` as int, or a TypeError/ValueError naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be <= {maximum}, got {value}")
    return value


def check_positive_ints(name: str, values: object, maximum: int | None = None) -> list[int]:
    """``values`` as a list of ints >= 1, not empty, or an error naming the argument."""
    if not isinstance(values, (list, tuple)) or not values:
        raise TypeError(f"{name} must be a list of ints, got {values!r}")
    return [
        check_positive_int(f"{name}[{i}]", value, maximum=maximum) for i, value in enumerate(values)
    ]
