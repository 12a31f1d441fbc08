"""What kind of noise an image has: white, stronger where it is brighter, correlated, impulses.

The blocks whose low frequencies are weakest show the noise (`noise_level`). In them are measured
the level, its growth with brightness, and three signs of noise that is not white: another level at
half the size (2 x 2 means, doubled), a falling spectrum, and noise that channels have in common.
Impulses are found, and left out, first.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_ext.io.channels import colour_channels
from denoise_ext.tasks.doubts import warn_of_range
from denoise_ext.tasks.images import open_image
from denoise_ext.tasks.impulses import isolated_share, margins_of, without_impulses
from denoise_ext.tasks.noise_level import at_limit, dct_basis, quiet_variance
from denoise_ext.tasks.sampling import sample_places
from denoise_ext.tasks.value_range import Range, check_range, to_unit

Kind = Literal["none", "white", "signal-dependent", "correlated", "impulse", "mixed"]

SMALLEST = 32  # pixels on a side: 7 x 7 blocks, 3 x 3 at half the size
_BLOCK = 8
_STEP = 4  # between blocks
_CLIPPED = 4 / 64  # of a block's pixels
_SAMPLE = 16, 1 << 16, 1 << 19  # one in so many pixels, but at least and at most so many
_TILE = 64
_NOTHING = 1e-10  # energy of rounding errors
_LOWS, _MIDDLES = 35, 18  # coefficients (i, j) with i + j < 8, then < 11; 10 are left
_PARTS = 12  # of the blocks by brightness
_PER_PART = 512  # blocks in each at least

# Chosen on train/photos_half, train/CBSD432 and the first half of PolyU; benchmarks/photos.py
# measures elsewhere.
_FAINT = 2.5  # level below which nothing but a second measurement shows noise
_COARSE_FAINT = 4.0  # the same at half the size, where texture counts for more
_RATIO = 1.6  # of the levels at half and at full size
_SPECTRUM = 1.35  # of middle and highest frequencies
_ALIKE = 0.6  # correlation of channels
_GROWTH = 1.4  # of the level, from the dark to the bright blocks
_IMPULSES = 0.003  # share of isolated pixels


@dataclass(frozen=True)
class NoiseProfile:
    """What `analyse_noise` found.

    Example:
        >>> profile = denoise_ext.analyse_noise("photo.png")
        >>> profile.kind, profile.correlated
        ('white', False)
    """

    kind: Kind
    """``none``: faint or no noise.  ``white``: Gaussian of one level.  ``signal-dependent``: white,
    but stronger where the image is brighter.  ``correlated``: neighbouring pixels or channels have
    noise in common, as in the JPEGs of cameras.  ``impulse``: single pixels that are replaced.
    ``mixed``: impulses and one of the others."""
    level: float
    """Standard deviation on the 0-255 scale, root mean square over the image; impulses left out.
    Of correlated noise only what is in the highest frequencies."""
    variance_slope: float
    """``variance = variance_slope * intensity + variance_offset``, black 0 and white 1; >= 0."""
    variance_offset: float
    scale_ratio: float
    """Level of the image at half its size over that at full size; white noise: 1."""
    spectral_ratio: float
    """Energy per coefficient of the middle frequencies over the highest; white noise: 1."""
    channel_correlation: float
    """Correlation of the noise of two channels, mean over the pairs; gray: 0."""
    impulses: float
    """Share of the pixels that differ from all their neighbours."""
    gray_stored_as_rgb: bool
    """Three channels that are equal in every pixel."""

    @property
    def faint(self) -> bool:
        """Whether the noise is as weak as fine texture; impulses do not count."""
        return self.level < _FAINT and self.scale_ratio * self.level < _COARSE_FAINT

    @property
    def spatially_correlated(self) -> bool:
        """Whether neighbouring pixels have noise in common, impulses left out."""
        return not self.faint and (self.scale_ratio > _RATIO or self.spectral_ratio > _SPECTRUM)

    @property
    def correlated(self) -> bool:
        """Whether neighbouring pixels or channels have noise in common, impulses left out."""
        return self.spatially_correlated or (not self.faint and self.channel_correlation > _ALIKE)

    def sigma_at(self, intensity: float) -> float:
        """Standard deviation on the 0-255 scale at an intensity from 0 to 1."""
        return 255 * math.sqrt(max(0.0, self.variance_slope * intensity + self.variance_offset))


def analyse_noise(
    image: Any, *, value_range: Range | None = None, axes: str | None = None
) -> NoiseProfile:
    """Find out what kind of noise one image has, and how strong it is.

    `docs/photos.md` has the errors of each field, measured with known noise of each kind.

    Args:
        image: any kind `Denoiser` takes, but one image; alpha is left out. At least 32 x 32 pixels.
            Of images over 65 536 pixels, tiles of 64 x 64 spread over them are looked at: at least
            so many pixels, then one in 16, at most 524 288.
            An image of one value has kind "none" and level 0.
        value_range: the numbers that mean black and white, where they are not the type's own.
        axes: letters for the axes of an array, as `Denoiser` takes them, of one picture: "YXS".

    Raises:
        TypeError, ValueError: an image that is none of these, is smaller, or has pixels that are
            not finite.

    Example:
        >>> noise = 20 * np.random.default_rng(0).standard_normal((64, 64))
        >>> profile = denoise_ext.analyse_noise((128 + noise).astype(np.uint8))
        >>> profile.kind, round(profile.level)
        ('white', 20)
    """
    opened = open_image(image, axes)
    if len(opened.source) != 1:
        raise ValueError(f"image must be one image, got {len(opened.source)}")
    source = opened.source[0]
    value_range = opened.value_range if value_range is None else value_range
    if value_range is not None:
        value_range = check_range(value_range, source.dtype)
    elif source.is_floating_point() and not opened.from_file:
        warn_of_range(source[0])
    height, width = source.shape[-2:]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"image must have {SMALLEST} x {SMALLEST} pixels at least, got {width} x {height}"
        )
    return profile_of(source[: colour_channels(len(source))], value_range)


def profile_of(image: Tensor, value_range: Range | None = None) -> NoiseProfile:
    """`analyse_noise` of (1 or 3, H, W), of any dtype, without alpha, large enough."""
    gray = _equal_channels(image)
    parts, limits = _parts_of(image[:1] if gray else image, value_range)
    margins = margins_of(parts)
    impulses = isolated_share(parts, margins)
    if impulses >= _IMPULSES:
        parts = [without_impulses(part, margins) for part in parts]
    profile = _without_impulses(parts, limits)
    if impulses >= _IMPULSES:
        profile = replace(profile, kind="impulse" if profile.kind == "none" else "mixed")
    return replace(profile, impulses=impulses, gray_stored_as_rgb=gray)


def margins_for(image: Tensor, value_range: Range | None) -> Tensor:
    """What `impulses.without_impulses` needs for a whole image (C, H, W)."""
    return margins_of(_parts_of(image, value_range)[0])


def _equal_channels(image: Tensor) -> bool:
    """Whether an image (3, H, W) is gray in every pixel. A few tiles decide for most images."""
    if len(image) != 3:
        return False
    whole = (slice(None), slice(None))
    parts = (image[(slice(None), *place)] for place in (_places(image)[0], whole))
    return all(torch.equal(p[0], p[1]) and torch.equal(p[1], p[2]) for p in parts)


def _parts_of(image: Tensor, value_range: Range | None) -> tuple[list[Tensor], list[Tensor]]:
    """Parts (C, tiles, h, w) on the CPU, black 0 and white 1, and 1 where they may be clipped."""
    stored = [image[:, rows, columns].detach().cpu() for rows, columns in _places(image)]
    if len({part.shape for part in stored}) == 1:  # tiles of one size: one after the other is slow
        stored = [torch.stack(stored, dim=1)]
    else:
        stored = [part[:, None] for part in stored]
    parts = [to_unit(part, torch.float32, value_range).contiguous() for part in stored]
    limits = [at_limit(x, part).float() for x, part in zip(parts, stored, strict=True)]
    return parts, limits


def _places(image: Tensor) -> list[tuple[slice, slice]]:
    """What is looked at: tiles spread over the image, or all of it in parts of that size."""
    height, width = image.shape[-2:]
    share, least, most = _SAMPLE
    count = min(max(height * width // share, least), most)
    if height * width > count:
        return sample_places(height, width, count, _TILE)
    rows, columns = (_cut(size) for size in (height, width))
    return [(row, column) for row in rows for column in columns]


def _cut(size: int) -> list[slice]:
    """Parts of even length but for the last."""
    count = max(1, round(size / (2 * _TILE)))
    ends = [size * i // count // 2 * 2 for i in range(count)] + [size]
    return [slice(start, stop) for start, stop in pairwise(ends)]


@dataclass(frozen=True)
class _Blocks:
    """Of n blocks in each of C channels."""

    fine: Tensor
    """Coefficients (C, n, 28) of the frequencies that show noise, the highest last."""
    low: Tensor
    """Energy (C, n) in the low frequencies."""
    noise: Tensor
    """Energy (C, n) in the frequencies of `fine`."""
    mean: Tensor
    use: Tensor
    """Whether a block (C, n) is neither of one value nor clipped."""
    half: Tensor
    """Energies (2, C, m) of the image at half its size: as `low` and `noise`."""
    double: Tensor
    """`noise` (C, m) of the same places at full size."""


def _blocks(parts: list[Tensor], limits: list[Tensor]) -> _Blocks:
    found = [_blocks_of(x, limit) for x, limit in zip(parts, limits, strict=True)]
    fine, low, noise, mean, use, half, double = zip(*found, strict=True)
    return _Blocks(
        torch.cat(fine, dim=1), torch.cat(low, dim=1), torch.cat(noise, dim=1),
        torch.cat(mean, dim=1), torch.cat(use, dim=1), torch.cat(half, dim=2),
        torch.cat(double, dim=1),
    )  # fmt: skip


def _blocks_of(x: Tensor, limit: Tensor) -> tuple[Tensor, ...]:
    """The fields of `_Blocks` for one part (C, tiles, h, w)."""
    fine, low, noise, mean = _transformed(x, _STEP)
    clipped = F.avg_pool2d(limit, _BLOCK, _STEP)
    use = (noise > _NOTHING) & (clipped <= _CLIPPED)
    # Blocks of 2 x 2 means, doubled, where white noise has the same energy. Each lies on 3 x 3 of
    # the blocks above.
    _, half_low, half_noise, _ = _transformed(2 * F.avg_pool2d(x, 2), _STEP // 2)
    rows, columns = half_noise.shape[-2:]
    double = F.avg_pool2d(torch.where(use, noise, torch.nan), 3, 1)[..., :rows, :columns]
    return (
        fine.flatten(1, 3), low.flatten(1), noise.flatten(1), mean.flatten(1), use.flatten(1),
        torch.stack([half_low, half_noise]).flatten(2), double.flatten(1),
    )  # fmt: skip


def _transformed(x: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fine coefficients, low energy, fine energy and mean of blocks (C, tiles, rows, columns)."""
    patches = x.unfold(2, _BLOCK, step).unfold(3, _BLOCK, step)  # (..., rows, columns, 8, 8)
    shape = patches.shape[:4]
    centre = x.mean()  # without it, float32 has digits to spare for the noise
    basis, groups = _basis_and_groups()
    coefficients = (patches.reshape(-1, _BLOCK**2) - centre) @ basis.T
    low, noise = (coefficients.square() @ groups).unbind(dim=1)
    fine = coefficients[:, 1 + _LOWS :]
    mean = coefficients[:, 0] / _BLOCK + centre
    return fine.reshape(*shape, -1), low.view(shape), noise.view(shape), mean.view(shape)


