"""Whether an adapted network is better on what was held out, and by how much."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_ext.metrics.protocol import Sample, inputs_of
from denoise_ext.models import Network
from denoise_ext.models.frames import compute_frames
from denoise_ext.runtime import load_model
from denoise_ext.tasks.impulses import without_impulses
from denoise_ext.tasks.noise_analysis import margins_for
from denoise_ext.tasks.treatment import sigma_map, treatment_for
from denoise_ext.training.adaptation import HeldOutTiles
from denoise_ext.training.own_images import HeldOutTile, OwnImages

# What the true variance may be, over the measured one; docs/adapt.md has known cases.  The level of
# white noise is measured to 15 %, of correlated noise to a factor of 2.  In a small image it is not
# seen that noise grows with brightness, as in magnetic resonance imaging.
_INDEPENDENT, _CORRELATED, _CERTAIN = (0.7, 1.3), (0.25, 4.0), (1.0, 1.0)
_LARGE = 1 << 15  # pixels
_FLOOR = 0.01  # of the noise's variance: less cannot be measured
_LEAST_GAIN = 0.05  # dB: less is not worth a file
_FEWEST_FILES = 5  # held out: from then on files are what counts as independent, not tiles

Method = Callable[[HeldOutTile, Sample], Tensor]


@dataclass(frozen=True)
class Judgement:
    """Of a new network against an old way."""

    gain: float
    """Change of the error on held-out tiles in dB; above 0 the new one is better."""
    error: float
    """Standard error of the gain in dB."""
    least: float
    """The gain at the least favourable noise level that the measurement leaves open, in dB."""
    better: bool
    """Whether the gain is 0.05 dB at least, and above its margin at each of these levels."""


def judge(tiles: HeldOutTiles, old: Method, new: Method) -> Judgement:
    """Compare two methods on the same tiles with the same probes."""
    rows = []
    for number, tile in enumerate(tiles.images.held_out):
        sample = tiles.sample(tile, number)
        with torch.inference_mode():
            found = [tiles.figures({"image": way(tile, sample)}, sample) for way in (old, new)]
        rows.append([f[name] for name in ("noise_left", "slope") for f in found])
    old_error, new_error, old_slope, new_slope = torch.tensor(rows, dtype=torch.float64).T
    files = [tile.index for tile in tiles.images.held_out]
    ranges = torch.tensor([
        _CERTAIN if tile.partner is not None else _range(tiles.images, tile.index)
        for tile in tiles.images.held_out
    ], dtype=torch.float64)  # fmt: skip
    gains, better, error = [], True, 0.0
    for factor in (torch.ones(len(rows), dtype=torch.float64), *ranges.T):
        before = old_error + (factor - 1) * old_slope
        after = new_error + (factor - 1) * new_slope
        mean, deviation, count = _statistics(before - after, files)
        gains.append(_decibels(float(before.mean()), float(after.mean())))
        better &= mean > _margin(count) * deviation
        if len(gains) == 1:
            error = 10 / math.log(10) * deviation / max(float(after.mean()), _FLOOR)
    better &= gains[0] >= _LEAST_GAIN
    return Judgement(gains[0], error, min(gains), better)


def _range(images: OwnImages, index: int) -> tuple[float, float]:
    profile = images.profiles[index]
    certain = profile.kind in ("white", "signal-dependent") and images.pixels[index] >= _LARGE
    return _INDEPENDENT if certain else _CORRELATED


def _statistics(values: Tensor, files: list[int]) -> tuple[float, float, int]:
    """Mean, its standard error and the number of independent values."""
    if len(set(files)) >= _FEWEST_FILES:
        index = torch.tensor(files)
        values = torch.stack([values[index == i].mean() for i in sorted(set(files))])
    return float(values.mean()), float(values.std()) / math.sqrt(len(values)), len(values)


def _margin(count: int) -> float:
    """Standard errors: a little above the 97.5 % quantile of Student's t."""
    return 2.0 + 4.0 / (count - 1)


def _decibels(before: float, after: float) -> float:
    """Of the change; errors below `_FLOOR`, and estimates below 0, count as that."""
    if after > before:
        return -_decibels(after, before)
    return 10 * math.log10(1 + (before - after) / max(after, _FLOOR))


def by_network(network: Network) -> Method:
    """As ``denoise --model`` uses a network: at the level that it estimates for the file."""

    def method(tile: HeldOutTile, sample: Sample) -> Tensor:
        return compute_frames(network, inputs_of(sample))[0]["image"]

    return method


def by_default(images: OwnImages) -> Method:
    """As ``denoise`` without options: by the noise of the file."""
    networks: dict[str, Network] = {}

    def method(tile: HeldOutTile, sample: Sample) -> Tensor:
        treatment = treatment_for(images.profiles[tile.index], images.channels)
        if treatment.model not in networks:
            networks[treatment.model] = load_model(treatment.model, "cpu")
        image = inputs_of(sample)["image"]
        if treatment.impulses:
            image = without_impulses(image, margins_for(tile.image[0], None))
        inputs = {"image": image}
        if treatment.variance is not None:
            place = (slice(None), slice(None))
            inputs["noise_map"] = sigma_map(tile.image, place, treatment.variance, None) / 255
        elif treatment.sigma is not None:
            inputs["noise_map"] = torch.full((1, 1, 1, 1), float(treatment.sigma) / 255)
        return compute_frames(networks[treatment.model], inputs)[0]["image"]

    return method
