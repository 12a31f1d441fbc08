"""Noisy images of one's own, decoded: what to train on, what is held out, and their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data import ImageCache, default_cache_folder, fingerprint
from denoise_ext.data.cache import white_of
from denoise_ext.tasks.noise_analysis import NoiseProfile, profile_of
from denoise_ext.tasks.noise_level import sigma_of_batch
from denoise_ext.tasks.noise_model import NoiseModel, noise_model

CROP = 64  # pixels
GAP = 16  # pixels between what is trained on and what is held out in one image: noise is correlated
_FILES = 8  # from so many on, whole files are held out
_SHORTEST = 2 * CROP + GAP  # side of an image of which a part can be held out
_TILE, _SMALL_TILE = 128, 64
_TILES, _FEWEST_TILES = 32, 8


@dataclass(frozen=True)
class HeldOutTile:
    """A part of an image that is not trained on."""

    image: Tensor
    """(1, C, h, w) float32, black 0 and white 1."""
    partner: Tensor | None
    """The clean image, or a second take."""
    index: int
    """Which image it is of."""


class OwnImages:
    """Noisy files, or pairs of files of one scene, decoded.

    From eight files on, the middle quarter of them is held out: neighbours are often of one scene.
    Of fewer files, the last quarter of the longer side of each.

    Attributes:
        images: to take crops from, (H, W, C), of pairs (H, W, 2 C).
        index: which file each of them is of.
        held_out: tiles of what is held out, evenly spread.
        profiles, models, levels: of the noise of each file; levels as `estimate_sigma` finds them.
        pixels: of each file.
        files: what identifies the files; see `fingerprint`.

    Raises ValueError where too little is left to hold out.
    """

    def __init__(self, groups: Sequence[tuple[Path, ...]], channels: int) -> None:
        self.channels = channels
        self._cache = ImageCache(groups, channels, folder=default_cache_folder())
        self.files: dict[str, int | str] = fingerprint(self._cache.groups, groups[0][0].parent)
        self.profiles: list[NoiseProfile] = []
        self.models: list[NoiseModel] = []
        self.levels: list[float] = []
        self.pixels: list[int] = []
        for image in self._cache:
            planes = torch.from_numpy(np.array(image[..., :channels])).permute(2, 0, 1)
            self.profiles.append(profile_of(planes))
            self.models.append(noise_model(planes, self.profiles[-1]))
            self.levels.append(float(sigma_of_batch(planes[None])))
            self.pixels.append(image.shape[0] * image.shape[1])
        self._split()

    def _split(self) -> None:
        self.images: list[np.ndarray] = []
        self.index: list[int] = []
        aside: list[tuple[np.ndarray, int]] = []
        count = len(self._cache)
        first = 3 * count // 8
        whole = range(first, first + count // 4) if count >= _FILES else ()
        for i, image in enumerate(self._cache):
            parts = (image[:0], image) if i in whole else (image, image[:0])
            if not whole and max(image.shape[:2]) >= _SHORTEST:
                parts = _divided(image)
            for part, target in zip(parts, (0, 1)):
                if not part.size:
                    continue
                if target:
                    aside.append((part, i))
                else:
                    self.images.append(part)
                    self.index.append(i)
        tiles = _tiles(aside, _TILE)
        if len(tiles) < _FEWEST_TILES:
            tiles = _tiles(aside, _SMALL_TILE)
        if len(tiles) < _FEWEST_TILES:
            raise ValueError(
                f"images: {len(tiles)} parts of {_SMALL_TILE} x {_SMALL_TILE} pixels can be held "
                f"out to judge the result, and {_FEWEST_TILES} are needed: give more or larger "
                "images"
            )
        step = max(1.0, len(tiles) / _TILES)
        chosen = [tiles[int(k * step)] for k in range(min(len(tiles), _TILES))]
        self.held_out: list[HeldOutTile] = [self._tile(*tile) for tile in chosen]

    def _tile(self, image: np.ndarray, index: int) -> HeldOutTile:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        x = pixels.to(torch.float32) / white_of(image)
        noisy, partner = x[:, : self.channels], x[:, self.channels :]
        return HeldOutTile(noisy, partner if partner.numel() else None, index)


def _divided(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What to train on, and the last quarter of the longer side."""
    height, width = image.shape[:2]
    length = max(height, width)
    aside = max(CROP, length // 4)
    if height >= width:
        return image[: length - aside - GAP], image[length - aside :]
    return image[:, : length - aside - GAP], image[:, length - aside :]


def _tiles(parts: list[tuple[np.ndarray, int]], side: int) -> list[tuple[np.ndarray, int]]:
    """Whole tiles; of what is narrower, as wide as it is."""
    found = []
    for image, index in parts:
        height, width = (min(side, size) for size in image.shape[:2])
        for y in range(0, image.shape[0] - height + 1, height):
            for x in range(0, image.shape[1] - width + 1, width):
                found.append((image[y : y + height, x : x + width], index))
    return found
