"""Frames of every kind as `FrameRun` takes them, and their results as the kind they were."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_ext.io.channels import colour_channels
from denoise_ext.io.video.frames import VideoFrame
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.frame_run import Frame
from denoise_ext.tasks.images import ImageView
from denoise_ext.tasks.noise_level import sigma_of_batch
from denoise_ext.tasks.value_range import Range, from_unit, to_unit


class OpenFrame(ABC):
    """A frame that was given, and how its result is made."""

    shape: tuple[tuple[int, ...], ...]
    """Of what must be the same in all frames of a video."""

    @abstractmethod
    def read(self, session: Session) -> Frame:
        """The numbers to denoise."""

    @abstractmethod
    def estimates(self, frame: Frame) -> tuple[float, ...]:
        """The level of the noise by this frame alone, 0-255 scale: of each part that has one."""

    @abstractmethod
    def levels_of(self, sigma: float) -> tuple[float, ...]:
        """The levels of these parts where white noise of RGB has one."""

    @abstractmethod
    def sigma_of(self, levels: tuple[float, ...]) -> float:
        """The level of the white noise of RGB that is as strong as noise of these levels."""

    @abstractmethod
    def result(self, before: Frame, made: Frame, strength: float) -> Any:
        """What the network made of a frame, as the kind of frame that was given."""


@dataclass(frozen=True)
class ImageFrame(OpenFrame):
    """An image, gray or RGB, perhaps with alpha, which is kept."""

    opened: ImageView
    value_range: Range | None = None
    finish: Callable[[Any], Any] = lambda result: result
    """Makes the result of what `opened` makes."""

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:  # type: ignore[override]
        """See `OpenFrame`."""
        return (tuple(self.opened.source.shape[1:]),)

    @property
    def colours(self) -> Tensor:
        """(1, C, H, W) without alpha, as given."""
        return self.opened.source[:, : colour_channels(self.opened.source.shape[1])]

    def read(self, session: Session) -> Frame:
        """See `OpenFrame`."""
        return (to_unit(self.colours.to(session.device), session.dtype, self.value_range),)

    def estimates(self, frame: Frame) -> tuple[float, ...]:
        """See `OpenFrame`."""
        return (float(sigma_of_batch(self.colours, self.value_range)),)

    def levels_of(self, sigma: float) -> tuple[float, ...]:
        """See `OpenFrame`."""
        return (sigma,)

    def sigma_of(self, levels: tuple[float, ...]) -> float:
        """See `OpenFrame`."""
        return levels[0]

    def result(self, before: Frame, made: Frame, strength: float) -> Any:
        """See `OpenFrame`."""
        source, target = self.opened.source, self.opened.target(Fraction(1))
        [blend] = _blended(before, made, strength)
        channels = blend.shape[1]
        target.pixels[:, :channels] = from_unit(blend, target.pixels.dtype, self.value_range)
        target.pixels[:, channels:] = source[:, channels:]
        return self.finish(target.result())


@dataclass(frozen=True)
class PlanesFrame(OpenFrame):
    """A frame of a film with subsampled chroma, taken as its own planes: Y', and both of chroma.

    Its picture in RGB would have four times the numbers of chroma for 4:2:0, and no more detail.
    """

    given: VideoFrame

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:  # type: ignore[override]
        """See `OpenFrame`."""
        return tuple(plane.shape for plane in self.given.planes)

    def read(self, session: Session) -> Frame:
        """See `OpenFrame`."""
        luma, *chroma = self.given.unit_planes()
        parts = (luma[None, None], np.stack(chroma)[:, None])
        return tuple(torch.from_numpy(part).to(session.device, session.dtype) for part in parts)

    def estimates(self, frame: Frame) -> tuple[float, ...]:
        """See `OpenFrame`."""
        return tuple(float(level) for planes in frame for level in sigma_of_batch(planes))

    def levels_of(self, sigma: float) -> tuple[float, ...]:
        """See `OpenFrame`."""
        return tuple(sigma * gain for gain in self.given.noise_gains())

    def sigma_of(self, levels: tuple[float, ...]) -> float:
        """See `OpenFrame`."""
        return math.hypot(*levels) / math.hypot(*self.given.noise_gains())

    def result(self, before: Frame, made: Frame, strength: float) -> Any:
        """See `OpenFrame`."""
        blend = _blended(before, made, strength)
        planes = [plane for part in blend for plane in part[:, 0].float().cpu().numpy()]
        return self.given.with_unit_planes(planes)


def _blended(before: Frame, made: Frame, strength: float) -> Frame:
    if strength == 1:
        return made
    return tuple(torch.lerp(x, y, strength) for x, y in zip(before, made, strict=True))
