"""Enlarge images with a network that takes noisy ones, too."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch

from denoise_ext._log import get_logger
from denoise_ext.io import DEFAULT_MAX_PIXELS, Picture, resized
from denoise_ext.io.channels import colour_channels
from denoise_ext.models import ImageUpscaler, Network, create_model, list_models
from denoise_ext.models.registry import has_model
from denoise_ext.restore.guided_upscaler import GuidedUpscaler
from denoise_ext.restore.upscaled import (
    Upscaled,
    check_scale,
    check_sizes,
    checked_pixels,
    enlarged_alpha,
    upscaling_session,
)
from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.from_module import ModelKindError
from denoise_ext.runtime.model_names import Model, check_name, original_of
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.tasks.axes import parts_of
from denoise_ext.tasks.image_run import ImageRun, Settings
from denoise_ext.tasks.images import ImageView, open_image
from denoise_ext.tasks.result import noted
from denoise_ext.tasks.sigma import Sigma, check_sigma
from denoise_ext.tasks.value_range import Range, check_range

logger: logging.Logger = get_logger("denoise_ext.restore")

SCALES = (2, 3, 4)
"""Of this package's own networks."""

Image = TypeVar("Image")


class Upscaler:
    """Keep an upscaling network ready: plan and memory stay from image to image.

    Args:
        model: a `denoise_ext.models.ImageUpscaler` (also from `denoise_ext.accelerate`), a
            checkpoint file, or the name of a network with trained weights. None: "srnet_s_x2",
            "srnet_s_x3" or "srnet_s_x4".
        scale: rows and columns of the result for one of the image. None: the model's; without a
            model 2.
        sigma: noise of the images on the 0-255 scale. It is removed. 0: none, as of clean images.
            None: estimated for each image (`estimate_sigma`). Networks that take no level ignore
            it.
        max_pixels: refuse larger results, all frames of a picture together, before they are made.
        device, precision, backend, tile, max_memory: as in `Denoiser`. Tiles are those of the
            image, not of the result.

    Threads may use one `Upscaler` at the same time.

    Raises:
        TypeError, ValueError: a wrong argument, or one that the network does not fit; the message
            names it.
        RuntimeError: the device or the native library cannot be used.

    Example:
        >>> network = denoise_ext.models.create_model("srnet_s_x2").eval()  # not trained
        >>> upscaler = denoise_ext.restore.Upscaler(network, sigma=0)
        >>> [upscaler(name).shape for name in denoise_ext.io.list_images("photos")]
        [(96, 128, 3), (96, 128, 3)]
    """

    def __init__(
        self,
        model: Model = None,
        scale: int | None = None,
        *,
        sigma: Sigma = None,
        device: str | torch.device | None = "auto",
        precision: str = "default",
        backend: str = "native",
        tile: Tile = "auto",
        max_memory: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self._options = RunOptions(device, precision, backend, tile, max_memory)
        self._sigma, self._max_pixels = sigma, checked_pixels(max_pixels)
        check_sigma(sigma)
        check_scale(scale, SCALES[-1] if model is None else None)
        if isinstance(model, (str, os.PathLike)):
            check_model_name(model)
        elif model is None:
            model = default_upscaler(2 if scale is None else scale)
        choose_device(device, backend if isinstance(model, (str, os.PathLike)) else "torch")
        self._session = upscaling_session(
            model, self._options, lambda network: check_upscaler(network, scale)
        )
        self.scale: int = int(self._session.original.signature.outputs["image"].scale)

    def __call__(self, image: Any, sigma: Sigma = None, **how: Any) -> Any:
        """The enlarged image alone: arguments of `run`."""
        return self.run(image, sigma, **how).image

    def run(
        self,
        image: Any,
        sigma: Sigma = None,
        *,
        value_range: Range | None = None,
        axes: str | None = None,
        share: int = 1,
    ) -> Upscaled:
        """Enlarge one image, or a batch of images of one size.

        Args:
            image, value_range, axes: as in a call of `Denoiser`. At least 8 x 8 pixels.
            sigma: replaces the `Upscaler`'s.
            share: number of images that are computed at the same time and share the memory.

        Returns:
            The image, of the same kind, dtype, range and metadata, and what is known beside it. A
            picture keeps its physical size: its resolution (DPI) grows with the pixels. Alpha is
            enlarged by bicubic interpolation. Integers are clipped and rounded.

        Raises:
            TypeError, ValueError: an argument that does not fit; the message names it.
            ImageError: (a ValueError) a file that cannot be read.
            RuntimeError: the network's output is not finite even in float32.
        """
        start = time.perf_counter()
        sigma = self._sigma if sigma is None else sigma
        check_sigma(sigma)
        if not isinstance(image, Picture):
            made, (level, estimated), tiles = self._enlarged(
                open_image(image, axes), sigma, value_range, share
            )
            return self._result(made, level, estimated, start, tiles)
        self._check_sizes([frame.shape[:2] for frame in image.frames])
        if image.frames[0].dtype == np.bool_:  # black and white, whatever the range of others
            value_range = None
        parts, missing = [], 0
        for part in parts_of(image, axes):
            opened = open_image(part, axes)
            parts.append(self._enlarged(opened, sigma, value_range, share))
            missing += opened.missing
        picture = resized(image, [frame for part, _, _ in parts for frame in part.frames])
        picture = noted(picture, missing)
        facts = [found for _, found, _ in parts]
        levels = [float(torch.as_tensor(level).double().mean()) for level, _ in facts
                  if level is not None]  # fmt: skip
        mean = sum(levels) / len(levels) if levels else None
        tiles = sum(count for _, _, count in parts)
        return self._result(picture, mean, any(found for _, found in facts), start, tiles)

    def _result(
        self, image: Any, sigma: Any, estimated: bool, start: float, tiles: int
    ) -> Upscaled:
        seconds = time.perf_counter() - start
        logger.debug("enlarged %d times: sigma %s, %.3f s", self.scale, sigma, seconds)
        return Upscaled(image, self.scale, sigma, estimated, seconds, tiles)

    def _enlarged(
        self, opened: ImageView, sigma: Sigma, value_range: Range | None, share: int
    ) -> tuple[Any, tuple[Any, bool], int]:
        """The result for an image or batch, its level and whether that was estimated, tiles."""
        source = opened.source
        self._check_sizes([tuple(source.shape[2:])] * max(1, source.shape[0]))
        value_range = opened.value_range if value_range is None else value_range
        checked = check_range(value_range, source.dtype)
        value_range = None if value_range is None else checked
        if source.numel() == 0:
            return opened.target(Fraction(self.scale)).result(), (None, False), 0
        if not self._session.original.needs_sigma:
            sigma = None
        settings = Settings(None, 1.0, self._options, lambda *_: self._session)
        work = ImageRun(settings, opened, sigma, None, value_range, share)
        colour = colour_channels(source.shape[1])
        work.denoise(slice(0, colour))
        made = work.target
        assert made is not None  # after the colours
        alpha = source[:, colour:]
        if alpha.numel():
            made.pixels[:, colour:] = enlarged_alpha(alpha, self.scale, value_range)
        return made.result(), work.facts, work.tiles

    def _check_sizes(self, sizes: Sequence[tuple[int, ...]]) -> None:
        check_sizes(sizes, self.scale, self._max_pixels)


def upscale(
    image: Image,
    scale: int | None = None,
    sigma: Sigma = None,
    *,
    model: Model = None,
    guide: Any = None,
    value_range: Range | None = None,
    axes: str | None = None,
    **options: Any,
) -> Image:
    """Enlarge one image, of any kind, and return one of the same kind.

    Args:
        image, value_range, axes: as in `Upscaler.run`.
        scale: 2, 3 or 4. None: the model's; without a model 2. With a guide: that of the guide.
        sigma: noise of the image on the 0-255 scale. None: estimated; with a guide: none. 0: none.
        guide: an aligned picture of the result's size, such as the photograph of a depth map. All
            else is then as in `GuidedUpscaler`.
        model, options: those of `Upscaler`.

    Raises:
        TypeError, ValueError, RuntimeError: as `Upscaler`.

    Example:
        >>> network = denoise_ext.models.create_model("srnet_s_x2").eval()  # not trained
        >>> denoise_ext.restore.upscale("photo.png", sigma=0, model=network).shape
        (96, 128, 3)
    """
    if guide is not None:
        guided = GuidedUpscaler(model, scale, sigma=sigma, **options)
        return guided(image, guide, value_range=value_range, axes=axes)
    upscaler = Upscaler(model, scale, sigma=sigma, **options)
    return upscaler(image, value_range=value_range, axes=axes)


def default_upscaler(scale: int) -> str:
    """The name of this package's network for a scale."""
    return f"srnet_s_x{scale}"


def check_model_name(model: str | os.PathLike[str]) -> None:
    """ValueError unless an upscaler with weights, or a file, has this name."""
    name = os.fspath(model)
    check_name(name)
    if not has_model(name):
        return
    with torch.device("meta"):
        trained = [one for one in list_models(pretrained=True) if _enlarges(create_model(one))]
        fits = _enlarges(create_model(name))
    if not fits:
        raise ValueError(
            f"model {name!r} enlarges no images; upscalers with trained weights:"
            f" {', '.join(trained)}"
        )


def check_upscaler(model: object, scale: int | None) -> None:
    """ModelKindError, ValueError unless a network enlarges images ``scale`` times."""
    network = original_of(model)
    if not _enlarges(network):
        assert isinstance(network, Network)
        raise ModelKindError(
            "model must enlarge images (models.ImageUpscaler), got"
            f" {type(network).__name__} with outputs {', '.join(network.signature.outputs)}"
        )
    if scale is not None and scale != network.scale:
        raise ValueError(f"scale is {scale}, but model enlarges {network.scale} times")


def _enlarges(network: object) -> bool:
    return isinstance(network, ImageUpscaler)