@functools.cache
def _basis_and_groups() -> tuple[Tensor, Tensor]:
    """The DCT's 64 basis images as rows, by frequency i + j, and which are low and which fine.

    Not made by the import, whose arithmetic would start OpenMP threads for the importing thread.
    """
    basis, frequency = dct_basis()
    constant = torch.full((1, _BLOCK**2), 1 / _BLOCK, dtype=basis.dtype)
    place = torch.arange(_BLOCK**2)
    groups = torch.stack([(place > 0) & (place <= _LOWS), place > _LOWS], dim=1).float()
    return torch.cat([constant, basis[frequency.argsort(stable=True)]]), groups


def _without_impulses(parts: list[Tensor], limits: list[Tensor]) -> NoiseProfile:
    blocks = _blocks(parts, limits)
    level = 255 * math.sqrt(_mean_variance(blocks))
    quiet = quiet_variance(blocks.low.sum(0), blocks.noise.sum(0))[1]
    fine = blocks.fine[:, quiet].double()
    middle, high = fine[..., :_MIDDLES].square().mean(), fine[..., _MIDDLES:].square().mean()
    profile = NoiseProfile(
        kind="white",
        level=level,
        variance_slope=0.0,
        variance_offset=(level / 255) ** 2,
        scale_ratio=_scale_ratio(blocks),
        spectral_ratio=float(middle / high.clamp(min=_NOTHING)),
        channel_correlation=_correlation(fine),
        impulses=0.0,
        gray_stored_as_rgb=False,
    )
    if profile.faint:
        return replace(profile, kind="none")
    if profile.correlated:
        return replace(profile, kind="correlated")
    slope, offset, growth = _line(blocks, (level / 255) ** 2)
    if growth < _GROWTH:
        return profile
    brightness = float(blocks.mean[blocks.use].clamp(0, 1).mean())
    level = 255 * math.sqrt(slope * brightness + offset)
    return replace(
        profile, kind="signal-dependent", level=level, variance_slope=slope, variance_offset=offset
    )


