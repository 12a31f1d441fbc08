"""Noise of light itself and of a camera's sensor.

Model: Foi, Trimeche, Katkovnik, Egiazarian, "Practical Poissonian-Gaussian Noise Modeling and
Fitting for Single-Image Raw-Data", IEEE TIP 2008: at a value x proportional to the light,
``variance = shot * x + read^2``.
"""

from __future__ import annotations

import math

from torch import Tensor

from denoise_ext.data.noise._draw import (
    Generators,
    Strength,
    checked_image,
    normal,
    per_image,
    poisson,
)

# Below this many photons per unit of x a Poisson draw is what it claims to be; float32 counts
# integers exactly up to 2^24.
_MAX_PHOTONS = 2.0**24

# ISO -> (shot, variance of the read noise), green channel of a Canon EOS M6 Mark II in linear,
# demosaiced RGB with white at 1.0, as profiled by the darktable project (coefficients "a" and "b"
# in its data/noiseprofiles.json, commit 0001d62; rounded).
ISO_PRESETS: dict[int, tuple[float, float]] = {
    100: (3.558e-6, 3.75e-9),
    200: (6.090e-6, 5.08e-9),
    400: (1.070e-5, 1.03e-8),
    800: (1.982e-5, 1.89e-8),
    1600: (3.774e-5, 4.11e-8),
    3200: (7.263e-5, 9.34e-8),
    6400: (1.431e-4, 2.16e-7),
    12800: (2.769e-4, 4.99e-7),
    25600: (5.424e-4, 9.31e-7),
}


def add_poisson_noise(x: Tensor, photons: Strength, generator: Generators = None) -> Tensor:
    """Shot noise: ``Poisson(photons * x) / photons``; mean x, variance ``x / photons``.

    Args:
        x: (N, C, H, W) in [0, 1], proportional to the light; negative values count as 0.
        photons: electrons (counted photons) at x = 1.0, in (0, 2^24]; a number or (N,).
        generator: one, or one per image.

    Example:
        >>> x = torch.full((1, 1, 64, 64), 0.5)
        >>> noisy = denoise_ext.data.noise.add_poisson_noise(x, photons=100)
        >>> counts = 100 * noisy  # whole photons
        >>> torch.allclose(counts, counts.round(), atol=1e-3)
        True
    """
    image = checked_image(x)
    count = per_image("photons", photons, image, 1e-6, _MAX_PHOTONS)
    return (poisson(image.clamp(min=0.0) * count, generator) / count).to(x.dtype)


def add_poisson_gaussian_noise(
    x: Tensor, shot: Strength, read: Strength, generator: Generators = None
) -> Tensor:
    """Shot noise and Gaussian read noise; mean x, variance ``shot * x + read^2``.

    Args:
        x: (N, C, H, W) in [0, 1], proportional to the light; negative values count as 0.
        shot: variance per unit of x, one over the electrons at x = 1.0; >= 2^-24.
        read: standard deviation of the read noise, in units of x (1.0 is white).
        generator: one, or one per image.

    `camera_noise` gives ``(shot, read)`` of a camera whose gain and read noise are known,
    `iso_noise` those of a profiled one.

    Example:
        >>> x = torch.full((1, 1, 64, 64), 0.5)
        >>> shot, read = denoise_ext.data.noise.iso_noise(3200)
        >>> noisy = denoise_ext.data.noise.add_poisson_gaussian_noise(x, shot, read)
        >>> expected = (shot * 0.5 + read**2) ** 0.5
        >>> bool(abs(noisy.std() / expected - 1) < 0.1)
        True
    """
    image = checked_image(x)
    per_electron = per_image("shot", shot, image, 1 / _MAX_PHOTONS)
    sigma = per_image("read", read, image)
    counted = poisson(image.clamp(min=0.0) / per_electron, generator) * per_electron
    return (counted + normal(image, generator) * sigma).to(x.dtype)


def camera_noise(gain: float, read_noise: float, levels: float) -> tuple[float, float]:
    """``(shot, read)`` of a sensor.

    Args:
        gain: digital numbers per electron at the ISO in question, DN / e-.
        read_noise: standard deviation of the read noise in electrons.
        levels: digital numbers from black to white, e.g. 16383 less the black level for 14 bits.

    Example:
        >>> shot, read = denoise_ext.data.noise.camera_noise(gain=2.0, read_noise=3.0, levels=16000)
        >>> round(1 / shot), read  # electrons at white; read noise in units of white
        (8000, 0.000375)
    """
    for name, value in (("gain", gain), ("levels", levels)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and > 0, got {value}")
    if not (math.isfinite(read_noise) and read_noise >= 0):
        raise ValueError(f"read_noise must be finite and >= 0 electrons, got {read_noise}")
    return gain / levels, read_noise * gain / levels


def iso_noise(iso: float) -> tuple[float, float]:
    """``(shot, read)`` of `ISO_PRESETS` at an ISO of 100 to 25600; between two, log-linear.

    Example:
        >>> shot, read = denoise_ext.data.noise.iso_noise(1600)
        >>> denoise_ext.data.noise.iso_noise(3200)[0] > shot
        True
    """
    known = sorted(ISO_PRESETS)
    if not known[0] <= iso <= known[-1]:
        raise ValueError(f"iso must be in [{known[0]}, {known[-1]}], got {iso:g}")
    upper = next(k for k in known if k >= iso)
    lower = max((k for k in known if k <= iso), default=upper)
    t = 0.0 if upper == lower else math.log(iso / lower) / math.log(upper / lower)
    shot, variance = (
        math.exp((1 - t) * math.log(a) + t * math.log(b))
        for a, b in zip(ISO_PRESETS[lower], ISO_PRESETS[upper])
    )
    return shot, math.sqrt(variance)
