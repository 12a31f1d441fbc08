"""`Denoiser`: a network kept ready, applied to images of any kind."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_ext.io import Picture
from denoise_ext.runtime import tiling
from denoise_ext.runtime.device import check_backend, choose_device
from denoise_ext.runtime.families import is_family
from denoise_ext.runtime.loading import check_name
from denoise_ext.runtime.session import (
    PRECISIONS,
    Model,
    Runner,
    Sigma,
    adopted,
    check_sigma,
    find_network,
    sigma_argument,
)
from denoise_ext.runtime.tile_planner import Tile, check_max_memory, check_tile, cut
from denoise_ext.tasks.axes import check_axes, parts_of
from denoise_ext.tasks.doubts import warn_of_range, warn_of_sigma
from denoise_ext.tasks.guided_filter import (
    JOINT_BILATERAL,
    Guide,
    GuidedFilter,
    guided_runner,
    is_guided,
)
from denoise_ext.tasks.images import Opened, open_image
from denoise_ext.tasks.noise_level import sample_of, sigma_of_batch
from denoise_ext.tasks.value_range import Range, check_range, from_unit, to_unit

logger = logging.getLogger("denoise_ext.tasks")
ALPHA = ("keep", "denoise")


@dataclass(frozen=True)
class Result:
    """A denoised image, and how it came about."""

    image: Any
    """Of the kind of the image that was given."""
    sigma: Any
    """The noise level the network was told, on the 0-255 scale: as it was given, or as it was
    estimated (a float; for a batch a tensor (N,); for a picture of several frames their mean).
    None where the network needs none."""
    sigma_estimated: bool
    seconds: float
    tiles: int
    """Parts in which the image was computed; 0 where there was nothing to compute."""
    recomputed: int
    """Of these, how many left the range of a 16-bit type and were computed again in float32."""


class Denoiser:
    """A denoising network kept ready: plan and memory stay from image to image.

    Args:
        model: a network (`denoise_ext.models.Network`, also from `denoise_ext.accelerate`), the
            name of one with trained weights or of a family of two ("dxnet_s": the gray or the
            colour one, as each image is), or a checkpoint file. None: the shipped ones. A gray
            network on a colour image denoises each channel by itself (about 2 dB worse than a
            colour network at sigma 25). A colour network on a gray image gets three copies and
            sqrt(3) sigma, and the outputs are averaged (about 0.2 dB worse than a gray network):
            copied noise is sqrt(3) times as strong in the mean of the channels as the independent
            noise the network was trained on. A blind colour network, which cannot be told so, is
            refused for gray images. Guided: "joint_bilateral", or a
            `denoise_ext.nn.JointBilateralBlur` of your own, whose ``sigma_color`` is then in units
            of the guide's range; they use no sigma. Or any other `torch.nn.Module` in eval mode, as
            `denoise_ext.runtime.from_module` describes; it is planned only where that is found to
            compute the same, faster.
        channels: of a plain module's images: 1 (gray) or 3 (RGB). For plain modules alone.
        needs_sigma: whether a plain module is called as ``model(x, sigma)``; None, False: as
            ``model(x)``.
        sigma: standard deviation of the noise **on the 0-255 scale** (255: from black to white),
            whatever the image's dtype; see `__call__`. None: estimated for each image
            (`estimate_sigma`) where the network is told the noise level; blind ones check a given
            one and do not use it.
        strength: from 0, which gives the image back bit for bit, to 1, the network's result; in
            between ``(1 - strength) * image + strength * result``, computed before rounding.
        device: "auto", "cpu", "cuda", "cuda:N" (see `choose_device`). A network that is passed in
            runs where its weights are; `device` must then be "auto", None or that device.
        precision: "strict", "default" or "fast" as in `denoise_ext.accelerate` (on a GPU "default"
            leaves to each layer the precision that it has); "bfloat16" or
            "float16": weights and intermediate tensors are stored so. What leaves the range of
            float16 is computed again in float32 (`Result.recomputed`), never returned as it is.
        backend: "native": the network runs as a plan of this package's kernels; "torch": one that
            is named is loaded in plain PyTorch, one that is passed in runs as it is.
        tile: "auto": images that take more memory than there is, or than is of use, are computed in
            tiles; a number: in tiles of at most so many pixels on a side, overlap included; None:
            always as a whole. Tiles overlap by exactly what a pixel of the result depends on
            (`denoise_ext.analysis.geometry`), so that there are no seams: with precision "strict"
            the result is that of the whole image bit for bit; with the others up to how Winograd's
            algorithm rounds, which is less than what it is off itself.
        max_memory: bytes to compute in, for all images of `denoise_many` together, beside image,
            result and weights. None: 1 GiB, or more for networks whose overlap would be half of
            the work; at most half of what is free.
        alpha: "keep": an alpha channel is passed through; "denoise": it is denoised as a gray image
            of its own, unless it is the same everywhere.

    Threads may use one `Denoiser` at the same time; each gets memory of its own. Copies and pickles
    hold model and options; they make plans anew.

    Raises:
        TypeError, ValueError: an argument that does not fit; the message names it.
        RuntimeError: the device or the native library cannot be used. (Networks are loaded when
            the first image needs them: a damaged checkpoint is found then.)

    Warns:
        UserWarning: a plain floating-point array far outside of [0, 1] without `value_range`; a
            sigma between 0 and 1 for 8-bit or such images. Once for each line that calls.
    """

    def __init__(
        self,
        model: Model = None,
        *,
        channels: int | None = None,
        needs_sigma: bool | None = None,
        sigma: Sigma = None,
        strength: float = 1.0,
        device: str | torch.device | None = "auto",
        precision: str = "default",
        backend: str = "native",
        tile: Tile = "auto",
        max_memory: int | None = None,
        alpha: str = "keep",
    ) -> None:
        check_backend(backend)
        _check_choice("precision", precision, PRECISIONS)
        _check_choice("alpha", alpha, ALPHA)
        number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
        if not (number and 0 <= strength <= 1):
            raise ValueError(f"strength must be a number from 0 to 1, got {strength!r}")
        named = model is None or isinstance(model, (str, os.PathLike))
        if named and model != JOINT_BILATERAL:
            check_name(model)
        if device not in (None, "auto"):
            choose_device(device, backend if named else "torch")
        check_sigma(sigma)
        self._model = adopted(model, channels, needs_sigma)
        self._sigma, self._strength = sigma, float(strength)
        self._device, self._precision, self._backend = device, precision, backend
        self._alpha = alpha
        self._tile, self._max_memory = check_tile(tile), check_max_memory(max_memory)
        self._runners: dict[int, Runner | GuidedFilter] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but plans and memory, which a copy makes anew."""
        return {**self.__dict__, "_runners": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(
        self,
        image: Any,
        sigma: Sigma = None,
        *,
        guide: Any = None,
        value_range: Range | None = None,
        axes: str | None = None,
    ) -> Any:
        """Denoise one image (or a batch of equal ones).

        Args:
            image: NumPy array (H, W) or (H, W, C); tensor (H, W), (C, H, W) or (N, C, H, W);
                Pillow image of mode L, LA, RGB, RGBA, I;16, I or F; `io.Picture`, each of whose
                frames is denoised by itself; or the name of a file with one image, which stands
                for the array of its pixels, upright and in the file's dtype. C = 1 gray, 2 gray +
                alpha, 3 RGB, 4 RGB + alpha. uint8, uint16, or floating point in [0, 1] (noise may
                leave that range); with `value_range` also other integers, of 8 to 64 bits. Pictures
                and files (DICOM, NIfTI, ...) know their range, and may hold numbers that are not
                finite, which stay as they are.
            sigma: in place of the one `Denoiser` was made with: a number, a map (H, W), for a batch
                one value per image (N,), or (N, 1, H, W).
            guide: for guided models, and for them alone: an image of the same size, aligned with
                `image`, that shows the edges better, of any of these kinds (one frame).
            value_range: the numbers that mean black and white, where they are not the type's own:
                (0, 4095) for 12 bits in uint16, (0.0, 100.0) for floats on a scale of their own.
            axes: letters for the axes of an array, tensor, file or picture of any number of them,
                as "ZYX", "CYX", "YXC", "TZCYX". Y and X are the picture's; S its 1 to 4 samples
                (gray, gray + alpha, RGB, RGB + alpha); each step of T, Z, C or N is a gray picture
                of its own, with a noise level of its own. None: the shapes above, and no other.

        Returns:
            The denoised image: kind, shape, dtype, memory layout, channel order, device and (for
            Pillow and pictures) metadata of `image`; for a file's name an array. Integers are
            clipped to their type and rounded half to even, floats are neither. Arithmetic is
            float32 (of a float64 network: float64).

        Raises:
            TypeError, ValueError: an argument that does not fit; the message names it.
            ImageError: (a ValueError) a file that cannot be read, or holds several frames or pages
                (`io.read_picture` reads them all).
            RuntimeError: the network's output is not finite even in float32.
        """
        return self.run(image, sigma, guide=guide, value_range=value_range, axes=axes).image

    def run(
        self,
        image: Any,
        sigma: Sigma = None,
        *,
        guide: Any = None,
        value_range: Range | None = None,
        axes: str | None = None,
        share: int = 1,
    ) -> Result:
        """As a call, with the facts: noise level, time, tiles.

        `share`: how many images are computed at the same time, which share the memory there is.
        """
        start = time.perf_counter()
        axes = check_axes(axes)
        if isinstance(image, Picture) and len(parts := parts_of(image, axes)) > 1:
            how = {"guide": guide, "value_range": value_range, "axes": axes, "share": share}
            return self._run_parts(image, parts, sigma, how)
        opened = open_image(image, axes)
        value_range = opened.value_range if value_range is None else value_range
        checked = check_range(value_range, opened.source.dtype)
        value_range = None if value_range is None else checked
        if self._strength == 0 or opened.source.numel() == 0:
            opened.target.copy_(opened.source)
            return Result(opened.result(), None, False, time.perf_counter() - start, 0, 0)
        sigma = sigma if sigma is not None else self._sigma
        _warn_of_doubts(opened, sigma, value_range)
        work = _Work(self, opened, sigma, guide, value_range, share)
        channels = opened.source.shape[1]
        colour = channels - (channels in (2, 4))
        work.denoise(slice(0, colour))
        facts = work.facts
        alpha = opened.source[:, colour:]
        # one that is the same everywhere, as of an opaque picture, has no noise
        if self._alpha == "denoise" and bool((alpha != alpha[:, :, :1, :1]).any()):
            work.denoise(slice(colour, channels))
        else:
            opened.target[:, colour:] = alpha
        seconds = time.perf_counter() - start
        logger.debug(
            "image %s: sigma %s, %d tiles (%d again in float32), %.3f s",
            tuple(opened.source.shape), facts[0], work.tiles, work.recomputed, seconds,
        )  # fmt: skip
        return Result(opened.result(), *facts, seconds, work.tiles, work.recomputed)

    def _run_parts(
        self, picture: Picture, parts: list[Picture], sigma: Sigma, how: dict[str, Any]
    ) -> Result:
        results = [self.run(part, sigma, **how) for part in parts]
        levels = [float(np.mean(np.asarray(r.sigma))) for r in results if r.sigma is not None]
        return Result(
            picture.with_frames([frame for r in results for frame in r.image.frames]),
            sum(levels) / len(levels) if levels else None,
            any(r.sigma_estimated for r in results),
            sum(r.seconds for r in results),
            sum(r.tiles for r in results),
            sum(r.recomputed for r in results),
        )

    def denoise_many(
        self,
        images: Iterable[Any],
        workers: int = 2,
        *,
        value_range: Range | None = None,
        axes: str | None = None,
    ) -> Iterator[Any]:
        """Denoise images with `workers` threads; yields the results in the order of `images`.

        At most ``2 * workers`` images are taken from `images` ahead of the one that is waited for,
        so that an endless stream needs bounded memory. An exception (of an image, or of `images`
        itself) is raised where its result would come, and ends the iteration.

        Args:
            images: whatever a call takes.
            workers: threads, >= 1. Each kernel uses all cores already: more threads hide reading
                and conversion, and cost memory of their own.
            value_range, axes: as in a call.
        """
        check_axes(axes)
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers must be an integer >= 1, got {workers!r}")
        how = {"value_range": value_range, "axes": axes, "share": workers}
        return self._in_order(iter(images), workers, how)

    def _in_order(self, images: Iterator[Any], workers: int, how: dict[str, Any]) -> Iterator[Any]:
        waiting: deque[Future] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="denoise")
        try:
            for image in images:
                waiting.append(pool.submit(self.run, image, **how))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result().image
            while waiting:
                yield waiting.popleft().result().image
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _runner(self, channels: int) -> Runner | GuidedFilter:
        """The network for images of so many channels, loaded and planned once."""
        key = channels if is_family(self._model) else 0
        with self._lock:
            if key not in self._runners and is_guided(self._model):
                self._runners[key] = guided_runner(self._model, self._device, self._backend)
            if key not in self._runners:
                network = find_network(self._model, channels, self._device, self._backend)
                self._runners[key] = Runner(network, self._precision, self._backend == "native")
            return self._runners[key]


