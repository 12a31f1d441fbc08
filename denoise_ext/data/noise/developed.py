"""Noise of pictures from raw developers and of phones in the dark: smoothed little or not at all.

A camera's JPEG has noise that the camera has smoothed. Raw developers show the sensor's. Exposure,
colours, tone, demosaicing and filters differ from program to program, so all ranges are wide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.data.noise import in_camera, tone
from denoise_ext.data.noise._draw import Draws, normal
from denoise_ext.data.noise.mosaic import (
    demosaic_bilinear,
    demosaic_malvar,
    smooth_colour_differences,
    to_mosaic,
)

# log(variance of read noise) against log(shot noise): Brooks et al. 2019, with more scatter.
_READ_SLOPE, _READ_OFFSET, _READ_SCATTER = 2.18, 1.2, 0.7


def developed_noise(draws: Draws, shot_min: float, shot_max: float) -> Tensor:
    """The noise in the finished sRGB pictures ``draws.x``, (N, 3, H, W).

    ``shot_min`` and ``shot_max`` limit the variance of the sensor's noise at white, before
    underexposed pictures are brightened.
    """
    image = draws.x
    has_contrast = _shaped(draws.chance(0.5))
    gamma = _shaped(torch.where(draws.chance(0.5), draws.between(1.8, 2.4), 0.0))  # 0: sRGB's curve
    gentle = torch.where(has_contrast, tone.inverse_tone_curve(image), image)
    light = torch.where(gamma > 0, gentle.clamp(0, 1) ** gamma, tone.srgb_to_linear(gentle))
    to_sensor, gains = _colours(draws)
    raw = tone.mix_channels(light, to_sensor) / gains

    shot = draws.logarithmic(shot_min, shot_max)
    scatter = normal(image, draws.generators, (len(image), 1), common=True)[:, 0] * _READ_SCATTER
    read = (_READ_SLOPE * shot.log() + _READ_OFFSET + scatter).exp()
    noise = _demosaiced(raw, shot, read, draws)

    def finished(sensor: Tensor) -> Tensor:
        linear = tone.mix_channels(sensor * gains, torch.linalg.inv(to_sensor)).clamp(0, 1)
        curved = linear ** (1.0 / gamma.clamp(min=1.0))
        shown = torch.where(gamma > 0, curved, tone.linear_to_srgb(linear))
        return torch.where(has_contrast, tone.tone_curve(shown), shown)

    return _filtered(finished(raw + noise) - finished(raw), draws)


def _colours(draws: Draws) -> tuple[Tensor, Tensor]:
    """A matrix to the sensor's colours (N, 3, 3), weak to strong, and gains (N, 3, 1, 1)."""
    mix = -draws.between(0.0, 1.0, tone.SENSORS).clamp(min=1e-6).log()
    sensor = tone.sensor_matrices(mix / mix.sum(dim=1, keepdim=True))
    own = torch.eye(3, dtype=sensor.dtype, device=sensor.device)
    matrices = own + draws.between(0.0, 1.1)[:, None, None] * (sensor - own)
    exposure = draws.logarithmic(0.7, 3.0)
    balance = [draws.between(1.2, 2.8), torch.ones_like(exposure), draws.between(1.2, 2.8)]
    return matrices, (torch.stack(balance, dim=1) * exposure[:, None])[..., None, None]


def _demosaiced(raw: Tensor, shot: Tensor, read: Tensor, draws: Draws) -> Tensor:
    """Noise of photosites, with rows and black levels that are off, after a random demosaicing."""
    height, width = raw.shape[-2:]
    sites = to_mosaic(F.pad(raw, (0, width % 2, 0, height % 2), mode="replicate"))
    sites, deviation = sites.clamp(min=0.0), _shaped(read.sqrt())
    noise = normal(sites, draws.generators) * (_shaped(shot) * sites + _shaped(read)).sqrt()
    rows = normal(sites, draws.generators, (len(sites), 1, sites.shape[2], 1))
    noise = noise + rows * deviation * _shaped(draws.some(0.15, 0.0, 0.4))
    noise = noise - deviation * _shaped(draws.some(0.5, 0.0, 1.0))
    sharp = _shaped(torch.where(draws.chance(0.5), 1.0, draws.between(0.0, 1.3)))
    noise = sharp * demosaic_malvar(noise) + (1.0 - sharp) * demosaic_bilinear(noise)
    noise = torch.where(_shaped(draws.chance(0.25)), smooth_colour_differences(noise), noise)
    return noise[..., :height, :width]


def _filtered(noise: Tensor, draws: Draws) -> Tensor:
    """Smoothing of half of the pictures, less where they have detail; sharpening; enlarging."""
    smoothed = in_camera.smooth(
        noise,
        draws.between(0.4, 1.5), draws.between(0.5, 4.0),
        draws.some(0.6, 0.0, 1.0), draws.some(0.8, 0.0, 1.0),
    )  # fmt: skip
    kept = in_camera.detail(draws.x) * _shaped(draws.some(0.5, 0.3, 1.0))
    smoothed = smoothed + kept * (noise - smoothed)
    noise = torch.where(_shaped(draws.chance(0.5)), smoothed, noise)
    # Less than a pixel of blur, then sharpening: noise that rings, as resampling leaves it.
    narrow = in_camera.blur(noise, draws.between(0.35, 0.8))
    noise = torch.where(_shaped(draws.chance(0.35)), narrow, noise)
    noise = in_camera.sharpen(
        noise, draws.some(0.6, 0.0, 2.0), draws.between(0.7, 2.0), draws.chance(0.6)
    )
    larger = torch.where(draws.chance(0.25), draws.between(1.1, 2.2), 1.0)
    return torch.where(_shaped(larger > 1.0), in_camera.enlarge(noise, larger), noise)


def _shaped(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)
