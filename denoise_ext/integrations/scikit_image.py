"""scikit-image: filters with the arguments of its functions, and networks in the same form.

Results are floating point as there: uint8 and uint16 are divided by their largest value. Nothing of
scikit-image is imported. Images have two dimensions, and a third one where `channel_axis` names it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from denoise_ext import ops
from denoise_ext._arguments import LARGEST_BILATERAL, LARGEST_GAUSSIAN
from denoise_ext._choices import check_choice
from denoise_ext.tasks import Denoiser

_WHITE = {"uint8": 255.0, "uint16": 65535.0, "bool": 1.0}
# scikit-image's names of what lies beyond the edge -> numpy.pad's
_GAUSSIAN_MODES = {"reflect": "symmetric", "constant": "constant", "nearest": "edge",
                   "mirror": "reflect", "wrap": "wrap"}  # fmt: skip
_BILATERAL_MODES = ("constant", "edge", "symmetric", "reflect", "wrap")


def gaussian(
    image: np.ndarray,
    sigma: float | Sequence[float] = 1.0,
    *,
    mode: str = "nearest",
    cval: float = 0.0,
    preserve_range: bool = False,
    truncate: float = 4.0,
    channel_axis: int | None = None,
) -> np.ndarray:
    """Blur as ``skimage.filters.gaussian`` does, up to rounding.

    Args:
        image: (H, W), or with `channel_axis` three axes; bool, uint8, uint16, floating point.
        sigma: standard deviation in pixels, >= 0; one, or (vertical, horizontal).
        mode: what lies beyond the edge: "nearest", "reflect", "constant", "mirror" or "wrap".
        cval: the value there, for "constant".
        preserve_range: keep the numbers of integer images, in place of dividing by the largest.
        truncate: how many sigma the window reaches.
        channel_axis: the axis of the channels; None: a gray image.

    Returns:
        float32 of a float32 or float16 image, otherwise float64.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.

    Example:
        >>> from denoise_ext.integrations import scikit_image
        >>> smooth = scikit_image.gaussian(np.eye(9), sigma=1.5)
        >>> smooth.shape, smooth.dtype
        ((9, 9), dtype('float64'))
    """
    planes = _planes(image, channel_axis, preserve_range)
    check_choice("mode", mode, tuple(_GAUSSIAN_MODES))
    both = [sigma] * 2 if isinstance(sigma, numbers.Real) else sigma
    if not isinstance(both, (list, tuple, np.ndarray)):
        raise TypeError(f"sigma must be one or two numbers, got {sigma!r}")
    if len(both) != 2:
        raise ValueError(f"sigma must be one or two numbers, got {sigma!r}")
    given = [_number("sigma", value) for value in both]
    wide = _number("truncate", truncate)
    reach = [int(wide * value + 0.5) for value in given]
    window = (2 * reach[0] + 1, 2 * reach[1] + 1)
    if max(window) > LARGEST_GAUSSIAN:
        raise ValueError(
            f"sigma times truncate must make a window of at most {LARGEST_GAUSSIAN} pixels, got"
            f" {max(window)}"
        )
    # A window of one pixel is the pixel itself, whatever its sigma.
    spread = [value if size > 1 else 1.0 for value, size in zip(given, window, strict=True)]

    def blur(padded: torch.Tensor) -> torch.Tensor:
        return ops.gaussian_blur2d(padded, window, (spread[0], spread[1]), "constant")

    return _image(_filtered(planes, blur, reach, _GAUSSIAN_MODES[mode], cval), channel_axis)


def denoise_bilateral(
    image: np.ndarray,
    win_size: int | None = None,
    sigma_color: float | None = None,
    sigma_spatial: float = 1.0,
    bins: int = 10000,
    mode: str = "constant",
    cval: float = 0.0,
    *,
    channel_axis: int | None = None,
) -> np.ndarray:
    """Denoise by the formula that ``skimage.restoration.denoise_bilateral`` documents.

    Colour distances are exact here. scikit-image rounds them to one of `bins` steps between 0 and
    the largest number of the image. Its version 0.26 also misreads its table of spatial weights
    (docs/integrations.md), so that its results differ.

    Args:
        image: (H, W), or with `channel_axis` three axes; bool, uint8, uint16, floating point.
        win_size: side of the window, odd. None: ``max(5, 2 ceil(3 sigma_spatial) + 1)``.
        sigma_color: standard deviation of the colour distance, after the division to [0, 1].
            The distance is Euclidean, divided by the number of channels. None: that of the image.
        sigma_spatial: standard deviation of the distance in pixels.
        bins: ignored; scikit-image's argument.
        mode: what lies beyond the edge: "constant", "edge", "symmetric", "reflect" or "wrap".
        cval: the value there, for "constant".
        channel_axis: the axis of the channels; None: a gray image.

    Returns:
        float32 of a float32 or float16 image, otherwise float64.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.

    Example:
        >>> from denoise_ext.integrations import scikit_image
        >>> photo = denoise_ext.io.read_image("photo.png")
        >>> clean = scikit_image.denoise_bilateral(photo, sigma_color=0.1, channel_axis=-1)
        >>> clean.shape, clean.dtype
        ((48, 64, 3), dtype('float64'))
    """
    planes = _planes(image, channel_axis)
    check_choice("mode", mode, _BILATERAL_MODES)
    space = _number("sigma_spatial", sigma_spatial, positive=True)
    size = max(5, 2 * math.ceil(3 * space) + 1) if win_size is None else win_size
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        raise TypeError(f"win_size must be an odd number of pixels or None, got {win_size!r}")
    if not 1 <= size <= LARGEST_BILATERAL or size % 2 == 0:
        raise ValueError(
            f"win_size must be odd, from 1 to {LARGEST_BILATERAL}, got {win_size!r} with"
            f" sigma_spatial {space:g}"
        )
    if sigma_color is None:
        spread = float(planes.std(correction=0))
    else:
        spread = _number("sigma_color", sigma_color, positive=True)
    if spread == 0:
        return _image(planes, channel_axis)  # one value throughout

    def blur(padded: torch.Tensor) -> torch.Tensor:
        by_channels = planes.shape[1] * spread
        return ops.bilateral_blur(padded, int(size), by_channels, space, "constant", "l2")

    return _image(_filtered(planes, blur, [int(size) // 2] * 2, mode, cval), channel_axis)


def denoise_network(
    image: np.ndarray,
    sigma: float | None = None,
    *,
    strength: float = 1.0,
    channel_axis: int | None = None,
    denoiser: Denoiser | None = None,
) -> np.ndarray:
    """Denoise with a network; arguments as of ``skimage.restoration.denoise_nl_means``.

    Args:
        image: (H, W), or with `channel_axis` three axes, 1 or 3 channels; bool, uint8, uint16,
            floating point in [0, 1].
        sigma: standard deviation of the noise, where white is 1. None: the noise decides.
        strength: 1: the network's result; 0: the image; between, a blend of both.
        channel_axis: the axis of the channels; None: a gray image.
        denoiser: a `denoise_ext.Denoiser`, to keep a network from image to image.

    Returns:
        float32 of a float32 or float16 image, otherwise float64.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.

    Example:
        >>> from denoise_ext.integrations import scikit_image
        >>> photo = denoise_ext.io.read_image("photo.png")
        >>> clean = scikit_image.denoise_network(photo, sigma=0.08, channel_axis=-1)
        >>> clean.shape, clean.dtype
        ((48, 64, 3), dtype('float64'))
    """
    planes = _planes(image, channel_axis)
    level = None if sigma is None else 255 * _number("sigma", sigma)
    result = (denoiser or Denoiser()).run(planes, level, strength=strength)
    return _image(result.image, channel_axis)


def _planes(image: Any, channel_axis: int | None, preserve_range: bool = False) -> torch.Tensor:
    """(1, C, H, W) float32 or float64, white 1 unless the range is preserved."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a NumPy array, got {type(image).__name__}")
    dimensions = 2 if channel_axis is None else 3
    if image.ndim != dimensions or 0 in image.shape:
        what = "(H, W)" if channel_axis is None else "of three axes, as channel_axis is given,"
        raise ValueError(f"image must be {what} and not empty, got shape {image.shape}")
    if image.dtype.name not in _WHITE and image.dtype.kind != "f":
        raise TypeError(f"image must be bool, uint8, uint16 or floating point, got {image.dtype}")
    small = image.dtype in (np.float16, np.float32)
    values = image.astype(np.float32 if small else np.float64)
    if not preserve_range:
        values = np.divide(values, _WHITE.get(image.dtype.name, 1.0), dtype=values.dtype)
    if channel_axis is None:
        values = values[None]
    else:
        if not -3 <= channel_axis < 3:
            raise ValueError(f"channel_axis must be from -3 to 2, got {channel_axis}")
        values = np.moveaxis(values, channel_axis, 0)
    return torch.from_numpy(np.ascontiguousarray(values))[None]


