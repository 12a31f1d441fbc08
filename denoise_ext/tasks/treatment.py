"""What is done to an image when neither model nor noise level is given: by the noise it has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.io.channels import colour_channels
from denoise_ext.runtime.model_names import default_model
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.noise_analysis import SMALLEST, NoiseProfile, profile_of
from denoise_ext.tasks.sigma import Sigma
from denoise_ext.tasks.value_range import Range, check_range, to_unit

PHOTO = "dxnet_s_photo"
# Correlation of channels from which their noise counts as one. Cameras that smooth colours leave
# noise near 0.95, with neighbours in common; luma noise in textured pictures is measured near 0.9.
_EQUAL, _EQUAL_AND_WHITE = 0.95, 0.9
_SHOWN = 3  # texts of a batch
_WINDOW = 4  # pixels on each side whose mean is the brightness that a pixel's noise depends on


@dataclass(frozen=True)
class Treatment:
    """A network, and what it is conditioned on."""

    model: str
    sigma: Sigma = None
    """The level on the 0-255 scale; None for a network that estimates it."""
    variance: tuple[float, float] | None = None
    """Slope and offset of the noise's variance over brightness: a map of the level is made."""
    gray: bool = False
    """Denoise one of three equal channels."""
    impulses: bool = False
    """Replace impulses first."""
    text: str = ""
    """What was found, and what is done, in one line."""


def treatment_for(profile: NoiseProfile, channels: int) -> Treatment:
    """What suits an image of 1 or 3 channels with such noise."""
    gray = profile.gray_stored_as_rgb
    impulses = profile.kind in ("impulse", "mixed")
    model = default_model(1 if gray else channels)
    sigma: float | None = profile.level
    variance: tuple[float, float] | None = None
    colour = model == default_model(3)
    if colour and _equal_in_channels(profile):
        # In their mean it is so much stronger than the independent noise of training.
        stronger = math.sqrt(1 + 2 * profile.channel_correlation) * profile.scale_ratio
        sigma = profile.level * stronger
    elif colour and (profile.faint or profile.correlated):
        # Faint noise of cameras is like fine texture; this network leaves clean pictures alone.
        model, sigma = PHOTO, None
    elif profile.correlated:
        # Of gray networks none is made for it: what is left at half the size is nearest.
        sigma = profile.level * profile.scale_ratio
    elif profile.variance_slope > 0:
        variance = profile.variance_slope, profile.variance_offset
    text = f"{_found(profile)}: {_done(model, variance is not None, impulses)}"
    return Treatment(model, sigma, variance, gray, impulses, text)


def _equal_in_channels(profile: NoiseProfile) -> bool:
    """Whether the noise counts as the same in all channels."""
    most = _EQUAL if profile.spatially_correlated else _EQUAL_AND_WHITE
    return not profile.faint and profile.channel_correlation > most


def treatments_of(
    batch: Tensor, value_range: Range | None
) -> list[tuple[NoiseProfile | None, Treatment]]:
    """For each image of (N, 1 or 3, H, W); images too small for an analysis have no profile."""
    count, channels, height, width = batch.shape
    if min(height, width) < SMALLEST:
        model = default_model(channels)
        return [(None, Treatment(model, text=f"too small for an analysis: {model}"))] * count
    profiles = [profile_of(image, value_range) for image in batch]
    return [(profile, treatment_for(profile, channels)) for profile in profiles]


def treatment_of(
    image: Any, value_range: Range | None = None
) -> tuple[NoiseProfile | None, Treatment]:
    """What the analysis finds in one image, and what suits it: `Denoiser.run_part` takes that.

    Args:
        image: of any kind that a `Denoiser` takes, but one image. Alpha is left out.
        value_range: the numbers that mean black and white, where they are not the image's own.

    Returns:
        The profile, None for an image that is too small for an analysis, and the treatment.

    Raises:
        TypeError, ValueError: as `analyse_noise`.
    """
    opened = open_image(image)
    if len(opened.source) != 1:
        raise ValueError(f"image must be one image, got {len(opened.source)}")
    value_range = opened.value_range if value_range is None else value_range
    checked = check_range(value_range, opened.source.dtype)
    colour = colour_channels(opened.source.shape[1])
    [found] = treatments_of(
        opened.source[:, :colour], None if value_range is None else checked
    )  # fmt: skip
    return found


def one_line(texts: Iterable[str]) -> str:
    """Different texts of `Treatment`, the first three of them."""
    different = [text for text in dict.fromkeys(texts) if text]
    more = [f"and {len(different) - _SHOWN} more"] if len(different) > _SHOWN else []
    return "; ".join([*different[:_SHOWN], *more])


def _found(profile: NoiseProfile) -> str:
    kind = {
        "none": "no or smoothed noise",
        "white": "white noise",
        "signal-dependent": "noise that grows with brightness",
        "correlated": "correlated noise",
        "impulse": "impulse noise",
        "mixed": "impulse and other noise",
    }[profile.kind]
    half = profile.level * profile.scale_ratio
    if profile.kind == "signal-dependent":
        low, high = profile.sigma_at(0.0), profile.sigma_at(1.0)
        level = f", sigma {low:.1f} (black) to {high:.1f} (white)"
    elif profile.kind == "correlated":
        same = ", the same in all channels" if _equal_in_channels(profile) else ""
        level = f", sigma {profile.level:.1f}, at half the size {half:.1f}{same}"
    elif profile.kind == "none":
        level = f", sigma {profile.level:.1f} in the finest detail"
    else:
        level = f", sigma {profile.level:.1f}"
    share = f", {100 * profile.impulses:.1f} % impulses" if "imp" in kind else ""
    stored = "gray picture stored as RGB, " if profile.gray_stored_as_rgb else ""
    return f"{stored}{kind}{level}{share}"


def _done(model: str, by_map: bool, impulses: bool) -> str:
    first = "medians in place of impulses, then " if impulses else ""
    return f"{first}{model}{' with a map of sigma' if by_map else ''}"


def sigma_map(
    image: Tensor,
    place: tuple[slice, slice],
    variance: tuple[float, float],
    value_range: Range | None,
) -> Tensor:
    """The level of the noise at each pixel of a part of (1, C, H, W): (1, 1, h, w), 0-255 scale.

    A part has what the whole image has there: brightness is averaged over pixels around it, too.
    """
    height, width = image.shape[-2:]
    starts, stops = zip(*(p.indices(n)[:2] for p, n in zip(place, (height, width))), strict=True)
    top, left = (max(0, s - _WINDOW) for s in starts)
    around = image[..., top : stops[0] + _WINDOW, left : stops[1] + _WINDOW]
    brightness = to_unit(around, torch.float32, value_range).mean(dim=1, keepdim=True)
    smooth = F.avg_pool2d(brightness.contiguous(), 2 * _WINDOW + 1, 1, _WINDOW,
                          count_include_pad=False)  # fmt: skip
    inside = smooth[..., starts[0] - top :, starts[1] - left :]
    inside = inside[..., : stops[0] - starts[0], : stops[1] - starts[1]]
    slope, offset = variance
    return 255 * (slope * inside.clamp(0, 1) + offset).sqrt()
