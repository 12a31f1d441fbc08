"""The images that methods are measured on, and those to choose parameters on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from denoise_ext.data import list_image_files
from denoise_ext.io import list_images, read_image
from denoise_ext.metrics.ssim import WINDOW
from denoise_ext.tasks import Protocol, clean_pixels

HELD_OUT = Path(__file__).resolve().parents[2] / "recipes/photos_half_held_out.txt"


@dataclass(frozen=True)
class Source:
    """Images below the data folder; others than gray or RGB ones are converted, or refused."""

    channels: int
    folder: str
    listed: Path | None = None  # the names of its files that count
    converted: bool = False


# The sets of published tables, then others: BSD has little saturated colour and few buildings.
SOURCES = {
    "Set12": Source(1, "test/Set12"),
    "BSD68": Source(1, "test/BSD68"),
    "Set14 gray": Source(1, "test/Set14", converted=True),
    "photographs gray": Source(1, "train/photos_half", HELD_OUT, converted=True),
    "CBSD68": Source(3, "test/CBSD68"),
    "Kodak24": Source(3, "test/Kodak24"),
    "Set5": Source(3, "test/Set5"),
    "Set14": Source(3, "test/Set14", converted=True),
    "photographs": Source(3, "train/photos_half", HELD_OUT),
}
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
    """Those of `SOURCES` that are in ``data``.

    Raises ValueError where there is none, or an image is not what its set is made of.
    """
    found = {name: one for name, one in SOURCES.items() if (data / one.folder).is_dir()}
    if not found:
        folders = ", ".join(dict.fromkeys(one.folder for one in SOURCES.values()))
        raise ValueError(f"{data} holds none of the folders {folders}")
    return [_read(name, one, _files(data, one)) for name, one in found.items()]


def _files(data: Path, source: Source) -> list[Path]:
    if source.listed is None:
        return list_images(data / source.folder)
    lines = source.listed.read_text("utf-8").splitlines()
    return [data / source.folder / line for line in lines if line and not line.startswith("#")]


def _read(name: str, source: Source, files: list[Path]) -> TestSet:
    protocol = Protocol(gray=source.converted and source.channels == 1)
    images = [clean_pixels(read_image(file), protocol) for file in files]
    if source.converted and source.channels == 3:
        images = [np.repeat(x[..., None], 3, 2) if x.ndim == 2 else x for x in images]
    for file, pixels in zip(files, images, strict=True):
        if (pixels.ndim == 2) != (source.channels == 1):
            what = "gray" if source.channels == 1 else "RGB"
            raise ValueError(f"{file}: the images of {name} are {what}, this one is not")
        if min(pixels.shape[:2]) < WINDOW:
            raise ValueError(f"{file}: SSIM needs {WINDOW} x {WINDOW} pixels, got {pixels.shape}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return TestSet(name, source.channels, images, digest.hexdigest())


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