def _scale_ratio(blocks: _Blocks) -> float:
    """Root of the energy at half the size over that at full size, in the same quiet places."""
    usable = blocks.double.isfinite()
    low, noise = (energy[usable] for energy in blocks.half)
    if not len(low):
        return 1.0
    quiet = quiet_variance(low, noise)[1]
    full = blocks.double[usable][quiet].sum(dtype=torch.float64).clamp(min=_NOTHING)
    return float((noise[quiet].sum(dtype=torch.float64) / full).sqrt())


def _mean_variance(blocks: _Blocks) -> float:
    """Of the noise, mean over the channels."""
    total = 0.0
    for low, noise, use in zip(blocks.low, blocks.noise, blocks.use, strict=True):
        if int(use.sum()) >= 64:
            low, noise = low[use], noise[use]
        total += quiet_variance(low, noise)[0]
    return total / len(blocks.low)


def _correlation(fine: Tensor) -> float:
    """Of the coefficients (C, n, 28) of two channels, mean over the pairs."""
    if len(fine) != 3:
        return 0.0
    x = fine.flatten(1)
    products = x @ x.T
    root = products.diagonal().clamp(min=_NOTHING).sqrt()
    correlations = products / (root[:, None] * root)
    return float((correlations[0, 1] + correlations[1, 2] + correlations[0, 2]) / 3)


