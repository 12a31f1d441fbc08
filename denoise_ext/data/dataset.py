"""Images for training: decoded once into memory, cropped and flipped at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoise_ext.data.random import CROPS, step_generator
from denoise_ext.io import list_images, read_image


def list_image_files(source: str | Path) -> list[Path]:
    """The image files of a folder, or of a list file.

    A list file is a text file with one path per line, relative to the list file's folder; empty
    lines and lines that begin with ``#`` are skipped.

    Raises:
        ValueError: ``source`` does not exist or names no image.
    """
    source = Path(source)
    if source.is_dir():
        return list_images(source)
    if not source.is_file():
        raise ValueError(f"{source}: no such folder or list file")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{source}: not a list file (one image path per line) nor a folder"
        ) from None
    lines = [line.strip() for line in text.splitlines()]
    files = [source.parent / line for line in lines if line and not line.startswith("#")]
    if not files:
        raise ValueError(f"{source}: names no image")
    return files


def _decode(path: Path, channels: int) -> np.ndarray:
    """One image as uint8 (H, W, channels). Colour -> gray is Pillow's "L" conversion."""
    array = read_image(path)
    if array.dtype == np.uint16:
        array = np.round(array / 257.0).astype(np.uint8)  # 65535 / 255 = 257
    if array.ndim == 3 and array.shape[2] in (2, 4):  # drop alpha
        array = array[..., :-1]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if channels == 1 and array.ndim == 3:
        # ITU-R 601 luma, L = (299 R + 587 G + 114 B) / 1000, as Pillow rounds it.
        array = np.asarray(Image.fromarray(array).convert("L"))
    if channels == 3 and array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return array[..., None] if array.ndim == 2 else array


class ImageCache(Sequence[np.ndarray]):
    """All images decoded, in one block of memory; ``cache[i]`` is a view (H, W, C), uint8.

    Args:
        files: image files.
        channels: 1 (colour images are converted to gray as Pillow's mode "L" does: ITU-R 601
            luma) or 3 (gray images are repeated).
    """

    def __init__(self, files: Sequence[str | Path], channels: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        images = [_decode(Path(file), channels) for file in files]
        self.channels = channels
        self.files = [Path(file) for file in files]
        self._shapes = [image.shape for image in images]
        self._offsets = np.concatenate([[0], np.cumsum([image.size for image in images])])
        self._pixels = (
            np.concatenate([image.reshape(-1) for image in images])
            if images
            else np.empty(0, np.uint8)
        )

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"image index {index} out of range for {len(self)} images")
        start, stop = self._offsets[index], self._offsets[index + 1]
        return self._pixels[start:stop].reshape(self._shapes[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


class PatchSampler:
    """Random square crops; batch ``step`` is a function of (seed, step) alone.

    An image is drawn uniformly, then a position, then one of the eight flips and 90-degree
    rotations.

    Args:
        images: (H, W, C) uint8 arrays, each at least ``crop`` x ``crop``.
        crop: side of the crops in pixels.
        batch_size: crops per batch.
        seed: of the whole run.
        augment: flips and rotations.

    Raises:
        ValueError: no images, or one smaller than ``crop``.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        crop: int,
        batch_size: int,
        seed: int,
        augment: bool = True,
    ) -> None:
        if not len(images):
            raise ValueError("no images to train on")
        small = [i for i, image in enumerate(images) if min(image.shape[:2]) < crop]
        if small:
            shape = images[small[0]].shape[:2]
            raise ValueError(f"{len(small)} images are smaller than the crop {crop}: e.g. {shape}")
        self.images, self.crop, self.batch_size = images, crop, batch_size
        self.seed, self.augment = seed, augment

    def batch(self, step: int) -> Tensor:
        """(batch_size, C, crop, crop) float32 in [0, 1], channels_last."""
        rng = step_generator(self.seed, step, CROPS)
        crop, channels = self.crop, self.images[0].shape[2]
        patches = np.empty((self.batch_size, crop, crop, channels), np.uint8)
        chosen = rng.integers(0, len(self.images), self.batch_size)
        places = rng.random((self.batch_size, 2))
        turns = rng.integers(0, 8, self.batch_size)
        for patch, index, (v, u), turn in zip(patches, chosen, places, turns, strict=True):
            image = self.images[index]
            y = int(v * (image.shape[0] - crop + 1))
            x = int(u * (image.shape[1] - crop + 1))
            cut = image[y : y + crop, x : x + crop]
            patch[...] = dihedral(cut, int(turn)) if self.augment else cut
        # NHWC memory seen as NCHW is channels_last
        return torch.from_numpy(patches).permute(0, 3, 1, 2).to(torch.float32) / 255.0


def dihedral(image: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight symmetries of the square: ``turn & 3`` quarter turns, ``turn & 4`` flip."""
    turned = np.rot90(image, turn & 3)
    return turned[:, ::-1] if turn & 4 else turned
