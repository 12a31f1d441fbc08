"""Noise of photographs as cameras store them: a random pipeline from sensor to JPEG.

The order is a camera's: light, sensor, mosaic, white balance and colours, tone curve, noise
reduction, sharpening, enlarging, JPEG. Only the noise goes through what smooths and interpolates,
so the clean image stays the target: blur and demosaicing errors are not learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.data.noise import in_camera, tone
from denoise_ext.data.noise._draw import (
    ClipGenerators,
    Draws,
    Generators,
    checked_image,
    normal,
)
from denoise_ext.data.noise.developed import developed_noise
from denoise_ext.data.noise.jpeg import add_jpeg_artefacts
from denoise_ext.data.noise.mosaic import demosaic_bilinear, demosaic_malvar, to_mosaic

# log(variance of read noise) against log(shot noise), with its scatter: Brooks et al. 2019.
_READ_SLOPE, _READ_OFFSET, _READ_SCATTER = 2.18, 1.2, 0.26
_MALVAR, _BILINEAR = 0.60, 0.25  # of the pictures; the others are scaled down, without a mosaic


@dataclass(frozen=True)
class PhotoNoise:
    """Ranges and shares of `add_photo_noise`; sigma and luma on the 0-255 scale.

    Attributes:
        shot_min, shot_max: variance of the sensor's noise at white, log-uniform.
        black: a black level that is too high by up to so many deviations of the read noise, in half
            of the pictures: shadows with noise come out too dark.
        smoothed: share of the pictures whose noise a camera has smoothed throughout; its luma is
            then set to a value between luma_min and luma_max, log-uniform.
        jpeg: share of the camera pictures that are stored as JPEG.
        developed: share of the camera pictures that a raw developer made instead; half as many of
            them are stored as JPEG.
        white: share that gets white Gaussian noise of 0 to white_sigma instead of a camera's.
        clean: share that stays as it is.

    Example:
        >>> options = denoise_ext.data.noise.PhotoNoise(jpeg=1.0, white=0.0, clean=0.0)
        >>> denoise_ext.data.noise.add_photo_noise(torch.rand(1, 3, 32, 32), options).shape
        torch.Size([1, 3, 32, 32])
    """

    shot_min: float = 1.5e-5
    shot_max: float = 0.012
    black: float = 0.0
    smoothed: float = 0.5
    luma_min: float = 1.0
    luma_max: float = 10.0
    jpeg: float = 0.75
    developed: float = 0.0
    white: float = 0.15
    white_sigma: float = 50.0
    clean: float = 0.05


def add_photo_noise(
    x: Tensor,
    options: PhotoNoise = PhotoNoise(),
    generator: Generators = None,
) -> Tensor:
    """``x`` as a camera would have stored it, the stages drawn at random for every image.

    Camera pictures are clipped and rounded to 8 bits, white noise that is not stored as JPEG is
    not.

    Args:
        x: (N, 3, H, W), sRGB in [0, 1], H and W >= 16.
        options: see `PhotoNoise`.
        generator: one, or one per image.

    Example:
        >>> x = torch.full((2, 3, 32, 32), 0.5)
        >>> draws = torch.Generator().manual_seed(7)
        >>> denoise_ext.data.noise.add_photo_noise(x, generator=draws).shape
        torch.Size([2, 3, 32, 32])
    """
    image = checked_image(x)
    if image.shape[1] != 3 or min(image.shape[2:]) < 16:
        raise ValueError(
            f"x must have 3 channels and at least 16 x 16 pixels, got {tuple(x.shape)}"
        )
    draws = Draws(image, generator)
    kind = draws.between(0.0, 1.0)
    is_white, is_clean = kind < options.white, kind > 1.0 - options.clean
    developed = draws.chance(options.developed)
    camera = image
    if not (isinstance(generator, ClipGenerators) and bool((is_white | is_clean).all())):
        # All images of a batch: what one gets must not depend on the others. The frames of a clip
        # are of one kind, and half the time of training data would go into unused cameras.
        noise = camera_processing(sensor_noise(image, draws, options), draws, options)
        chosen = developed.nonzero()[:, 0].tolist()
        if chosen:
            noise[chosen] = developed_noise(draws.of(chosen), options.shot_min, options.shot_max)
        camera = ((image + noise).clamp(0, 1) * 255.0).round() / 255.0
    white = image + normal(image, generator) * _shaped(
        draws.between(0, options.white_sigma) / 255.0
    )
    noisy = torch.where(_shaped(is_white), white, camera)
    stored = add_jpeg_artefacts(noisy, *jpeg_settings(draws))
    # White noise less often: it is mostly measured without JPEG. Raw developers write PNG, too.
    kept = torch.where(is_white, draws.chance(0.6), developed & draws.chance(0.5))
    is_stored = draws.chance(options.jpeg) & ~kept
    noisy = torch.where(_shaped(is_stored), stored, noisy)
    return torch.where(_shaped(is_clean), image, noisy).to(x.dtype)


def sensor_noise(image: Tensor, draws: Draws, options: PhotoNoise) -> Tensor:
    """The noise of a sensor as it is seen in the finished sRGB picture, (N, 3, H, W).

    Light is unprocessed from the picture: tone curve (half of the images), sRGB, a camera's
    colours, white balance, exposure. The sensor's Poisson-Gaussian noise, demosaiced, goes back
    through the same, together with the light; the picture without noise, which loses what is
    clipped, is subtracted.
    """
    has_curve = _shaped(draws.chance(0.5))
    light = tone.srgb_to_linear(torch.where(has_curve, tone.inverse_tone_curve(image), image))
    mix = -draws.between(0.0, 1.0, tone.SENSORS).clamp(min=1e-6).log()
    to_sensor = tone.sensor_matrices(mix / mix.sum(dim=1, keepdim=True))
    gains = torch.stack([draws.between(1.4, 2.4), torch.ones(len(image)).to(image),
                         draws.between(1.3, 2.2)], dim=1)  # fmt: skip
    gains = (gains * draws.between(0.8, 1.3)[:, None])[..., None, None]  # (N, 3, 1, 1)
    raw = tone.mix_channels(light, to_sensor) / gains

    shot = draws.logarithmic(options.shot_min, options.shot_max)
    scatter = normal(image, draws.generators, (len(image), 1), common=True)[:, 0] * _READ_SCATTER
    read = (_READ_SLOPE * shot.log() + _READ_OFFSET + scatter).exp()
    noise = demosaiced_noise(raw, shot, read, draws)
    noise = noise - _shaped(draws.some(0.5, 0.0, options.black) * read.sqrt())

    def finished(sensor: Tensor) -> Tensor:
        linear = tone.mix_channels(sensor * gains, torch.linalg.inv(to_sensor)).clamp(0, 1)
        encoded = tone.linear_to_srgb(linear)
        return torch.where(has_curve, tone.tone_curve(encoded), encoded)

    return finished(raw + noise) - finished(raw)


def demosaiced_noise(raw: Tensor, shot: Tensor, read: Tensor, draws: Draws) -> Tensor:
    """Noise of variance ``shot * raw + read`` per photosite, (N,) each, after demosaicing.

    Of 60 % of the images Malvar's, of 25 % bilinear; 15 % have the noise of full colour sites.
    """
    height, width = raw.shape[-2:]
    raw = F.pad(raw, (0, width % 2, 0, height % 2), mode="replicate")  # whole 2x2 patterns
    deviation = (_shaped(shot) * raw.clamp(min=0.0) + _shaped(read)).sqrt()
    full = normal(raw, draws.generators) * deviation
    mosaic = to_mosaic(full)  # of each site the noise of its one channel
    pick = _shaped(draws.between(0.0, 1.0))
    interpolated = torch.where(pick < _MALVAR, demosaic_malvar(mosaic), demosaic_bilinear(mosaic))
    noise = torch.where(pick < _MALVAR + _BILINEAR, interpolated, full)
    return noise[..., :height, :width]


def camera_processing(noise: Tensor, draws: Draws, options: PhotoNoise) -> Tensor:
    """Noise reduction, sharpening and enlarging, as far as they act on the noise."""
    smoothed = draws.chance(options.smoothed)
    light = in_camera.smooth(
        noise,
        draws.between(0.4, 1.2), draws.between(0.5, 2.2),
        draws.some(0.6, 0.0, 1.0), draws.some(0.8, 0.0, 1.0),
    )  # fmt: skip
    gray = torch.where(draws.chance(0.5), 1.0, draws.between(0.0, 1.0))  # cameras, film grain
    light = in_camera.fade_chroma(light, torch.where(draws.chance(0.25), gray, 0.0))
    # twice, narrow and wide: what is left of it has a long tail in its correlation
    strong = in_camera.smooth(
        in_camera.smooth(
            noise,
            draws.between(0.6, 1.3), draws.between(1.2, 3.5),
            draws.between(0.7, 1.0), draws.between(0.7, 1.0),
        ),
        draws.between(1.5, 4.0), draws.between(2.0, 4.0),
        draws.some(0.5, 0.0, 0.8), draws.some(0.5, 0.0, 0.8),
    )  # fmt: skip
    luma = draws.logarithmic(options.luma_min, options.luma_max) / 255.0
    strong = in_camera.set_strength(strong, luma, luma * draws.between(0.0, 0.8))
    noise = torch.where(_shaped(smoothed), strong, light)
    noise = in_camera.sharpen(noise, draws.some(0.3, 0.0, 0.6))
    larger = torch.where(draws.chance(0.22), draws.between(1.2, 2.2), 1.0)
    return torch.where(_shaped(larger > 1.0), in_camera.enlarge(noise, larger), noise)


def jpeg_settings(draws: Draws) -> tuple[Tensor, Tensor]:
    """Quality 40 to 75 of 30 % of the images, 75 to 100 of the others; 4:2:0 of half of them."""
    low = draws.chance(0.3)
    quality = torch.where(low, draws.between(40.0, 75.0), draws.between(75.0, 100.0))
    return quality, draws.chance(0.5)


def _shaped(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)
