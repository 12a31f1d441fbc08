"""Pixels without a value, as depth maps have them: found, filled before a network, put back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.nn import JointBilateralBlur

HOLES = ("none", "keep", "fill")

_KERNEL = 25  # pixels: holes with a value so near are filled by the guide
_SPACE, _COLOUR = 6.0, 0.08  # standard deviations: pixels, and units of the guide's range
_LEAST = 1e-4  # weight of the values that are near and alike, of all; below it the guide is no help


def holes_in(source: Tensor) -> Tensor:
    """Where numbers are 0 or not finite; bool, of the shape of `source`."""
    empty = source == 0
    return empty | ~source.isfinite() if source.is_floating_point() else empty


def filled(x: Tensor, holes: Tensor, guide: Tensor | None) -> Tensor:
    """Fill holes from values that are near, and alike in the guide.

    Values around a hole are averaged with the weights of a joint bilateral filter. Where none near
    it is alike, the mean of the nearest values counts. Ever coarser grids give it, the pull-push of
    Gortler, Grzeszczuk, Szeliski, Cohen: "The Lumigraph", SIGGRAPH 1996.

    Args:
        x: (N, C, H, W), float32; what stands in a hole does not matter.
        holes: bool, of x's shape.
        guide: (N, 1 or 3, H, W), float32; None: the nearest values count everywhere.

    Returns:
        x with other numbers in the holes.

    Raises:
        ValueError: every pixel of an image is a hole; the message names "image".
    """
    known = (~holes).to(x.dtype)
    if bool((known.flatten(1).sum(1) == 0).any()):
        raise ValueError("image: every pixel is a hole (0, or not finite)")
    values = torch.where(holes, x.new_zeros(()), x)
    made = _pulled_and_pushed(values, known)
    if guide is not None:
        layer = JointBilateralBlur(_KERNEL, _COLOUR, _SPACE, color_distance_type="l2")
        for channel in range(x.shape[1]):
            one = slice(channel, channel + 1)
            weighted = layer(torch.cat([values[:, one], known[:, one]], 1), guide)
            value, weight = weighted[:, 0], weighted[:, 1]
            near = weight > _LEAST
            made[:, channel] = torch.where(near, value / weight.clamp_min(_LEAST), made[:, channel])
    return torch.where(holes, made, x)


def _pulled_and_pushed(values: Tensor, known: Tensor) -> Tensor:
    """Means of the nearest values; `values` is 0 where `known` is."""
    height, width = values.shape[-2:]
    if bool((known > 0).all()) or height * width == 1:
        return values / known.clamp_min(1e-12)
    kernel = (2 if height > 1 else 1, 2 if width > 1 else 1)
    coarse, weight = (F.avg_pool2d(x, kernel, ceil_mode=True) for x in (values, known))
    mean = _pulled_and_pushed(coarse, weight)
    size = [n * k for n, k in zip(mean.shape[-2:], kernel, strict=True)]
    large = F.interpolate(mean, size, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(known > 0, values / known.clamp_min(1e-12), large)
