"""One image on its way through a `Denoiser`: analysed, divided into tiles, denoised."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from denoise_ext._log import get_logger
from denoise_ext.models.network import Network, Tensors
from denoise_ext.runtime.model_names import Model
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.runtime.tile_planner import cut
from denoise_ext.runtime.tiling import Places
from denoise_ext.tasks.doubts import warn_of_tile
from denoise_ext.tasks.guide import FilterPorts, Guide, GuidedPorts, check_guided, ports_for
from denoise_ext.tasks.guided_filter import is_guided_filter
from denoise_ext.tasks.holes import filled, holes_in
from denoise_ext.tasks.image_ports import ImagePorts
from denoise_ext.tasks.images import ImageView, Target
from denoise_ext.tasks.impulses import without_impulses
from denoise_ext.tasks.noise_analysis import NoiseProfile, margins_for
from denoise_ext.tasks.noise_level import sigma_of_batch
from denoise_ext.tasks.other_outputs import OtherOutputs
from denoise_ext.tasks.sigma import Sigma, part_of_sigma, sigma_argument
from denoise_ext.tasks.treatment import Treatment, one_line, sigma_map, treatments_of
from denoise_ext.tasks.value_range import Range, from_unit, to_unit

logger: logging.Logger = get_logger("denoise_ext.tasks")


@dataclass(frozen=True)
class Settings:
    """What a `Denoiser` applies to every image."""

    model: Model
    strength: float
    options: RunOptions
    session: Callable[[Model, int, Guide | None], Session]
    """The network that runs a model on images of so many channels."""
    holes: str = "none"
    """What is done with pixels that are 0 or not finite: one of `holes.HOLES`."""


class ImageRun:
    """One image on its way through a `Denoiser`."""

    recomputed: int

    def __init__(
        self,
        settings: Settings,
        opened: ImageView,
        sigma: Sigma,
        guide: Guide | None,
        value_range: Range | None,
        share: int,
    ) -> None:
        self._settings, self._opened, self._guide = settings, opened, guide
        if guide is None:  # a filter's session cannot be made without one
            check_guided(is_guided_filter(settings.model), False)
        self._sigma, self._range, self._share = sigma, value_range, share
        self.target: Target | None = None
        self.tiles = self.recomputed = 0
        self.facts: tuple[Any, bool] = (None, False)  # sigma, whether it was estimated
        self.treatment: Treatment | None = None  # the last one
        self.others: OtherOutputs = OtherOutputs(opened.source.shape[0])

    def treat(self, channels: slice) -> tuple[tuple[NoiseProfile, ...], str]:
        """`denoise` by what the analysis finds; returns that, and what was done, in one line."""
        source = self._opened.source[:, channels]
        found = treatments_of(source, self._range)
        profiles = tuple(profile for profile, _ in found if profile is not None)
        treatments = [treatment for _, treatment in found]
        text = one_line(treatment.text for treatment in treatments)
        logger.info("image %s: %s", tuple(source.shape), text)
        levels = [treatment.sigma for treatment in treatments]
        batched = self._opened.batched
        alike = {replace(treatment, sigma=None, text="") for treatment in treatments}
        if alike == {Treatment(treatments[0].model)}:  # one network for all, and no map
            sigma = None if None in levels else torch.tensor(levels, dtype=torch.float64)
            self.denoise(channels, replace(treatments[0], sigma=sigma if batched else levels[0]))
            return profiles, text
        for place, treatment in enumerate(treatments):
            self.denoise(channels, treatment, slice(place, place + 1))
        if batched:
            levels = [math.nan if level is None else level for level in levels]
            self.facts = torch.tensor(levels, dtype=torch.float64), True
        return profiles, text

    def denoise(
        self,
        channels: slice,
        treatment: Treatment | None = None,
        images: slice = slice(None),
    ) -> None:
        """Fill these channels of the target, of all or of some images."""
        settings, guide = self._settings, self._guide
        self.treatment = treatment
        if treatment is not None and treatment.gray:
            channels = slice(0, 1)
        opened = self._opened.source[images, channels]
        session, ports = self._network_for(opened.shape[1], treatment)
        network = session.original
        if self.target is None:
            self.target = self._opened.target(network.signature.outputs["image"].scale)
        given, holes = self._without_holes(opened)
        source = given
        if treatment is not None and treatment.impulses:
            source = _repaired(source, self._range)
        sigma = self._level(network, source, treatment)
        variance = None if treatment is None else treatment.variance
        count, _, height, width = source.shape
        grid, at_once = cut(
            session, (count, height, width), settings.options, self._share, ports.images
        )
        if isinstance(settings.options.tile, int):
            warn_of_tile(settings.options.tile, grid, height * width)
        target = self.target.pixels[images, channels]
        others = self.others.of(network, images, (height, width))

        def unit(x: Tensor, images: slice, place: tuple[slice, slice]) -> Tensor:
            part = x[(images, slice(None), *place)].to(session.device)
            return to_unit(part, session.dtype, self._range)

        def read(images: slice, places: Places) -> Tensors:
            place = places["image"]
            condition: float | Tensor | None
            if variance is not None:
                condition = sigma_map(source, place, variance, self._range)
            else:
                condition = part_of_sigma(sigma, count, images, place)
            if isinstance(condition, Tensor):
                condition = condition.to(session.device)
            guiding = [] if guide is None else [guide.part(images, place, session.device)]
            return ports.inputs(unit(source, images, place), condition, *guiding)

        def write(images: slice, places: Places, outputs: Tensors) -> None:
            y = ports.image(outputs)
            if settings.strength < 1:
                y = torch.lerp(
                    unit(given, images, places["image"]).to(y.dtype), y, settings.strength
                )
            numbers = from_unit(y, target.dtype, self._range).to(target.device)
            target[(images, slice(None), *places["image"])] = numbers
            others.write(images, places, outputs)
            self.tiles += 1

        with torch.inference_mode():
            for first in range(0, count, at_once):
                part = slice(first, first + at_once)
                _, again = session.run_tiles(grid, partial(read, part), partial(write, part))
                self.recomputed += again
        if treatment is not None and treatment.gray:
            self.target.pixels[images, 1:3] = target
        if holes is not None:
            target.copy_(torch.where(holes, opened, target))

    def denoise_alpha(self, channels: slice) -> None:
        """`denoise` for alpha: 0 is no hole there, and its other outputs are not kept."""
        settings, others = self._settings, self.others
        self._settings, self.others = replace(settings, holes="none"), OtherOutputs(others.count)
        self.denoise(channels)
        self._settings, self.others = settings, others

    def _network_for(
        self, channels: int, treatment: Treatment | None
    ) -> tuple[Session, ImagePorts | FilterPorts | GuidedPorts]:
        """What runs images of so many channels, and what feeds it."""
        settings, guide = self._settings, self._guide
        model = settings.model if treatment is None else treatment.model
        session = settings.session(model, channels, guide)
        network = session.original
        check_guided("guide" in network.signature.inputs, guide is not None)
        ports = ImagePorts(network, channels) if guide is None else ports_for(network, channels)
        return session, ports

    def _without_holes(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """The image with numbers in its holes, which fit around them; the holes that are kept."""
        if self._settings.holes == "none" or not bool((holes := holes_in(source)).any()):
            return source, None
        black = 0.0 if self._range is None else self._range[0]
        known = torch.where(holes, source.new_full((), black), source)
        every = (slice(None), slice(None))
        guide = None
        if self._guide is not None:
            guide = self._guide.part(slice(None), every, source.device)
        x = filled(to_unit(known, value_range=self._range), holes, guide)
        whole = torch.where(holes, from_unit(x, source.dtype, self._range), source)
        return whole, holes if self._settings.holes == "keep" else None

    def _level(
        self, network: Network, source: Tensor, treatment: Treatment | None
    ) -> float | Tensor | None:
        """sigma for the network, estimated if it needs one and none is given."""
        given = self._sigma if treatment is None else treatment.sigma
        sigma = sigma_argument(given, source)
        estimated = sigma is None and "noise_map" in network.signature.inputs
        if estimated:
            sigma = sigma_of_batch(source, self._range)
            sigma = sigma if self._opened.batched else float(sigma)
        found = treatment is not None and sigma is not None
        self.facts = (sigma if estimated or found else given), estimated or found
        return sigma


def _repaired(source: Tensor, value_range: Range | None) -> Tensor:
    """A copy of (1, C, H, W) without impulses; all other pixels keep their bits."""
    x = to_unit(source, torch.float32, value_range)
    repaired = without_impulses(x, margins_for(source[0], value_range))
    return torch.where(repaired != x, from_unit(repaired, source.dtype, value_range), source)
