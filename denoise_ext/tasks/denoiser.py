"""`Denoiser`: keep a network ready and apply it to images of any kind."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, overload

import numpy as np
import torch

from denoise_ext._choices import check_choice, check_strength
from denoise_ext._log import get_logger
from denoise_ext.io import Picture
from denoise_ext.io.channels import colour_channels
from denoise_ext.runtime.device import choose_device
from denoise_ext.runtime.from_module import adopted
from denoise_ext.runtime.model_names import Model, check_name, named_texture
from denoise_ext.runtime.options import RunOptions, Tile
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.axes import check_axes, parts_of
from denoise_ext.tasks.doubts import called_from, caller, warn_of_doubts
from denoise_ext.tasks.guide import Guide, guided
from denoise_ext.tasks.guided_filter import JOINT_BILATERAL
from denoise_ext.tasks.holes import HOLES
from denoise_ext.tasks.image_run import ImageRun, Settings
from denoise_ext.tasks.images import ImageT, open_image
from denoise_ext.tasks.in_order import in_order
from denoise_ext.tasks.noise_analysis import NoiseProfile
from denoise_ext.tasks.part import Part, check_part, cropped, frame_of, window_of, within
from denoise_ext.tasks.result import Result, joined, result_in_part
from denoise_ext.tasks.sessions import Sessions, check_denoiser
from denoise_ext.tasks.sigma import Sigma, check_sigma
from denoise_ext.tasks.texture import check_texture, stated
from denoise_ext.tasks.treatment import Treatment, treatment_of
from denoise_ext.tasks.trust import Trust, checked_probes, trust_of
from denoise_ext.tasks.value_range import Range, check_range

logger: logging.Logger = get_logger("denoise_ext.tasks")
ALPHA = ("keep", "denoise")


class Denoiser:
    """Keep a denoising network ready: plan and memory stay from image to image.

    Args:
        model: None: the shipped networks; without a `sigma`, the noise of each image decides what
            is done (`analyse_noise`, `Result.treatment`).  Or one of:

            * a network that denoises images (`denoise_ext.models.ImageDenoiser`, also from
              `denoise_ext.accelerate`); `denoise_ext.runtime.Session` runs every other
              `denoise_ext.models.Network`;
            * the name of a network with trained weights, or of a family ("dxnet_s": the gray or
              the colour network, as each image needs);
            * a checkpoint file;
            * a network with a guide, such as "dxnet_s_guided", or its checkpoint file;
            * "joint_bilateral", or a `denoise_ext.nn.JointBilateralBlur`, whose ``sigma_color`` is
              in units of the guide's range.  Both need a guide and use no sigma;
            * any other `torch.nn.Module` in eval mode, see `denoise_ext.runtime.from_module`.  It
              is planned only if the plan computes the same, faster.

            A gray network denoises each channel of a colour image separately (about 2 dB worse
            than a colour network at sigma 25).  A colour network on a gray image gets three copies
            and sqrt(3) sigma, and the outputs are averaged (about 0.2 dB worse than a gray
            network).  In the mean of the channels, copied noise is sqrt(3) times as strong as
            independent noise.  Blind colour networks are refused for gray images.
        channels: channels of a plain module's images: 1 (gray) or 3 (RGB).  Only for plain modules.
        needs_sigma: True: a plain module is called as ``model(x, sigma)``; None, False: as
            ``model(x)``.
        sigma: standard deviation of the noise **on the 0-255 scale** (255: from black to white),
            for every dtype; see `__call__`.  None: estimated for each image (`estimate_sigma`;
            without a model by `analyse_noise`).
            Blind networks check a given sigma and ignore it.
        strength: 1: the network's result; 0: the image, bit for bit; between:
            ``(1 - strength) * image + strength * result``, computed before rounding.
        device: "auto", "cpu", "cuda", "cuda:N" (see `choose_device`).  A given network runs where
            its weights are; `device` must then be "auto", None or that device.
        precision: "strict", "default" or "fast" as in `denoise_ext.accelerate`; "bfloat16" or
            "float16" store weights and intermediate tensors.  On overflow of float16 the tile is
            recomputed in float32 (`Result.recomputed`).
        backend: "native": the network runs as a plan of this package's kernels.  If a plan fails
            on a GPU, the network's own layers run.  "torch": a named network is loaded in plain
            PyTorch, a given one runs unmodified.
        tile: "auto": tiles if the image needs more memory than the limit; a number: tiles of at
            most so many pixels on a side, overlap included; None: the whole image.  Tiles overlap
            by exactly what a pixel of the result depends on (`denoise_ext.analysis.geometry`), so
            there are no seams.  With precision "strict" the result equals that of the whole image
            bit for bit.  Otherwise the difference is below the rounding error.
        max_memory: bytes of working memory, for all images of `denoise_many` together, besides
            image, result and weights.  None: 1 GiB, or more for networks whose overlap would be
            half of the work; at most half of the free memory.
        uncertainty: number of random probes, of two passes each; 16 is a good number.  0: none.
            `Result` then has `uncertainty`, `expected_psnr` and `samples`, or the reason why not.
            Needs strength 1 and float32.
        texture: 0: the network with the least error, which is smooth where it is not sure. 1: one
            trained for natural fine detail, some of which it makes up; PSNR is lower.  Between:
            `models.interpolate`.  For the shipped networks that have such a partner; a gray image
            takes the colour network.  A result of `io.Picture` states it in its metadata.  Not for
            diagnoses or evidence.
        alpha: "keep": pass an alpha channel through; "denoise": denoise it as a gray image, unless
            it is the same everywhere.
        holes: only for images with a guide, such as depth maps: what is done with numbers that are
            0 or not finite.  "none": 0 is a number like others.  "keep": they stay, and the pixels
            around them are denoised without them.  "fill": they get numbers that fit, from pixels
            that are near and alike in the guide.

    Threads may use one `Denoiser` at the same time; each gets its own memory.  Copies and pickles
    contain model and options; they make their own plans.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
        RuntimeError: the device or the native library cannot be used.  Networks are loaded with
            the first image: a damaged checkpoint is found then.

    Warns:
        UserWarning: a plain floating-point array far outside of [0, 1] without `value_range`; a
            sigma between 0 and 1 for 8-bit or such images.  Once for each line that calls.

    Example:
        >>> denoiser = denoise_ext.Denoiser("dxnet_s", sigma=15)
        >>> clean = [denoiser(name) for name in denoise_ext.io.list_images("photos")]
        >>> result = denoiser.run(np.zeros((32, 32), np.uint16), strength=0.8)
        >>> result.image.dtype, result.sigma
        (dtype('uint16'), 15)
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
        uncertainty: int = 0,
        texture: float = 0.0,
        holes: str = "none",
    ) -> None:
        self._options = RunOptions(device, precision, backend, tile, max_memory)
        check_choice("alpha", alpha, ALPHA)
        check_choice("holes", holes, HOLES)
        strength = check_strength(strength)
        if isinstance(model, (str, os.PathLike)) and model != JOINT_BILATERAL:
            check_name(model)
        named = model is None or isinstance(model, (str, os.PathLike))
        if device not in (None, "auto"):
            choose_device(device, backend if named else "torch")
        check_sigma(sigma)
        self._model = adopted(model, channels, needs_sigma)
        check_denoiser(self._model)
        self._sigma, self._strength = sigma, strength
        self._alpha, self._holes = alpha, holes
        self._probes = checked_probes(uncertainty, self._strength, precision)
        named_model, texture = named_texture(model, texture)
        if texture:
            self._model = named_model
        self._texture = check_texture(texture, named_model, alpha, uncertainty)
        self._sessions = Sessions(self._model, self._options, self._texture)

    @overload
    def __call__(
        self,
        image: str | os.PathLike[str],
        sigma: Sigma = None,
        *,
        guide: Any = None,
        value_range: Range | None = None,
        axes: str | None = None,
    ) -> np.ndarray: ...
    @overload
    def __call__(
        self,
        image: ImageT,
        sigma: Sigma = None,
        *,
        guide: Any = None,
        value_range: Range | None = None,
        axes: str | None = None,
    ) -> ImageT: ...
    def __call__(
        self,
        image: Any,
        sigma: Sigma = None,
        *,
        guide: Any = None,
        value_range: Range | None = None,
        axes: str | None = None,
    ) -> Any:
        """Denoise one image, or a batch of images of one size.

        Args:
            image: NumPy array (H, W) or (H, W, C); tensor (H, W), (C, H, W) or (N, C, H, W);
                Pillow image of mode L, LA, RGB, RGBA, I;16, I or F; `io.Picture`, frame by frame;
                or the name of a file with one image, which means the array of its pixels, upright
                and in the file's dtype. C = 1 gray, 2 gray +
                alpha, 3 RGB, 4 RGB + alpha. uint8, uint16, or floating point in [0, 1] (noise may
                leave that range); with `value_range` also other integers, of 8 to 64 bits. Pictures
                and files (DICOM, NIfTI, ...) have a range of their own.  They may contain numbers
                that are not finite, which are kept.
            sigma: replaces the `Denoiser`'s sigma: a number, a map (H, W), for a batch one value
                per image (N,), or (N, 1, H, W).
            guide: an image of the same size with clearer edges, aligned with `image`, of any of
                these kinds (one frame).  Without a model "dxnet_s_guided" takes it, where that has
                trained weights.  Other models must be ones that take a guide.
            value_range: the numbers that mean black and white.  Default: those of the type.
                (0, 4095) for 12 bits in uint16, (0.0, 100.0) for floats on another scale.
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
        strength: float | None = None,
        share: int = 1,
    ) -> Result:
        """Denoise as a call does; return the image with noise level, time and tiles.

        A picture with numbers that are not finite gets a note. Two-level pictures have no other
        `value_range` than their own.

        `strength` replaces the `Denoiser`'s.
        `share`: number of images that are computed at the same time and share the memory.
        """
        axes = check_axes(axes)
        how = {"guide": guide, "axes": axes, "strength": strength, "share": share}
        if not isinstance(image, Picture):
            result, _ = self._run_one(image, sigma, value_range, **how)
            return stated(result, self._texture)
        if image.frames[0].dtype == np.bool_:  # black and white, whatever the range of others
            value_range = None
        parts = parts_of(image, axes)
        results = [self._run_one(part, sigma, value_range, **how) for part in parts]
        return stated(joined(image, results), self._texture)

    def run_part(
        self,
        image: Any,
        part: Part,
        sigma: float | None = None,
        *,
        treatment: Treatment | None = None,
        noise: NoiseProfile | None = None,
        uncertainty: int | None = None,
        value_range: Range | None = None,
    ) -> Result:
        """Denoise a part of an image as `run` denoises it there, and compute nothing else.

        The network reads as much around the part as a pixel of its result depends on.

        Args:
            image: array (H, W) or (H, W, C), or `io.Picture` of one frame.
            part: rows and columns of the image, as slices without a step.
            sigma: as in a call. None, with a model: estimated from the part and its surroundings.
                None, without a model: the noise of the whole image decides.
            treatment: what it decided (`tasks.treatment.treatment_of`), so that the next part
                needs no analysis. Limits of impulses are those of the part.
            noise: what the analysis found in the whole image, for the check of `uncertainty`.
                None: the part and its surroundings are checked.
            uncertainty: replaces that of the `Denoiser`.  The expected PSNR is that of the part
                with its surroundings.
            value_range: as in a call.

        Returns:
            The result for the part: an array, or a picture of that size.

        Raises:
            TypeError, ValueError: an argument that does not fit; the message names it.
        """
        frame = frame_of(image)
        part = check_part(part, *frame.shape[:2])
        level = self._sigma if sigma is None else sigma
        if treatment is not None and (self._model is not None or level is not None):
            raise ValueError("treatment: there is a model or a sigma already, which decides")
        if frame.dtype == np.bool_:  # black and white, whatever the range of others
            value_range = None
        if treatment is None and self._model is None and level is None:
            _, treatment = treatment_of(image, value_range)
        channels = 1 if frame.ndim == 2 else colour_channels(frame.shape[2])
        model = self._model if treatment is None else treatment.model
        if treatment is not None and treatment.gray:
            channels = 1
        height, width = frame.shape[:2]
        session = self._session(model, channels, None)
        window = window_of(part, height, width, session)
        view = cropped(image, window)
        result, _ = self._run_one(
            view, level, value_range, treatment=treatment, noise=noise, uncertainty=uncertainty
        )
        ports = session.original.signature.outputs
        return stated(result_in_part(result, within(part, window), ports), self._texture)

    def _run_one(
        self,
        image: Any,
        sigma: Sigma,
        value_range: Range | None,
        guide: Any = None,
        axes: str | None = None,
        share: int = 1,
        strength: float | None = None,
        treatment: Treatment | None = None,
        noise: NoiseProfile | None = None,
        uncertainty: int | None = None,
    ) -> tuple[Result, int]:
        """The result for an image, and how many of its numbers are not finite."""
        start = time.perf_counter()
        strength = check_strength(self._strength if strength is None else strength)
        probes = self._probes if uncertainty is None else uncertainty
        checked_probes(probes, strength, self._options.precision)
        opened = open_image(image, axes, holes=self._holes)
        value_range = opened.value_range if value_range is None else value_range
        checked = check_range(value_range, opened.source.dtype)
        value_range = None if value_range is None else checked
        if strength == 0 or opened.source.numel() == 0:
            target = opened.target(Fraction(1))
            target.pixels.copy_(opened.source)
            seconds = time.perf_counter() - start
            trust = Trust(reason="nothing was computed") if probes else None
            result = Result(target.result(), None, False, seconds, 0, 0, trust=trust)
            return result, opened.missing
        sigma = sigma if sigma is not None else self._sigma
        warn_of_doubts(opened, sigma, value_range)
        model, aligned = guided(self._model, image, opened.source, guide, self._holes)
        settings = Settings(model, float(strength), self._options, self._session, self._holes)
        work = ImageRun(settings, opened, sigma, aligned, value_range, share)
        channels = opened.source.shape[1]
        colour = colour_channels(channels)
        profiles: tuple[NoiseProfile, ...] = ()
        text = ""
        if treatment is not None:
            text = treatment.text
            work.denoise(slice(0, colour), treatment)
        elif self._model is None and sigma is None and guide is None:
            profiles, text = work.treat(slice(0, colour))
        else:
            work.denoise(slice(0, colour))
        facts, treated = work.facts, work.treatment  # of the colours
        others = work.others.as_given(image, opened.batched)
        made = work.target
        assert made is not None  # after the colours
        alpha = opened.source[:, colour:]
        # one that is the same everywhere, as of an opaque picture, has no noise
        if self._alpha == "denoise" and bool((alpha != alpha[:, :, :1, :1]).any()):
            work.denoise_alpha(slice(colour, channels))
        elif colour < channels:
            made.pixels[:, colour:] = alpha
        trust = None
        if probes and aligned is not None:
            trust = Trust(reason="networks with a guide are not probed")
        elif probes:
            trust = trust_of(
                image, opened, lambda model: self._session(model, colour, None), self._options,
                self._model, treated, facts[0], value_range, probes, noise,
            )  # fmt: skip
        seconds = time.perf_counter() - start
        logger.debug(
            "image %s: sigma %s, %d tiles (%d again in float32), %.3f s",
            tuple(opened.source.shape), facts[0], work.tiles, work.recomputed, seconds,
        )  # fmt: skip
        result = Result(
            made.result(), *facts, seconds, work.tiles, work.recomputed, profiles, text, trust,
            outputs=others,
        )  # fmt: skip
        return result, opened.missing

    @overload
    def denoise_many(
        self,
        images: Iterable[str | os.PathLike[str]],
        workers: int = 2,
        *,
        value_range: Range | None = None,
        axes: str | None = None,
    ) -> Iterator[np.ndarray]: ...
    @overload
    def denoise_many(
        self,
        images: Iterable[ImageT],
        workers: int = 2,
        *,
        value_range: Range | None = None,
        axes: str | None = None,
    ) -> Iterator[ImageT]: ...
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
        place = caller()

        def denoised(image: Any) -> Any:
            with called_from(place):
                result = self.run(image, value_range=value_range, axes=axes, share=workers)
            return result.image

        return in_order(denoised, images, workers)

    def _session(self, model: Model, channels: int, guide: Guide | None) -> Session:
        return self._sessions.of(channels, guide.channels if guide else 0, model)


__all__ = ["Denoiser", "Result"]
