"""The prior of a codec's latents in whole numbers: what an encoder and a decoder agree on.

docs/format_dxc.md has the arithmetic. `seal` rounds a trained `LatentPrior`. The frequencies of the
symbols are counted on latents of pictures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise_ext.models.latent_prior import LARGEST, LatentPrior, causal_taps

CONTEXTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
"""Taps (row, column) of `LatentPrior`: above left, above, above right, left, the same place."""
NEIGHBOURS = 4
"""Of the contexts: those of another place."""
FRACTION = 10
"""Bits of the sums behind the point."""
LEAST, MOST = 48, 65535
"""Of a scale, with that fraction."""
SCALES, OFFSETS = 42, 5
"""Classes of a scale, four to an octave, and of a mean's distance from a whole number."""
CENTRE, ESCAPE, SYMBOLS = 63, 127, 128
"""Symbols 0 to 126 are -63 to 63; ESCAPE is any other number."""
TOTAL = 4096
"""Sum of a class's frequencies."""
QUALITIES = 100
"""The highest quality; the lowest is 0."""


class CodedPrior(nn.Module):
    """The whole numbers of a prior; they are zeros until a file's are loaded."""

    weights: Tensor
    first: Tensor
    inside: Tensor
    frequencies: Tensor

    def __init__(self, latents: int, rates: int) -> None:
        super().__init__()
        self.latents, self.rates = latents, rates
        whole = torch.int16
        # (context, channel that is known, sums): means, then scales
        self.register_buffer(
            "weights", torch.zeros(len(CONTEXTS), latents, 2 * latents, dtype=whole)
        )
        self.register_buffer("first", torch.zeros(rates, 2 * latents, dtype=torch.int32))
        self.register_buffer("inside", torch.zeros(NEIGHBOURS, 2 * latents, dtype=torch.int32))
        frequencies = torch.zeros(OFFSETS * SCALES, SYMBOLS, dtype=whole)
        frequencies[:, 0] = TOTAL
        self.register_buffer("frequencies", frequencies)

    def first_at(self, quality: int) -> Tensor:
        """(2 M,) int32: the first terms of the sums at a quality from 0 to 100."""
        place, part = divmod(quality * (self.rates - 1), QUALITIES)
        low = self.first[place].long()
        high = self.first[min(place + 1, self.rates - 1)].long()
        return ((low * (QUALITIES - part) + high * part) // QUALITIES).int()

    def sums(self, latents: Tensor, quality: int) -> tuple[Tensor, Tensor]:
        """Means and scales (M, h, w) of latents (M, h, w), int64, with `FRACTION`."""
        known = latents.long().clamp(-LARGEST, LARGEST)
        height, width = known.shape[-2:]
        total = self.first_at(quality).long()[:, None, None].expand(-1, height, width).clone()
        mean, scale = total.split(self.latents)
        padded = F.pad(known, (1, 1, 1, 0))
        present = F.pad(torch.ones_like(known[:1]), (1, 1, 1, 0))
        for k, (row, column) in enumerate(CONTEXTS):
            place = (slice(None), slice(row, row + height), slice(column, column + width))
            if k < NEIGHBOURS:
                total += self.inside[k].long()[:, None, None] * present[place]
            there = padded[place].reshape(self.latents, -1)
            # float64 holds every sum exactly, and its products are fast
            weights = self.weights[k].double()  # (M, 2 M)
            signed, plain = weights.split(self.latents, dim=1)
            mean += (signed.T @ there.double()).long().reshape_as(mean)
            scale += (plain.T @ there.abs().double()).long().reshape_as(scale)
        return mean, scale

    def classes(self, latents: Tensor, quality: int) -> tuple[Tensor, Tensor]:
        """Class and number in it of each latent (M, h, w), int64; numbers may be of any size."""
        mean, scale = self.sums(latents, quality)
        eighths = (mean + (1 << (FRACTION - 4))) >> (FRACTION - 3)
        whole = (eighths + 4) >> 3
        offset = eighths - 8 * whole
        number = latents.long() - whole
        number = torch.where(offset < 0, -number, number)
        scale = scale.clamp(LEAST, MOST)
        octave = torch.frexp(scale.double()).exponent.long() - 1
        index = 4 * octave + ((scale >> (octave - 2)) & 3) - 22
        return offset.abs() * SCALES + index, number


def rounded_prior(prior: LatentPrior) -> CodedPrior:
    """The nearest whole numbers of a trained prior; its frequencies are logistic distributions.

    Raises ValueError for weights of more than 16 bits.
    """
    coded = CodedPrior(prior.latents, prior.levels)
    unit = float(1 << FRACTION)
    with torch.no_grad():
        taps = causal_taps(prior.latents)
        both = torch.cat([prior.mean.cpu() * taps, prior.scale.cpu() * taps])  # (2 M, M, 2, 3)
        inside = prior.inside.cpu().reshape(-1, *taps.shape[2:])  # (2 M, 2, 3)
        for k, (row, column) in enumerate(CONTEXTS):
            weights = (both[:, :, row, column].T * unit).round()
            if weights.abs().max() > torch.iinfo(torch.int16).max:
                raise ValueError(
                    f"prior has a weight of {weights.abs().max() / unit:g}: at most 31"
                )
            coded.weights[k] = weights.short()
            if k < NEIGHBOURS:
                coded.inside[k] = (inside[:, row, column] * unit).round().int()
        coded.first.copy_((prior.first.cpu().reshape(prior.levels, -1) * unit).round().int())
    coded.frequencies.copy_(frequencies_of(torch.zeros(OFFSETS * SCALES, SYMBOLS)))
    return coded


def frequencies_of(counts: Tensor, weight: float = 64.0) -> Tensor:
    """(classes, symbols) int16 with sums of 4096, of counts of each class's symbols.

    The distribution that the class stands for counts as ``weight`` symbols. Symbols less likely
    than half a frequency are left to the escape.
    """
    likely = counts.double() + weight * logistic_table()
    likely = likely / likely.sum(1, keepdim=True) * TOTAL
    found = likely.floor()
    found[likely < 0.5] = 0.0
    found[(likely >= 0.5) & (found < 1)] = 1.0
    found[:, ESCAPE] = found[:, ESCAPE].clamp(min=1.0)
    for row, wanted in zip(found, likely):
        missing = int(TOTAL - row.sum())
        while missing:  # where a step changes the bits least
            step = 1 if missing > 0 else -1
            cost = torch.where(row + step > 0, wanted * ((row + step) / row).log().abs(), math.inf)
            cost = torch.where(row > 0, -cost if step > 0 else cost, math.inf)
            row[int(cost.argmin())] += step
            missing -= step
    return found.short()


def logistic_table() -> Tensor:
    """(classes, symbols) float64: the probabilities that the classes stand for."""
    numbers = torch.arange(-CENTRE, CENTRE + 1, dtype=torch.float64)
    rows = []
    for offset in range(OFFSETS):
        for index in range(SCALES):
            octave, part = divmod(index + 22, 4)
            scale = 2.0**octave * (1 + (part + 0.5) / 4) / (1 << FRACTION)
            upper = torch.sigmoid((numbers + 0.5 - offset / 8) / scale)
            lower = torch.sigmoid((numbers - 0.5 - offset / 8) / scale)
            row = torch.zeros(SYMBOLS, dtype=torch.float64)
            row[: 2 * CENTRE + 1] = upper - lower
            row[ESCAPE] = (1.0 - row.sum()).clamp(min=0.0)
            rows.append(row)
    return torch.stack(rows)
