"""Restoration with a denoiser as prior: half-quadratic splitting.

The restored image is the x with the least ``|A x - y|^2 / (2 sigma^2) + R(x)``, where R is what a
denoiser takes for likely.  Two steps alternate.  The data step is `Operator.prox`, at the last
denoised image, with ``rho = 0.23 sigma^2 / level^2``.  The prior step denoises its result at
``level``, which falls from 49 to sigma in equal ratios.  Each prior step sees the image flipped
or turned another way.

Source: Zhang, Li, Zuo, Zhang, Van Gool, Timofte, "Plug-and-play image restoration with deep
denoiser prior" (IEEE TPAMI 2021).
"""

from __future__ import annotations

import logging
import math
import numbers
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from denoise_ext.io import Picture
from denoise_ext.io.channels import colour_channels
from denoise_ext.restore.operators import Operator
from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.memory import available
from denoise_ext.runtime.model_names import Model, check_name
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.tasks.axes import parts_of
from denoise_ext.tasks.images import ImageT, ImageView, open_image
from denoise_ext.tasks.network_run import NetworkRun
from denoise_ext.tasks.result import noted
from denoise_ext.tasks.sessions import Sessions
from denoise_ext.tasks.sigma import check_sigma
from denoise_ext.tasks.value_range import Range, check_range, from_unit, to_unit

logger: logging.Logger = logging.getLogger("denoise_ext.restore")

FIRST_LEVEL = 49.0
"""The noise level of the first prior step, on the 0-255 scale."""
SMALLEST_SIGMA = 0.255
"""Noise below this level, a thousandth of the range, counts as this level."""
_DATA_WEIGHT = 0.23
_KEPT = 16  # bytes for each number of the image: y, x, and the images of a prior step

Progress = Callable[[int, int], None]
"""Called after each step with the number of steps done and of all."""


@dataclass(frozen=True)
class Restored:
    """A restored image, with what is known beside it.

    Example:
        >>> blur = denoise_ext.restore.Blur("gaussian:1.5")
        >>> restored = denoise_ext.restore.Restorer(blur, sigma=3, steps=2).run("photo.png")
        >>> restored.image.shape, restored.sigma, restored.sigma_estimated
        ((48, 64, 3), 3.0, False)
    """

    image: Any
    """The result, of the kind of the given image."""
    sigma: float
    """The noise level that was assumed, on the 0-255 scale, given or estimated; for a picture of
    several frames their mean."""
    sigma_estimated: bool
    seconds: float
    steps: int
    """Prior steps: passes of the network over each image."""
    kernel: Tensor | None = None
    """(h, w) float64, sum 1; None where nothing was blurred."""


