"""napari: a widget that takes an image layer and adds a denoised one.

An installed package shows it under Plugins: the entry point ``napari.manifest`` names
``napari.yaml`` beside this file. Nothing of napari is imported here. It calls `denoise_layer` and
makes the widget from the arguments' types.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from denoise_ext.tasks import Denoiser

LayerData = tuple[np.ndarray, dict[str, Any], str]
"""Data, settings and kind of a layer: napari's ``LayerDataTuple``."""


def denoise_layer(
    layer: Any, automatic: bool = True, sigma: float = 15.0, strength: float = 1.0
) -> LayerData:
    """Denoise every picture of an image layer.

    The last two axes are rows and columns (before the colours, where the layer has colours). Each
    step of the other axes is a picture of its own. uint8 and uint16 are taken as their type's whole
    range. Of other types, the smallest value is black and the largest one white.

    Args:
        layer: of type ``napari.layers.Image``. It is not changed.
        automatic: find the noise in each picture. Otherwise `sigma` counts.
        sigma: level of the noise on the 0-255 scale, where 255 is from black to white.
        strength: 1: the network's result; 0: the picture; between, a blend of both.

    Returns:
        Data and settings of a new layer, which lies over the first one.

    Raises:
        TypeError, ValueError: a layer of several resolutions, without pixels, with numbers that are
            not finite, or of a type that `Denoiser` does not take; the message names the argument.

    Example:
        >>> from denoise_ext.integrations.napari import denoise_layer
        >>> class Layer:  # as napari.layers.Image
        ...     rgb, multiscale = False, False
        ...     def as_layer_data_tuple(self):
        ...         pixels = np.random.default_rng(0).integers(0, 256, (5, 48, 64), np.uint8)
        ...         return pixels, {"name": "cells", "scale": (2.0, 0.3, 0.3)}, "image"
        >>> data, settings, kind = denoise_layer(Layer())
        >>> data.shape, settings["name"], kind
        ((5, 48, 64), 'cells denoised', 'image')
    """
    if layer.multiscale:
        raise ValueError("layer must have one resolution, got a multiscale image")
    data, settings, kind = layer.as_layer_data_tuple()
    pixels = np.asarray(data)
    if not pixels.size:
        raise ValueError(f"layer must have pixels, got shape {pixels.shape}")
    count = 3 if layer.rgb else 2  # axes of a picture
    pictures = pixels.reshape(-1, *pixels.shape[pixels.ndim - count :])
    axes = "NYXS" if layer.rgb else "NYX"
    denoiser = Denoiser(sigma=None if automatic else sigma, strength=strength)
    clean = denoiser(pictures, value_range=_range_of(pixels), axes=axes).reshape(pixels.shape)
    return clean, {**settings, "name": f"{settings['name']} denoised"}, kind


# napari's names of types, from which it makes the widget. They are looked up in napari alone.
denoise_layer.__annotations__.update(
    {"layer": "napari.layers.Image", "return": "napari.types.LayerDataTuple"}
)


def _range_of(pixels: np.ndarray) -> tuple[float, float] | None:
    """Black and white; None: those of the type."""
    if pixels.dtype in (np.uint8, np.uint16):
        return None
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(high - low):
        raise ValueError(f"layer must have finite numbers, got {low:g} to {high:g}")
    return (low, high) if low < high else (low, low + 1)
