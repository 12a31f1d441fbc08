"""What a `Denoiser` with `uncertainty` finds out about one of its results."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from denoise_ext._precision import PRECISIONS
from denoise_ext.io.channels import colour_channels
from denoise_ext.models import list_models, pretrained_info
from denoise_ext.models.registry import Factors
from denoise_ext.runtime.model_names import Model, member
from denoise_ext.runtime.options import RunOptions
from denoise_ext.runtime.session import Session
from denoise_ext.tasks.images import ImageView
from denoise_ext.tasks.network_run import NetworkRun
from denoise_ext.tasks.noise_analysis import NoiseProfile
from denoise_ext.tasks.part import Part, cropped
from denoise_ext.tasks.treatment import Treatment
from denoise_ext.tasks.uncertainty import estimate, sample, why_not
from denoise_ext.tasks.value_range import Range, from_unit, to_unit


@dataclass(frozen=True)
class Trust:
    """Uncertainty of a result, or the reason why there is none."""

    uncertainty: Any = None
    expected_psnr: float | None = None
    expected_psnr_error: float | None = None
    interval_90: float | None = None
    reason: str = ""
    sampler: Callable[[int, int], Any] | None = None
    """From a number of steps and a seed to an image."""


def checked_probes(uncertainty: object, strength: float, precision: str) -> int:
    """Return the number of probes if it fits the other options; raise ValueError if not."""
    if isinstance(uncertainty, bool) or not isinstance(uncertainty, int) or uncertainty < 0:
        raise ValueError(f"uncertainty must be a number of probes >= 0, got {uncertainty!r}")
    if uncertainty and strength != 1:
        raise ValueError(f"uncertainty needs strength 1, got {strength!r}")
    if uncertainty and PRECISIONS[precision].dtype is not None:
        raise ValueError(f"uncertainty needs float32, got precision {precision!r}")
    return uncertainty


def trust_of(
    image: Any,
    opened: ImageView,
    session: Callable[[Model], Session],
    options: RunOptions,
    model: Model,
    treatment: Treatment | None,
    sigma: Any,
    value_range: Range | None,
    probes: int,
    noise: NoiseProfile | None = None,
) -> Trust:
    """Probe the network that denoised an image.

    Args:
        image: as it was given.
        session: the network of a model, ready to run.
        model, treatment, sigma: what was applied; no treatment where the model was given.
        noise: that of the image; None: found here.
    """
    source = opened.source[:, : colour_channels(opened.source.shape[1])]
    if treatment is not None:
        if treatment.gray:
            return Trust(reason="a gray picture is stored as RGB; give one channel")
        if replace(treatment, sigma=None, text="") != Treatment(treatment.model):
            return Trust(reason=f"the image was not denoised at one level: {treatment.text}")
        model = treatment.model
    if source.shape[0] != 1:
        return Trust(reason=f"{source.shape[0]} images are one batch; give them one by one")
    ready = session(model)
    level: Any = sigma
    if "noise_map" not in ready.original.signature.inputs:
        return Trust(reason="the network estimates the noise itself, at no level that is known")
    if isinstance(sigma, numbers.Real) or (isinstance(sigma, Tensor) and sigma.numel() == 1):
        level = float(sigma)  # also NumPy's
    if reason := why_not(source, level, value_range, noise):
        return Trust(reason=reason)
    run = NetworkRun(ready, source.shape[1], options)
    y = to_unit(source.to(ready.device), ready.dtype, value_range)
    factors = factors_of(model, source.shape[1], level)
    found = estimate(run, y, level, probes, factors)

    def draw(steps: int, seed: int) -> Any:
        target = opened.target(Fraction(1))
        drawn = from_unit(sample(run, y, level, steps, seed), source.dtype, value_range)
        colour = source.shape[1]
        target.pixels[:, :colour] = drawn.to(target.pixels.device)
        target.pixels[:, colour:] = opened.source[:, colour:]
        return target.result()

    return Trust(
        _like(found.deviation, image), found.psnr, found.psnr_error,
        factors.interval_90 if factors else None, "", draw,
    )  # fmt: skip


def trust_in_part(trust: Trust, place: Part) -> Trust:
    """That of a window, for a part of it: PSNR stays that of the window."""
    if trust.uncertainty is None:
        return trust
    drawn = trust.sampler
    return replace(
        trust,
        uncertainty=trust.uncertainty[place],
        sampler=drawn and (lambda steps, seed: cropped(drawn(steps, seed), place)),
    )


def factors_of(model: Model, channels: int, sigma: float) -> Factors | None:
    """The factors that were fitted for shipped weights, on images of so many channels."""
    name = member(model, channels)
    name = name if isinstance(name, str) else ""
    shipped = pretrained_info(name) if name in list_models(pretrained=True) else None
    if shipped is None or shipped.config.get("channels") != channels:
        return None
    return None if shipped.calibration is None else shipped.calibration.at(sigma)


def _like(deviation: Tensor, image: Any) -> Any:
    """(C, H, W) in the layout of a tensor, else as an array (H, W) or (H, W, C)."""
    if isinstance(image, Tensor):
        shapes = {2: deviation[0], 3: deviation, 4: deviation[None]}
        return shapes.get(image.dim(), deviation)
    array = deviation.cpu().to(torch.float32).permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array
