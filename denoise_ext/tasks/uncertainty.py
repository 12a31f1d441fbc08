"""How sure a denoiser is: uncertainty of each pixel, expected PSNR, samples of the posterior.

All follow from the Jacobian J of the network f at the noisy image y, whose noise is white with a
known level s.  Random probes v of -1 and 1 estimate its diagonal by differences,
``v * (f(y + h v) - f(y - h v)) / (2 h)`` with h = 1 % of s, without gradients.

* Uncertainty: the variance of the clean image given y is ``s^2 diag(J)`` for the best denoiser
  (Miyasawa 1961; Manor and Michaeli, "On the posterior distribution in denoising", ICLR 2024).
* Expected error: ``|y - f|^2 / n - s^2 + 2 s^2 tr(J) / n`` has the right mean for every f (Stein
  1981; probes: Ramani, Blu and Unser, "Monte-Carlo SURE", IEEE TIP 2008).  For networks with
  `Factors` it corrects the uncertainty of each image (`tasks.expected_error`).
* Samples: the diffusion that would have made y from a clean image, reversed from the level of y.

All of it holds for white noise of the level that the network is conditioned on, and for no other.
`why_not` finds the exceptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.models.registry import Factors
from denoise_ext.tasks.expected_error import Places, balanced, spread_out
from denoise_ext.tasks.noise_analysis import SMALLEST, NoiseProfile, profile_of
from denoise_ext.tasks.value_range import Range

Denoise = Callable[[Tensor, float], Tensor]
"""(N, C, H, W) with black 0 and white 1, and a level on the 0-255 scale, to the denoised image."""

SMALLEST_SIGMA = 2.0
"""Below this level differences drown in rounding, and a level cannot be checked."""
_STEP = 0.01  # of the level
_WINDOW = 7  # pixels on a side over which the diagonal is averaged: one pixel's estimate is noisy
_LEAST = 1e-4  # of the noise's variance: that of a pixel is positive
_LAST = 2.0  # level of the last step of a sample, 0-255 scale
_WRONG = 0.12, 1.5  # deviation of the level found: share of the given one, at least so much


@dataclass(frozen=True)
class Estimate:
    """What the probes found, for one image."""

    deviation: Tensor
    """(C, H, W): standard deviation of the result's error, on the 0-255 scale."""
    psnr: float
    """Expected PSNR of the result before clipping and rounding, in dB."""
    psnr_error: float
    """Its standard error in dB."""


def why_not(
    source: Tensor, sigma: object, value_range: Range | None, profile: NoiseProfile | None = None
) -> str:
    """Why nothing can be said about the result for an image; "" where it can.

    Args:
        source: (1, C, H, W), without alpha. sigma: the level that the network is conditioned on.
        profile: the noise, where it is known already.
    """
    if not isinstance(sigma, (int, float)):
        return "the network is not conditioned on one level of noise"
    if sigma < SMALLEST_SIGMA:
        return (
            f"a noise level of {sigma:.2f} is below {SMALLEST_SIGMA:g}, where it cannot be checked"
        )
    if profile is None and min(source.shape[-2:]) < SMALLEST:
        return (
            f"the image is below {SMALLEST} x {SMALLEST} pixels, where its noise cannot be checked"
        )
    profile = profile_of(source[0], value_range) if profile is None else profile
    if profile.kind != "white":
        return f"the noise of the image is not white ({profile.kind})"
    share, least = _WRONG
    if abs(profile.level - sigma) > max(share * sigma, least):
        return (
            f"the network is conditioned on a noise level of {sigma:.1f}, but the image has"
            f" {profile.level:.1f}"
        )
    return ""


def estimate(
    denoise: Denoise,
    y: Tensor,
    sigma: float,
    probes: int,
    factors: Factors | None = None,
    seed: int = 0,
) -> Estimate:
    """Uncertainty and expected PSNR of ``denoise(y, sigma)``; 2 * probes + 1 passes.

    Args:
        y: (1, C, H, W) with black 0 and white 1.
        factors: of the network at this level; None: none are known.
    """
    found = probe(denoise, y, sigma, probes, seed)
    if factors is None:
        error = found.residual - 1 + 2 * found.trace
        # The energy of the noise itself is not known better than so.
        error_of_error = math.sqrt(2 / y.numel() + 4 * found.spread)
    else:
        _, error, error_of_error = balanced(found.places, factors)
    error = max(error, 1e-3)
    psnr = -10 * math.log10(error * (sigma / 255) ** 2)
    psnr_error = 10 / math.log(10) * error_of_error / error
    return Estimate(sigma * deviations_of(found, factors)[0], psnr, psnr_error)


def deviations_of(found: Probed, factors: Factors | None = None) -> Tensor:
    """(1, C, H, W): standard deviation of each pixel's error, in units of the noise's."""
    variance = _smooth(found.diagonal).clamp_min(_LEAST)
    if factors is not None:
        ratios, *_ = balanced(found.places, factors)
        variance = variance * spread_out(ratios, found.places, variance.shape) + factors.removed
    return variance.sqrt()


@dataclass(frozen=True)
class Probed:
    """What the probes found.  Energies are in units of the noise's variance."""

    diagonal: Tensor
    """(1, C, H, W): the Jacobian's diagonal, its mean over the probes."""
    trace: float
    """Its mean over the image."""
    spread: float
    """Variance of `trace`."""
    residual: float
    """Mean square of what was removed."""
    places: Places


def probe(denoise: Denoise, y: Tensor, sigma: float, probes: int, seed: int = 0) -> Probed:
    """Arguments as of `estimate`."""
    level = sigma / 255
    generator = torch.Generator().manual_seed(seed)
    diagonal, traces, places = torch.zeros_like(y), [], Places(y.shape, probes)
    for _ in range(probes):
        v = torch.randint(0, 2, y.shape, generator=generator, dtype=torch.int8)
        v = (2 * v - 1).to(y)
        shift = _STEP * level * v
        change = (denoise(y + shift, sigma) - denoise(y - shift, sigma)) * v
        change /= 2 * _STEP * level
        traces.append(float(change.mean(dtype=torch.float64)))
        places.add(change)
        diagonal += change / probes
    removed = ((denoise(y, sigma) - y) / level).square()
    places.close(removed)
    trace = sum(traces) / probes
    spread = sum((t - trace) ** 2 for t in traces) / max(probes - 1, 1) / probes
    return Probed(diagonal, trace, spread, float(removed.mean(dtype=torch.float64)), places)


def sample(denoise: Denoise, y: Tensor, sigma: float, steps: int, seed: int) -> Tensor:
    """One image from the distribution of clean images given y (1, C, H, W); `steps` passes.

    The level falls from sigma to 2 in equal ratios.  Each step keeps what it may of the noise that
    is left, and draws the rest anew.  The last step denoises.
    """
    generator = torch.Generator().manual_seed(seed)
    last = min(_LAST, sigma)
    levels = [sigma * (last / sigma) ** (i / max(steps - 1, 1)) for i in range(steps)]
    x = y
    for level, lower in pairwise(levels):
        mean = denoise(x, level)
        kept = (lower / level) ** 2
        noise = torch.randn(y.shape, generator=generator, dtype=torch.float32).to(y)
        x = mean + kept * (x - mean) + lower / 255 * math.sqrt(1 - kept) * noise
    return denoise(x, levels[-1])


def _smooth(x: Tensor) -> Tensor:
    """Means over windows; at the edge over what of them lies inside."""
    return F.avg_pool2d(x, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
