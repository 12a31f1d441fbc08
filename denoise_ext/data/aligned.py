"""Aligned pairs to train on: an image, and another picture of the same scene that guides it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from denoise_ext.data.cache import as_16_bit
from denoise_ext.data.sampler import dihedral
from denoise_ext.io import read_image
from denoise_ext.io.channels import to_gray, without_alpha

Pair = tuple[np.ndarray, np.ndarray]
"""Image (H, W) float32 in [0, 1], and its guide (H, W, 3) float32 in [0, 1]."""
Stored = tuple[np.ndarray, np.ndarray]
"""A pair in memory: image (H, W) uint16, and its guide (H, W, 3) uint8."""


class PairSource(Protocol):
    """Gives windows of aligned pairs."""

    def draw(self, rng: np.random.Generator, side: int) -> Pair:
        """A square window of a pair, a function of the generator's state."""
        ...


class AlignedPairs:
    """Aligned pairs of files, decoded into memory.

    An image with 16 bits, such as a depth map in millimetres, is stretched: its least and its
    largest value become 0 and 1.  One with 8 bits keeps its range.

    Args:
        files: (image, guide) of the same size each.  A colour image becomes gray, a gray guide
            colour.

    Raises:
        ValueError: a file that cannot be read, or files of a pair that differ in size.
    """

    def __init__(self, files: Sequence[tuple[Path, ...]]) -> None:
        self.pairs: list[Stored] = [_decoded(*pair) for pair in files]

    def draw(self, rng: np.random.Generator, side: int) -> Pair:
        """See `PairSource`.  Each pair is drawn as often, one of eight ways round."""
        image, guide = self.pairs[int(rng.integers(len(self.pairs)))]
        v, u = rng.random(2)
        y = int(v * (image.shape[0] - side + 1))
        x = int(u * (image.shape[1] - side + 1))
        turn = int(rng.integers(8))
        place = np.s_[y : y + side, x : x + side]
        return as_floats((dihedral(image[place], turn), dihedral(guide[place], turn)))

    def check_sides(self, side: int) -> None:
        """ValueError where an image is smaller than a window."""
        for image, _ in self.pairs:
            if min(image.shape) < side:
                raise ValueError(
                    f"data.crop: an image of {image.shape[1]} x {image.shape[0]} pixels is smaller"
                    f" than the window of {side} pixels around a crop"
                )


def as_floats(pair: Stored) -> Pair:
    """The pair as floats in [0, 1]."""
    image, guide = pair
    return image.astype(np.float32) / 65535, guide.astype(np.float32) / 255


def _decoded(image_file: Path, guide_file: Path) -> Stored:
    image, guide = (without_alpha(read_image(file)) for file in (image_file, guide_file))
    image = image if image.ndim == 2 else to_gray(image)
    guide = guide if guide.ndim == 3 else np.repeat(guide[..., None], 3, axis=2)
    if image.shape != guide.shape[:2]:
        raise ValueError(
            f"{guide_file} is {guide.shape[1]} x {guide.shape[0]}, but {image_file}"
            f" {image.shape[1]} x {image.shape[0]} pixels"
        )
    if image.dtype == np.uint16:
        low, high = int(image.min()), int(image.max())
        spread = (image - np.uint16(low)) * (65535.0 / max(high - low, 1))
        image = spread.round().astype(np.uint16)
    if guide.dtype == np.uint16:
        guide = (guide >> 8).astype(np.uint8)
    return as_16_bit(image), guide