class Restorer:
    """Restore images with one operator and one network; plans and memory stay.

    Args:
        operator: what happened to the images.
        model: a network that is conditioned on a noise level, or a name or checkpoint of one, as
            in `Denoiser`.  None: the shipped network for gray or for colour images.
        sigma: noise of the measurements on the 0-255 scale.  None: estimated for each image
            (`Operator.estimate_sigma`).  Below 0.255, also 0, counts as 0.255.
        steps: prior steps, >= 1, those of `Operator.settling` not counted.
        device, precision, backend, tile, max_memory: as in `Denoiser`.  The network runs in tiles
            where that is needed, which changes nothing but rounding.  Data steps take the whole
            image: 128 bytes for each pixel of a colour image, 96 of a gray one.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
        RuntimeError: the device or the native library cannot be used.

    Example:
        >>> blur = denoise_ext.restore.Blur("gaussian:1.5")
        >>> restorer = denoise_ext.restore.Restorer(blur, sigma=3, steps=2)
        >>> sharp = [restorer(name) for name in denoise_ext.io.list_images("photos")]
    """

    def __init__(
        self,
        operator: Operator,
        model: Model = None,
        *,
        sigma: float | None = None,
        steps: int = 8,
        device: str | torch.device | None = "auto",
        precision: str = "default",
        backend: str = "native",
        tile: Tile = "auto",
        max_memory: int | None = None,
    ) -> None:
        if not isinstance(operator, Operator):
            raise TypeError(f"operator must be a restore.Operator, got {type(operator).__name__}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be an integer >= 1, got {steps!r}")
        self._options = RunOptions(device, precision, backend, tile, max_memory)
        if model is None or isinstance(model, (str, os.PathLike)):
            check_name(model)
            choose_device(device, backend)
        _check_sigma(sigma)
        self.operator = operator
        self._sigma, self._steps = sigma, steps
        self._sessions = Sessions(model, self._options)

    @overload
    def __call__(self, image: str | os.PathLike[str], **how: Any) -> np.ndarray: ...
    @overload
    def __call__(self, image: ImageT, **how: Any) -> ImageT: ...
    def __call__(self, image: Any, **how: Any) -> Any:
        """The restored image alone: arguments of `run`."""
        return self.run(image, **how).image

    def run(
        self,
        image: Any,
        sigma: float | None = None,
        *,
        value_range: Range | None = None,
        progress: Progress | None = None,
    ) -> Restored:
        """Restore one image.

        Args:
            image: NumPy array (H, W) or (H, W, C); tensor (H, W), (C, H, W) or (N, C, H, W);
                Pillow image; `io.Picture`, frame by frame; or a file's name, which gives an array.
                uint8, uint16 or floating point in [0, 1]; alpha is passed through.
            sigma: replaces that of the `Restorer`.
            value_range: the numbers that mean black and white, as in `Denoiser`.
            progress: called after each step with the steps done and the steps in all.

        Returns:
            The image, of the same kind, dtype, range and size, and what is known beside it.

        Raises:
            TypeError, ValueError: an argument that does not fit; the message names it.
            RuntimeError: a result that is not finite.
        """
        _check_sigma(sigma)
        sigma = self._sigma if sigma is None else sigma
        start = time.perf_counter()
        if isinstance(image, Picture):
            parts, missing = [], 0
            for part in parts_of(image, None):
                opened = open_image(part)
                parts.append(self._restored(opened, sigma, value_range, progress))
                missing += opened.missing
            restored = image.with_frames(frame for part, _ in parts for frame in part.frames)
            restored = noted(restored, missing)
            level = sum(level for _, level in parts) / len(parts)
        else:
            restored, level = self._restored(open_image(image), sigma, value_range, progress)
        seconds = time.perf_counter() - start
        logger.debug("restored: sigma %.2f, %.3f s", level, seconds)
        return Restored(
            restored, level, sigma is None, seconds, self._total,
            getattr(self.operator, "kernel", None),
        )  # fmt: skip

    def restore(self, y: Tensor, sigma: float, progress: Progress | None = None) -> Tensor:
        """Restore measurements that are tensors.

        Args:
            y: (N, C, H, W) float32 or float64, black 0 and white 1.
            sigma: their noise on the 0-255 scale.
            progress: as in `run`.

        Returns:
            `Operator.finish` of the last step, not clipped.
        """
        if y.dtype not in (torch.float32, torch.float64) or y.dim() != 4 or y.numel() == 0:
            raise ValueError(
                "y must be (N, C, H, W) float32 or float64 and not empty, got"
                f" {tuple(y.shape)} {y.dtype}"
            )
        noise = max(float(sigma), SMALLEST_SIGMA)
        with torch.inference_mode():
            x = self.operator.start(y)
            denoise = self._prior(x)
            for step, level in enumerate(_levels(noise, self._steps, self.operator.settling)):
                x = self.operator.prox(x, y, _DATA_WEIGHT * (noise / level) ** 2)
                x = _turned_back(denoise(_turned(x, step), level), step)
                if progress is not None:
                    progress(step + 1, self._total)
            x = self.operator.finish(x, y, float(sigma))
        if not math.isfinite(float(x.sum(dtype=torch.float64))):
            raise RuntimeError("the restored image is not finite: check operator and model")
        return x

    @property
    def _total(self) -> int:
        return self._steps + self.operator.settling

    def _restored(
        self,
        opened: ImageView,
        sigma: float | None,
        value_range: Range | None,
        progress: Progress | None,
    ) -> tuple[Any, float]:
        """The result for an image or batch, and the mean of the levels."""
        source = opened.source
        value_range = opened.value_range if value_range is None else value_range
        checked = check_range(value_range, source.dtype)
        value_range = None if value_range is None else checked
        colour, levels = colour_channels(source.shape[1]), []
        target = opened.target(Fraction(1))
        for i in range(source.shape[0]):
            image = slice(i, i + 1)
            session = self._sessions.of(colour)
            pixels = source[image, :colour].to(session.device)
            y = self.operator.measured(to_unit(pixels, session.dtype, value_range))
            levels.append(self.operator.estimate_sigma(y) if sigma is None else float(sigma))
            restored = from_unit(self.restore(y, levels[-1], progress), source.dtype, value_range)
            target.pixels[image, :colour] = restored.to(target.pixels.device)
        target.pixels[:, colour:] = source[:, colour:]
        return target.result(), sum(levels) / max(len(levels), 1)

    def _prior(self, x: Tensor) -> NetworkRun:
        """Denoises images of the size of x, also turned, at a level."""
        options = replace(self._options, max_memory=self._memory_left(x))
        return NetworkRun(self._sessions.of(x.shape[1]), x.shape[1], options)

    def _memory_left(self, x: Tensor) -> int | None:
        """What the network may take, where `max_memory` is given.

        Raises ValueError where the data steps take more than there is.
        """
        pixels = x[0, 0].numel()
        needed = int(x.numel() * _KEPT + pixels * self.operator.step_bytes)
        given, free = self._options.max_memory, available(x.device)
        most = given if given is not None else free // 2 if free is not None else None
        if most is not None and needed >= most:
            what = "max_memory" if given is not None else "half of what is free"
            raise ValueError(
                f"image of {x.shape[-1]} x {x.shape[-2]} pixels takes {needed / 2**20:.0f} MiB for"
                f" its data steps, more than {what}, {most / 2**20:.0f} MiB; restore it in parts"
            )
        return None if given is None else given - needed


def _levels(sigma: float, steps: int, settling: int) -> list[float]:
    """The noise level of each prior step: first `settling` times the first one."""
    first = max(FIRST_LEVEL, sigma)
    ratio = (sigma / first) ** (1 / max(steps - 1, 1))
    falling = [first * ratio**step for step in range(steps)] if steps > 1 else [sigma]
    return [first] * settling + falling


def _turned(x: Tensor, step: int) -> Tensor:
    """Turned by quarters, and mirrored in every second round of four steps."""
    x = x.rot90(step % 4, (2, 3))
    return x.flip(3) if step % 8 >= 4 else x


def _turned_back(x: Tensor, step: int) -> Tensor:
    x = x.flip(3) if step % 8 >= 4 else x
    return x.rot90(-(step % 4), (2, 3))


def _check_sigma(sigma: object) -> None:
    if sigma is not None and (isinstance(sigma, bool) or not isinstance(sigma, numbers.Real)):
        raise TypeError(f"sigma must be a number or None, got {type(sigma).__name__}")
    check_sigma(sigma)
