"""One call for each task: `deblur`, `inpaint`, `demosaic`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, overload

import numpy as np
from PIL import Image as PillowImage
from torch import Tensor

from denoise_ext.io import Picture, read_picture
from denoise_ext.io.read import as_shown
from denoise_ext.restore.kernels import Kernel
from denoise_ext.restore.operators import Blur, Mask, Mosaic
from denoise_ext.restore.restorer import Progress, Restorer
from denoise_ext.runtime.model_names import Model
from denoise_ext.tasks.images import ImageT
from denoise_ext.tasks.value_range import Range


@overload
def deblur(
    image: str | os.PathLike[str],
    kernel: Kernel,
    sigma: float | None = None,
    border: str = "free",
    *,
    model: Model = None,
    steps: int = 8,
    value_range: Range | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> np.ndarray: ...
@overload
def deblur(
    image: ImageT,
    kernel: Kernel,
    sigma: float | None = None,
    border: str = "free",
    *,
    model: Model = None,
    steps: int = 8,
    value_range: Range | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ImageT: ...
def deblur(
    image: Any,
    kernel: Kernel,
    sigma: float | None = None,
    border: str = "free",
    *,
    model: Model = None,
    steps: int = 8,
    value_range: Range | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Undo a known blur, or one that `estimate_kernel` found.

    Args:
        image, value_range, progress: as in `Restorer.run`.
        kernel: the blur: array or tensor (h, w), an image file, "gaussian:2.0" (sigma in pixels),
            "motion:15,30" (length in pixels, degrees counter-clockwise), "disk:4" (radius in
            pixels).  One that does not sum to 1 is divided by its sum.
        sigma: noise of the blurred image on the 0-255 scale.  None: estimated.
        border: "free": nothing is assumed beyond the edge.  "circular": the opposite edge.
        model, steps, options: those of `Restorer`.

    Returns:
        The sharp image, of the kind, dtype, range and size of `image`.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
        RuntimeError: as `Restorer`.

    Example:
        >>> sharp = denoise_ext.restore.deblur("photo.png", "motion:5,30", sigma=3, steps=2)
        >>> sharp.shape
        (48, 64, 3)
    """
    restorer = Restorer(Blur(kernel, border), model, sigma=sigma, steps=steps, **options)
    return restorer(image, value_range=value_range, progress=progress)


@overload
def inpaint(
    image: str | os.PathLike[str],
    mask: np.ndarray | Tensor,
    sigma: float = 0.0,
    *,
    model: Model = None,
    steps: int = 40,
    value_range: Range | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> np.ndarray: ...
@overload
def inpaint(
    image: ImageT,
    mask: np.ndarray | Tensor,
    sigma: float = 0.0,
    *,
    model: Model = None,
    steps: int = 40,
    value_range: Range | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ImageT: ...
def inpaint(
    image: Any,
    mask: np.ndarray | Tensor,
    sigma: float = 0.0,
    *,
    model: Model = None,
    steps: int = 40,
    value_range: Range | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Fill missing pixels.  Good for pixels, lines and thin scratches, not for large areas.

    Args:
        image, value_range, progress: as in `Restorer.run`.  Values at missing pixels are ignored,
            but must be finite.
        mask: (H, W), True or 1 where a pixel is known, False or 0 where it is missing.
        sigma: noise of the known pixels on the 0-255 scale.  0: they are kept, up to the
            rounding of float32.
        model, steps, options: those of `Restorer`.

    Raises:
        TypeError, ValueError, RuntimeError: as `deblur`.

    Example:
        >>> known = np.ones((48, 64), bool)
        >>> known[20:24, 30:34] = False
        >>> denoise_ext.restore.inpaint("photo.png", known, steps=2).shape
        (48, 64, 3)
    """
    restorer = Restorer(Mask(mask), model, sigma=sigma, steps=steps, **options)
    return restorer(image, value_range=value_range, progress=progress)


def demosaic(
    raw: Any,
    pattern: str = "RGGB",
    sigma: float | None = None,
    *,
    model: Model = None,
    steps: int = 24,
    value_range: Range | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Make a colour image of what a sensor behind a Bayer pattern measured, and denoise it.

    Args:
        raw: (H, W) array or tensor, Pillow image of mode L, gray `io.Picture` of one frame, or the
            name of a file.  Black level and white balance are not applied.
        pattern: the colours of the upper left 2 x 2 pixels: RGGB, BGGR, GRBG or GBRG.
        sigma: noise of the measurements on the 0-255 scale.  None: estimated.
        model, steps, value_range, progress, options: as in `deblur`.

    Returns:
        The colour image: (H, W, 3) array, (3, H, W) tensor, Pillow image or picture; for a file's
        name an array.

    Raises:
        TypeError, ValueError, RuntimeError: as `deblur`.

    Example:
        >>> raw = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
        >>> denoise_ext.restore.demosaic(raw, "RGGB", sigma=5, steps=2).shape
        (32, 32, 3)
    """
    restorer = Restorer(Mosaic(pattern), model, sigma=sigma, steps=steps, **options)
    return restorer(_in_three_channels(raw), value_range=value_range, progress=progress)


def _in_three_channels(raw: Any) -> Any:
    """The same gray image three times, as the kind that a colour image of it has."""
    if isinstance(raw, (str, os.PathLike)):
        raw = as_shown(read_picture(raw))[0]
    if isinstance(raw, Picture):
        if len(raw.frames) != 1 or raw.frames[0].ndim != 2:
            raise ValueError(
                f"raw must be a gray picture of one frame, got {len(raw.frames)} of shape"
                f" {raw.frames[0].shape}"
            )
        return replace(raw, frames=(_in_three_channels(raw.frames[0]),), mode="rgb")
    if isinstance(raw, PillowImage.Image):
        if raw.mode != "L":
            raise ValueError(f"raw must be a Pillow image of mode L, got {raw.mode}; give an array")
        raw = np.asarray(raw)
        return PillowImage.fromarray(_in_three_channels(raw))
    if not isinstance(raw, (np.ndarray, Tensor)):
        raise TypeError(f"raw must be an array, a tensor or an image, got {type(raw).__name__}")
    if raw.ndim != 2:
        raise ValueError(f"raw must be (H, W), one number for each pixel, got {tuple(raw.shape)}")
    if isinstance(raw, Tensor):
        return raw.expand(3, *raw.shape)
    return np.repeat(raw[..., None], 3, axis=2)
