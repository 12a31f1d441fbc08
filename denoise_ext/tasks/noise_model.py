"""The covariance of the noise of one image, and random fields that have it.

White noise, also where it grows with brightness, is described by the fields of `NoiseProfile`. For
other noise a spectrum is measured: in 16 x 16 blocks that are quiet at the lowest frequencies, as
the energy of each coefficient of the DCT, with the correlation of the channels. `noise_level` has
the idea and its sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.tasks.noise_analysis import NoiseProfile
from denoise_ext.tasks.noise_level import at_limit, cosines
from denoise_ext.tasks.sampling import sample_places
from denoise_ext.tasks.treatment import sigma_map
from denoise_ext.tasks.value_range import to_unit

_BLOCK, _STEP = 16, 4  # pixels
_LOWEST = 2  # coefficients (i, j) with i + j up to this choose the blocks, and are not measured
_QUIETEST = 0.02  # share of the blocks
_SAMPLE = 1 << 18  # pixels that are looked at: larger images through tiles spread over them
_FEWEST = 64  # blocks
_CLIPPED = 1 / 16  # of a block's pixels
_LEAST = (0.25 / 255) ** 2  # variance: rounding to 8 bits leaves a twelfth of (1 / 255)^2


@dataclass(frozen=True)
class NoiseModel:
    """Covariance of the noise of an image, for black 0 and white 1."""

    slope: float
    """``variance = slope * intensity + offset``, mean over the channels."""
    offset: float
    root: Tensor | None = None
    """(16, 16, C, C): symmetric root of the spectrum of w, by the DCT's frequencies (i, j), of
    mean square 1.  None: white, and independent in the channels."""

    def deviation(self, image: Tensor) -> Tensor:
        """Standard deviation at each pixel of (N, C, H, W): (N, 1, H, W)."""
        place = (slice(None), slice(None))
        return sigma_map(image, place, (self.slope, self.offset), None) / 255

    def draw(self, image: Tensor, generator: torch.Generator, turned: bool = False) -> Tensor:
        """Gaussian noise (1, C, H, W) with this covariance for (1, C, H, W) in [0, 1].

        ``turned``: the image is turned by 90 degrees.
        """
        white = torch.randn(image.shape, generator=generator)
        if self.root is not None:
            white = _filtered(white, self.root.transpose(0, 1) if turned else self.root)
        return self.deviation(image) * white


def noise_model(image: Tensor, profile: NoiseProfile) -> NoiseModel:
    """Of (1 or 3, H, W), of any dtype, without alpha, at least 32 x 32, and its profile.

    The spectrum is measured where the profile is not that of white noise.  In noise that a camera
    has smoothed most where nothing was to be seen, the measured variance is too small.
    """
    if profile.kind in ("white", "signal-dependent"):
        return NoiseModel(profile.variance_slope, profile.variance_offset)
    height, width = image.shape[-2:]
    places = sample_places(height, width, _SAMPLE)
    found = zip(*(_blocks(image[(slice(None), *place)].detach().cpu()) for place in places))
    coefficients, usable = (torch.cat(parts, dim=i) for parts, i in zip(found, (1, 0)))
    low = coefficients[:, :, _LOW][:, :, 1:].square().sum((0, 2))  # without the mean
    if int(usable.sum()) >= _FEWEST:
        low = torch.where(usable, low, torch.inf)
    quiet = low.argsort()[: max(_FEWEST, int(_QUIETEST * len(low)))]
    root, variance = _root(coefficients[:, quiet])
    if variance < _LEAST:
        return NoiseModel(0.0, _LEAST)
    return NoiseModel(0.0, variance, root)


def _blocks(stored: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (C, n, 256) of blocks, and of which (n,) few pixels are clipped."""
    x = to_unit(stored, torch.float32, None)
    patches = x.unfold(1, _BLOCK, _STEP).unfold(2, _BLOCK, _STEP)  # (C, rows, columns, 16, 16)
    centre = x.mean()  # without it, float32 has digits to spare for the noise
    turned = torch.einsum("ai,crsij,bj->crsab", _COSINES, patches - centre, _COSINES)
    coefficients = turned.flatten(3).flatten(1, 2)
    limit = at_limit(x, stored).float().amax(0, keepdim=True)
    clipped = F.avg_pool2d(limit, _BLOCK, _STEP).flatten()
    return coefficients, clipped <= _CLIPPED


def _root(coefficients: Tensor) -> tuple[Tensor, float]:
    """Root of the spectrum of coefficients (C, n, 256), of mean square 1, and the variance."""
    channels, count, _ = coefficients.shape
    spectrum = torch.einsum("knf,lnf->fkl", coefficients, coefficients).double() / count
    spectrum[_LOW] = spectrum[_NEXT].mean(0)  # content is strong there: as at the next ones
    values, vectors = torch.linalg.eigh(spectrum)
    root = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
    variance = float(root.square().sum() / (len(root) * channels))
    root = root.reshape(_BLOCK, _BLOCK, channels, channels)
    return (root / math.sqrt(max(variance, _LEAST))).float(), variance


def _filtered(white: Tensor, root: Tensor) -> Tensor:
    """White noise (1, C, H, W) given the spectrum, periodic at the edges, mean square 1."""
    height, width = white.shape[-2:]
    rows, columns = _place(height), _place(width)[: width // 2 + 1]
    grid = root.permute(2, 3, 0, 1).flatten(0, 1)  # (C * C, 16, 16)
    at = (grid @ _interpolation(columns).T).transpose(1, 2) @ _interpolation(rows).T
    filters = at.transpose(1, 2).reshape(*root.shape[2:], len(rows), len(columns))
    channels = torch.einsum("klhw,lhw->khw", filters.to(torch.complex64), torch.fft.rfft2(white[0]))
    found = torch.fft.irfft2(channels, s=(height, width))
    # Between the frequencies that were measured, roots are interpolated: the sum is a little off.
    weight = torch.full((len(columns),), 2.0)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    power = (filters.square().sum((0, 1)) * weight).sum() / (height * width * len(root[0, 0]))
    return (found / power.sqrt())[None]


def _place(size: int) -> Tensor:
    """Of the frequencies of an FFT among the 16 of the DCT."""
    return (torch.fft.fftfreq(size).abs() * 2 * _BLOCK).clamp(max=_BLOCK - 1)


def _interpolation(places: Tensor) -> Tensor:
    """(n, 16): weights of the two nearest."""
    below = places.floor().long().clamp(max=_BLOCK - 2)
    part = places - below
    weights = torch.zeros(len(places), _BLOCK)
    rows = torch.arange(len(places))
    weights[rows, below], weights[rows, below + 1] = 1 - part, part
    return weights


_COSINES = cosines(_BLOCK)
_SUM = (torch.arange(_BLOCK)[:, None] + torch.arange(_BLOCK)).flatten()
_LOW = _SUM <= _LOWEST
_NEXT = _SUM == _LOWEST + 1


__all__ = ["NoiseModel", "noise_model"]
