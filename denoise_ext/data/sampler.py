"""Random crops of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from denoise_ext.data.cache import as_16_bit, white_of
from denoise_ext.data.random import CROPS, step_generator


class PatchSampler:
    """Random square crops; batch ``step`` is a function of (seed, step) alone.

    An image is drawn, then a position, then one of the eight flips and 90-degree rotations.

    Args:
        images: (H, W, C) arrays, uint8 or uint16, each at least ``crop`` x ``crop``.
        crop: side of the crops in pixels.
        batch_size: crops per batch.
        seed: of the whole run.
        augment: flips and rotations.
        probabilities: of the images, >= 0 with a sum above 0; None: all alike.
        permute_channels: a random order of the channels, too.
        share: (rank, count): of ``count`` processes that share a batch of ``count * batch_size``
            crops, which one this is.

    Raises:
        ValueError: no images, or one smaller than ``crop``.

    Example:
        >>> images = [np.zeros((48, 64, 3), np.uint8)]
        >>> sampler = denoise_ext.data.PatchSampler(images, crop=16, batch_size=4, seed=0)
        >>> sampler.batch(step=7).shape
        torch.Size([4, 3, 16, 16])
    """

    images: Sequence[np.ndarray]
    crop: int
    batch_size: int
    seed: int
    augment: bool
    share: tuple[int, int]

    def __init__(
        self,
        images: Sequence[np.ndarray],
        crop: int,
        batch_size: int,
        seed: int,
        augment: bool = True,
        share: tuple[int, int] = (0, 1),
        probabilities: np.ndarray | None = None,
        permute_channels: bool = False,
    ) -> None:
        if not len(images):
            raise ValueError("no images to train on")
        small = [i for i, image in enumerate(images) if min(image.shape[:2]) < crop]
        if small:
            shape = images[small[0]].shape[:2]
            raise ValueError(f"{len(small)} images are smaller than the crop {crop}: e.g. {shape}")
        self.images, self.crop, self.batch_size = images, crop, batch_size
        deep = any(image.dtype == np.uint16 for image in images)
        self.dtype: np.dtype = np.dtype(
            np.uint16 if deep else np.uint8
        )  # of a batch before it is scaled
        self.seed, self.augment, self.share = seed, augment, share
        self.permute_channels = permute_channels
        self.bounds: np.ndarray | None = None
        if probabilities is not None:
            self.bounds = np.cumsum(probabilities)[:-1] / np.sum(probabilities)

    def batch(self, step: int) -> Tensor:
        """(batch_size, C, crop, crop) float32 in [0, 1], channels_last."""
        crop, channels = self.crop, self.images[0].shape[2]
        patches = np.empty((self.batch_size, crop, crop, channels), self.dtype)
        for patch, index, (v, u), turn, order in zip(patches, *self.draws(step), strict=True):
            image = self.images[index]
            y = int(v * (image.shape[0] - crop + 1))
            x = int(u * (image.shape[1] - crop + 1))
            cut = image[y : y + crop, x : x + crop]
            if self.dtype == np.uint16:
                cut = as_16_bit(cut)
            patch[...] = (dihedral(cut, int(turn)) if self.augment else cut)[..., order]
        # NHWC memory seen as NCHW is channels_last
        return torch.from_numpy(patches).permute(0, 3, 1, 2).to(torch.float32) / white_of(patches)

    def draws(self, step: int) -> tuple[np.ndarray, ...]:
        """Of each crop of ``batch(step)``: image, place (2,), turn (`dihedral`) and channels."""
        rng = step_generator(self.seed, step, CROPS)
        rank, count = self.share
        whole = count * self.batch_size  # every process draws for all of them, and takes its own
        if self.bounds is None:
            chosen = rng.integers(0, len(self.images), whole)
        else:
            chosen = np.searchsorted(self.bounds, rng.random(whole), side="right")
        places = rng.random((whole, 2))
        turns = rng.integers(0, 8, whole)
        orders = np.tile(np.arange(self.images[0].shape[2]), (whole, 1))
        if self.permute_channels:
            orders = rng.permuted(orders, axis=1)
        mine = slice(rank * self.batch_size, (rank + 1) * self.batch_size)
        return chosen[mine], places[mine], turns[mine], orders[mine]


def dihedral(image: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight symmetries of the square: ``turn & 3`` quarter turns, ``turn & 4`` flip."""
    turned = np.rot90(image, turn & 3)
    return turned[:, ::-1] if turn & 4 else turned
