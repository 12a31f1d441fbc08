"""The public test sets that published tables use, and the images to choose parameters on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from denoise_ext.data import list_image_files
from denoise_ext.io import list_images, read_image
from denoise_ext.metrics.ssim import WINDOW
from denoise_ext.tasks import Protocol, clean_pixels

# Folders of DATA/test, and how many channels their images have.
CHANNELS = {"Set12": 1, "BSD68": 1, "CBSD68": 3, "Kodak24": 3}
TRAINING_LIST = "train/CBSD432.txt"
TRAINING_IMAGES, TRAINING_SIDE = 6, 160  # images, pixels


@dataclass(frozen=True)
class TestSet:
    """Clean images (H, W) or (H, W, 3), and a hash of their files."""

    __test__ = False  # no test class of pytest's

    name: str
    channels: int
    images: list[np.ndarray]
    sha256: str


def find_test_sets(data: Path) -> list[TestSet]:
    """Those of `CHANNELS` that are in ``data/test``.

    Raises ValueError where there is none, or an image is not what its set's name says.
    """
    found = [name for name in CHANNELS if (data / "test" / name).is_dir()]
    if not found:
        raise ValueError(f"{data / 'test'} holds none of the folders {', '.join(CHANNELS)}")
    return [_read(data / "test" / name, CHANNELS[name]) for name in found]


def _read(folder: Path, channels: int) -> TestSet:
    files = list_images(folder)
    images = [clean_pixels(read_image(file), Protocol()) for file in files]
    for file, pixels in zip(files, images, strict=True):
        if (pixels.ndim == 2) != (channels == 1):
            what = "gray" if channels == 1 else "RGB"
            raise ValueError(f"{file}: the images of {folder.name} are {what}, this one is not")
        if min(pixels.shape[:2]) < WINDOW:
            raise ValueError(f"{file}: SSIM needs {WINDOW} x {WINDOW} pixels, got {pixels.shape}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return TestSet(folder.name, channels, images, digest.hexdigest())


def training_crops(data: Path, channels: int) -> list[np.ndarray]:
    """The middles of a few training images, spread evenly over their list; none of a test set.

    Raises ValueError where the list is not there.
    """
    files = list_image_files(data / TRAINING_LIST)
    protocol = replace(Protocol(), gray=channels == 1)
    crops = []
    for file in files[:: max(len(files) // TRAINING_IMAGES, 1)][:TRAINING_IMAGES]:
        pixels = clean_pixels(read_image(file), protocol)
        top, left = (max(size - TRAINING_SIDE, 0) // 2 for size in pixels.shape[:2])
        crop = pixels[top : top + TRAINING_SIDE, left : left + TRAINING_SIDE]
        crops.append(np.ascontiguousarray(crop))
    return crops