class _Work:
    """One image on its way through a `Denoiser`."""

    def __init__(
        self,
        denoiser: Denoiser,
        opened: Opened,
        sigma: Sigma,
        guide: Any,
        value_range: Range | None,
        share: int,
    ) -> None:
        self._denoiser, self._opened = denoiser, opened
        self._guide = None if guide is None else Guide(guide, opened.source)
        self._sigma, self._range, self._share = sigma, value_range, share
        self.tiles = self.recomputed = 0
        self.facts: tuple[Any, bool] = (None, False)  # sigma, whether it was estimated

    def denoise(self, channels: slice) -> None:
        """Fill these channels of the target."""
        source, target = self._opened.source[:, channels], self._opened.target[:, channels]
        runner = self._denoiser._runner(source.shape[1])
        runner.check(source.shape[1])
        if runner.takes_guide and self._guide is None:
            raise ValueError("guide is required by this model: an image of the same size")
        if self._guide is not None and not runner.takes_guide:
            raise ValueError(
                f'guide: this model takes none; model="{JOINT_BILATERAL}" and'
                " denoise_ext.nn.JointBilateralBlur do"
            )
        sigma = sigma_argument(self._sigma, source)
        estimated = sigma is None and runner.needs_sigma
        if estimated:
            sigma = sigma_of_batch(source, self._range)
            sigma = sigma if self._opened.batched else float(sigma)
        self.facts = (sigma if estimated else self._sigma), estimated
        d = self._denoiser
        grid, at_once = cut(runner, tuple(source.shape), d._tile, d._max_memory, self._share)
        with torch.inference_mode():
            for first in range(0, len(source), at_once):
                images = slice(first, first + at_once)
                for tile in grid:
                    part = _of_part(sigma, len(source), images, tile)
                    guide = self._guide and self._guide.part(images, tile.window, runner.device)
                    self._compute(runner, source[images], target[images], part, guide, tile)

    def _compute(
        self,
        runner: Runner | GuidedFilter,
        source: Tensor,
        target: Tensor,
        sigma: float | Tensor | None,
        guide: Tensor | None,
        tile: tiling.Tile,
    ) -> None:
        """Fill what `tile` keeps of the target."""
        window = source[(..., *tile.window)].to(runner.device)
        x = to_unit(window, runner.dtype, self._range)
        sigma = sigma.to(runner.device) if isinstance(sigma, Tensor) else sigma
        y, again = runner(x, sigma, guide)
        x, y = x[(..., *tile.inside)], y[(..., *tile.inside)]
        strength = self._denoiser._strength
        if strength < 1:
            y = torch.lerp(x.to(y.dtype), y, strength)
        target[(..., *tile.kept)] = from_unit(y, target.dtype, self._range).to(target.device)
        self.tiles += 1
        self.recomputed += again


def _of_part(
    sigma: float | Tensor | None, count: int, images: slice, tile: tiling.Tile
) -> float | Tensor | None:
    """What of sigma belongs to some of `count` images, and to a tile of them."""
    if not isinstance(sigma, Tensor) or sigma.dim() == 0:
        return sigma
    if sigma.shape[0] == count:
        sigma = sigma[images]
    if sigma.dim() == 4 and sigma.shape[-2:] != (1, 1):
        sigma = sigma[(..., *tile.window)]
    return sigma


def _warn_of_doubts(opened: Opened, sigma: Sigma, value_range: Range | None) -> None:
    source = opened.source
    plain = source.is_floating_point() and value_range is None and not opened.from_file
    if plain:
        warn_of_range(sample_of(source[0, 0]))
    if plain or source.dtype == torch.uint8:
        warn_of_sigma(sigma)


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


__all__ = ["Denoiser", "Result"]