def _line(blocks: _Blocks, variance: float) -> tuple[float, float, float]:
    """Slope and offset of the variance over brightness, and how the level grows along it."""
    low, noise, mean = (x[blocks.use] for x in (blocks.low, blocks.noise, blocks.mean))
    count = min(_PARTS, len(mean) // _PER_PART)
    if count < 3:
        return 0.0, variance, 1.0
    points = []
    for part in mean.argsort().tensor_split(count):
        found, quiet = quiet_variance(low[part], noise[part])
        points.append((float(mean[part][quiet].mean()), found))
    x, y = torch.tensor(points, dtype=torch.float64).T
    slope, offset = _fitted(x, y.clamp(min=1e-9))
    dark, bright = slope * float(x.min()) + offset, slope * float(x.max()) + offset
    return slope, offset, math.sqrt(bright / max(dark, 1e-12))


def _fitted(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and offset >= 0 with the least relative errors; points far above count for less.

    Texture adds to the variance of some parts, and takes from none.
    """
    weight = 1 / y
    slope = offset = 0.0
    for _ in range(8):
        slope, offset = _least_squares(x, y, weight)
        fit = (slope * x + offset).clamp(min=1e-12)
        weight = torch.where(y > 1.2 * fit, (1.2 * fit / y).square(), 1.0) / fit
    return slope, offset


def _least_squares(x: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float]:
    a = torch.stack([x, torch.ones_like(x)], dim=1) * weight[:, None]
    slope, offset = (float(v) for v in torch.linalg.lstsq(a, y * weight).solution)
    square = weight.square()
    if slope < 0:
        return 0.0, float((square * y).sum() / square.sum())
    if offset < 0:
        return float((square * x * y).sum() / (square * x * x).sum().clamp(min=1e-12)), 0.0
    return slope, offset


__all__ = ["NoiseProfile", "analyse_noise", "profile_of"]