def _number(name: str, value: object, positive: bool = False) -> float:
    """`value` as a float; TypeError, ValueError unless it is a finite number >= 0, or above."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not 0 <= number < math.inf or (positive and number == 0):
        raise ValueError(f"{name} must be finite and {'> 0' if positive else '>= 0'}, got {number}")
    return number


def _filtered(
    planes: torch.Tensor,
    blur: Callable[[torch.Tensor], torch.Tensor],
    reach: list[int],
    mode: str,
    cval: float,
) -> torch.Tensor:
    """What `blur` makes of the planes with `reach` rows and columns more on each side."""
    rows, columns = reach
    around = ((0, 0), (0, 0), (rows, rows), (columns, columns))
    more: dict[str, Any] = {"constant_values": cval} if mode == "constant" else {}
    pad: Any = np.pad  # its overloads want each mode as a literal
    blurred = blur(torch.from_numpy(pad(planes.numpy(), around, mode=mode, **more)))
    height, width = blurred.shape[-2:]
    return blurred[..., rows : height - rows, columns : width - columns]


def _image(planes: torch.Tensor, channel_axis: int | None) -> np.ndarray:
    """The array of (1, C, H, W), its channels where they were."""
    values = planes[0].numpy()
    if channel_axis is None:
        return np.ascontiguousarray(values[0])
    return np.ascontiguousarray(np.moveaxis(values, 0, channel_axis))
