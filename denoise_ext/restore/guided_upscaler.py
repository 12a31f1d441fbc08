"""Enlarge depth maps and other images with a guide of the larger size."""

from __future__ import annotations

import math
import os
import time
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from denoise_ext._choices import check_choice
from denoise_ext.io import DEFAULT_MAX_PIXELS, Picture
from denoise_ext.io.channels import colour_channels
from denoise_ext.resampling import imresize
from denoise_ext.restore.upscaled import (
    Upscaled,
    check_scale,
    check_sizes,
    checked_pixels,
    enlarged_alpha,
    upscaling_session,
)
from denoise_ext.runtime.from_module import ModelKindError
from denoise_ext.runtime.model_names import Model, check_name, original_of
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.tasks.guide import GUIDED, Guide, open_guide, takes_guide, unit_guide
from denoise_ext.tasks.holes import HOLES, filled, holes_in, keep_values
from denoise_ext.tasks.image_run import ImageRun, Settings
from denoise_ext.tasks.images import ImageView, Target, open_image
from denoise_ext.tasks.result import noted
from denoise_ext.tasks.sigma import Sigma, check_sigma
from denoise_ext.tasks.value_range import Range, check_range, from_unit, to_unit

LARGEST_SCALE = 16


class GuidedUpscaler:
    """Keep a network with a guide ready, which enlarges images to the size of their guides.

    The image is enlarged by `resampling.imresize`. The network then sharpens the edges that the
    guide shows.

    Args:
        model: a network with a guide, its name or checkpoint file. None: "dxnet_s_guided".
        scale: rows and columns of the guide for one of the image, 2 to 16. None: any of these. A
            network is good at the scales that it was trained for: "dxnet_s_guided" at 4 and 8.
        sigma: noise of the images on the 0-255 scale. It is removed before they are enlarged.
            None, 0: none.
        holes: "none", "keep" or "fill", as in `Denoiser`.
        device, precision, backend, tile, max_memory: as in `Denoiser`. Tiles are those of the
            result.
        max_pixels: refuse larger results before they are made.

    Threads may use one `GuidedUpscaler` at the same time.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
        RuntimeError: the device or the native library cannot be used.

    Example:
        >>> upscaler = denoise_ext.restore.GuidedUpscaler()
        >>> depth = np.random.default_rng(0).integers(500, 3000, (12, 16), dtype=np.uint16)
        >>> upscaler(depth, "photo.png").shape
        (48, 64)
    """

    def __init__(
        self,
        model: Model = None,
        scale: int | None = None,
        *,
        sigma: Sigma = None,
        holes: str = "none",
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
        check_choice("holes", holes, HOLES)
        check_scale(scale, LARGEST_SCALE)
        self._scale, self._holes = scale, holes
        model = GUIDED if model is None else model
        if isinstance(model, (str, os.PathLike)):
            check_name(model)
        self._session = upscaling_session(model, self._options, _check_kind)

    def __call__(self, image: Any, guide: Any, sigma: Sigma = None, **how: Any) -> Any:
        """The enlarged image alone: arguments of `run`."""
        return self.run(image, guide, sigma, **how).image

    def run(
        self,
        image: Any,
        guide: Any,
        sigma: Sigma = None,
        *,
        value_range: Range | None = None,
        axes: str | None = None,
        share: int = 1,
    ) -> Upscaled:
        """Enlarge one image, or a batch of images of one size, to the size of the guide.

        Args:
            image, axes: as in a call of `Denoiser`. At least 8 x 8 pixels. A picture of one frame.
            guide: as in a call of `Denoiser`, of a whole multiple of the image's rows and columns.
            sigma: replaces the `GuidedUpscaler`'s.
            value_range: the numbers that mean black and white. Default: the least and the largest
                number of the image, holes left out; the result has no number beyond them.
            share: number of images that are computed at the same time and share the memory.

        Returns:
            The image, of the same kind, dtype and metadata, and what is known beside it. Alpha is
            enlarged by bicubic interpolation.

        Raises:
            TypeError, ValueError: an argument that does not fit; the message names it.
            ImageError: (a ValueError) a file that cannot be read.
            RuntimeError: the network's output is not finite even in float32.
        """
        start = time.perf_counter()
        sigma = self._sigma if sigma is None else sigma
        check_sigma(sigma)
        opened = open_image(image, axes, holes=self._holes)
        aligned = open_guide(guide, image)
        scale = self._scale_of(opened.source, aligned.source)
        sizes = [tuple(opened.source.shape[2:])] * max(1, opened.source.shape[0])
        check_sizes(sizes, scale, self._max_pixels)
        target, tiles = opened.target(Fraction(scale)), 0
        if opened.source.numel():
            tiles = self._fill(target.pixels, opened, aligned, scale, sigma, value_range, share)
        made = target.result()
        if isinstance(image, Picture):
            made = noted(made, opened.missing)
        return Upscaled(made, scale, sigma, False, time.perf_counter() - start, tiles)

    def _scale_of(self, image: Tensor, guide: Tensor) -> int:
        """How many times as large the guide is; ValueError where that is no scale."""
        (rows, columns), (high, wide) = image.shape[-2:], guide.shape[-2:]
        scale = high // rows
        if (high, wide) != (scale * rows, scale * columns) or not 2 <= scale <= LARGEST_SCALE:
            raise ValueError(
                f"guide must have 2 to {LARGEST_SCALE} times the image's {columns} x {rows} pixels,"
                f" the same along both axes, got {wide} x {high}"
            )
        if self._scale not in (None, scale):
            raise ValueError(f"scale is {self._scale}, but the guide is {scale} times as large")
        return scale

    def _fill(
        self,
        target: Tensor,
        opened: ImageView,
        aligned: ImageView,
        scale: int,
        sigma: Sigma,
        value_range: Range | None,
        share: int,
    ) -> int:
        """Write the result, and return how many tiles it has."""
        colour = colour_channels(opened.source.shape[1])
        source, alpha = opened.source[:, :colour], opened.source[:, colour:]
        holes = holes_in(source) if self._holes != "none" else None
        at = _own_range(source, holes) if value_range is None else value_range
        at = check_range(at, source.dtype)
        reduced = aligned
        if holes is not None or not _is_zero(sigma):
            reduced = _reduced(aligned, scale)
        known = source if holes is None else torch.where(holes, source.new_full((), at[0]), source)
        x = to_unit(known, torch.float32, at)  # may be the caller's own memory: only read
        if holes is not None and bool(holes.any()):
            guide = Guide(reduced, x).part(slice(None), (slice(None), slice(None)), x.device)
            x = filled(x, holes, guide)
        tiles = 0
        if not _is_zero(sigma):
            x, tiles = self._denoised(x, reduced, sigma, share)
        large, more = self._denoised(imresize(x, scale), aligned, 0.0, share)
        if value_range is None:  # what overshoots at an edge
            large = large.clamp(0.0, 1.0)
        target[:, :colour] = from_unit(large, target.dtype, at)
        if self._holes != "none":
            keep_values(target[:, :colour])
        if holes is not None and self._holes == "keep":
            rows, columns = (torch.arange(n, device=x.device) // scale for n in large.shape[-2:])
            lost, old = (y[..., rows[:, None], columns] for y in (holes, source))
            target[:, :colour] = torch.where(lost, old, target[:, :colour])
        if alpha.numel():
            target[:, colour:] = enlarged_alpha(alpha, scale, _own_range(alpha, None))
        return tiles + more

    def _denoised(
        self, x: Tensor, aligned: ImageView, sigma: Sigma, share: int
    ) -> tuple[Tensor, int]:
        """What the network makes of an image in [0, 1] and a guide of its size; tiles."""
        settings = Settings(None, 1.0, self._options, lambda *_: self._session)
        made = torch.empty_like(x)
        view = ImageView(x, lambda _: Target(made, lambda: made), x.shape[0] > 1)
        work = ImageRun(settings, view, sigma, Guide(aligned, x), None, share)
        work.denoise(slice(None))
        return made, work.tiles


def _check_kind(model: object) -> None:
    """ModelKindError for a network that takes no guide."""
    if not takes_guide(model):
        network = original_of(model)
        raise ModelKindError(
            "model must take a guide of the result's size, got"
            f" {type(network).__name__} with inputs {', '.join(network.signature.inputs)}"
        )


def _own_range(source: Tensor, holes: Tensor | None) -> Range:
    """The least and the largest number that is no hole; two numbers in any case."""
    known = source if holes is None else source[~holes]
    if not known.numel():
        raise ValueError("image: every pixel is a hole (0, or not finite)")
    low, high = (float(x) for x in torch.aminmax(known.double()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            "image: pixels must be finite, got NaN or infinity; holes 'keep' and 'fill' take these"
        )
    return (low, high) if low < high else (low, low + 1)


def _reduced(aligned: ImageView, scale: int) -> ImageView:
    """A guide of the image's own size."""
    source = unit_guide(aligned.source, aligned.value_range)
    small = imresize(source, Fraction(1, scale)).clamp(0.0, 1.0)
    return ImageView(small, aligned.target, aligned.batched)


def _is_zero(sigma: Sigma) -> bool:
    return sigma is None or (isinstance(sigma, (int, float)) and sigma == 0)
