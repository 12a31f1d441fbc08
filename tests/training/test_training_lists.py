"""No test image, nor a crop of one, is among the images that a recipe trains on.

Windows of 96 x 96 pixels, 84 apart in the test images, are compared with every window of the
training images in steps of 8 pixels: a square of 180 x 180 pixels (Train400's crops) that both have
in common holds one. First the thumbnails of 6 x 6 cells, without what a quadratic surface explains
(in photographs most of it, and alike in many), scaled to norm 1: neither recoding nor another
conversion to gray, brightness or contrast hide a copy. Where these are alike, the details decide,
each divided by how strong details are around it: edges alone look alike in many photographs,
textures do not. Whole images are all found, single crops nine times of ten (both tested); a set
could slip through only crop by crop.

Not found: copies that are scaled, turned or mirrored, smaller crops, and crops without structure,
such as sky.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from shared_data import data_folder, image_folder, needs
from torch import Tensor

from denoise_ext.data import list_training_files
from denoise_ext.training import load_config

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))
TEST_SETS = ("BSD68", "Kodak24", "Set12", "Set5", "Set14")  # CBSD68: the images of BSD68, see below
MORE_TEST_SETS = ("McMaster", "Urban100")  # where they are there

CELL, CELLS, STEP = 16, 6, 8  # pixels; cells on a side; pixels between windows of a training image
SIDE, APART = CELL * CELLS, 84  # pixels: of a window; between windows of a test image
EDGE = 8  # pixels at the edge of a test image: scanned slides have black frames there
# Least correlations: of thumbnails; of details, every second cell and all. 96 of 100 windows of
# BSD68 have more in BSDS500's val folder; of other scenes none: there the details' reach 0.65.
LIKE, PERHAPS, SAME = 0.82, 0.5, 0.7
FLAT, PLAIN = 2.0, 0.6  # rms of thumbnails in gray levels, of details: below, without structure
WEAK = 2.0  # gray levels: details below are taken for noise of the coding


def gray(path: Path) -> Tensor:
    """(1, 1, H, W), float32 in 0 to 255."""
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32))[None, None]


@cache
def without_trend() -> Tensor:
    """(36, 36): takes away what a polynomial of degree 2 explains of a thumbnail."""
    line = torch.linspace(-1, 1, CELLS, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    surfaces = torch.stack([x**0, x, y, x * x, x * y, y * y]).flatten(1).T  # (36, 6)
    q, _ = torch.linalg.qr(surfaces)
    return (torch.eye(CELLS**2, dtype=torch.float64) - q @ q.T).float()


def thumbnails(cells: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 36) cells -> norm 1, without trend; their rms before that."""
    flat = cells @ without_trend()
    size = flat.norm(dim=1)
    return flat / size.clamp(min=1e-3)[:, None], size / CELLS


def details(images: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, H/2 - 1, W/2 - 1): means over 4 x 4 pixels, 2 apart, less those around
    them, divided by the rms of these differences around them."""
    means = F.avg_pool2d(images, 4, 2)
    fine = means - around(means)
    return (fine / (around(fine.square()) + WEAK**2).sqrt())[:, 0]


def around(x: Tensor) -> Tensor:
    """The mean over 9 x 9 values, fewer at the edges; first columns, then rows: quicker."""
    x = F.avg_pool2d(x, (9, 1), 1, (4, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, 9), 1, (0, 4), count_include_pad=False)


def places(size: int) -> list[int]:
    """Where windows of a test image begin along one side."""
    last = size - SIDE - EDGE
    return sorted({*range(EDGE, last, APART), last})


class TestWindows:
    """Windows with structure, of all test images."""

    __test__ = False  # no test class of pytest's

    def __init__(self, sets: tuple[str, ...]) -> None:
        names, windows = [], []
        for path in (path for name in sets for path in image_folder(f"test/{name}")):
            image = gray(path)
            for y in places(image.shape[2]):
                for x in places(image.shape[3]):
                    windows.append(image[..., y : y + SIDE, x : x + SIDE])
                    names.append(f"{path.parent.name}/{path.name}")
        every = torch.cat(windows)
        thumbs, rms = thumbnails(F.avg_pool2d(every, CELL).flatten(1))
        fine = details(every)[:, ::2, ::2]  # (windows, 24, 24), each cell once
        strong = (rms >= FLAT) & (fine.square().mean(dim=(1, 2)).sqrt() >= PLAIN)
        self.names = [name for name, keep in zip(names, strong.tolist(), strict=True) if keep]
        self.thumbnails, self.details = thumbs[strong], fine[strong]

    def in_image(self, image: Tensor) -> list[int]:
        """Which windows are in a training image (1, 1, H, W)."""
        cells = F.avg_pool2d(image, CELL, STEP)[0, 0]  # their corners are STEP apart
        every = CELL // STEP
        reach = (CELLS - 1) * every + 1
        if min(cells.shape) < reach:
            return []
        windows = cells.unfold(0, reach, 1).unfold(1, reach, 1)[..., ::every, ::every]
        thumbs, rms = thumbnails(windows.reshape(-1, CELLS**2))
        kept = (rms >= FLAT).nonzero()[:, 0]
        if not len(kept):
            return []
        match = self.thumbnails @ thumbs[kept].T
        alike = (match.amax(dim=1) > LIKE).nonzero()[:, 0]  # twice as quick as max with its place
        place = kept[match[alike].argmax(dim=1)]
        rows, columns = place // windows.shape[1], place % windows.shape[1]
        # Every second cell first: of what is alike by chance it leaves little.
        fine = details(image)[0]
        for every_cell, least in ((2, PERHAPS), (1, SAME)):
            match = self._details_match(fine, alike, rows, columns, every_cell)
            alike, rows, columns = (x[match > least] for x in (alike, rows, columns))
        return alike.tolist()

    def _details_match(
        self, fine: Tensor, which: Tensor, rows: Tensor, columns: Tensor, every: int
    ) -> Tensor:
        """Highest correlation of the details up to half a step (4 pixels) around each place."""
        ours = unit(self.details[which][:, ::every, ::every])
        span, shift = 2 * every * torch.arange(ours.shape[-1]), torch.arange(-2, 3)
        y, x = (
            (STEP // 2 * start[:, None, None] + shift[:, None] + span).clamp(0, size - 1)
            for start, size in ((rows, fine.shape[0]), (columns, fine.shape[1]))
        )  # (places, 5, cells) each
        patches = unit(fine[y[:, :, None, :, None], x[:, None, :, None, :]])
        return (patches * ours[:, None, None]).sum(dim=(3, 4)).amax(dim=(1, 2))


def unit(x: Tensor) -> Tensor:
    """Mean 0 and norm 1 over the last two dimensions."""
    x = x - x.mean(dim=(-2, -1), keepdim=True)
    return x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-3)


@cache
def test_windows() -> TestWindows:
    folder = data_folder()
    more = [name for name in MORE_TEST_SETS if folder and (folder / "test" / name).is_dir()]
    return TestWindows((*TEST_SETS, *more))


test_windows.__test__ = False


def found(files: list[Path]) -> dict[str, set[str]]:
    """Test image -> the training files that hold a part of it."""
    hits: dict[str, set[str]] = {}
    for path in files:
        for window in test_windows().in_image(gray(path)):
            hits.setdefault(test_windows().names[window], set()).add(path.name)
    return hits


def training_files() -> list[Path]:
    """Of every recipe, each once; of noisy and clean pairs the clean one, which shows the same."""
    listed: dict[Path, None] = {}
    for recipe in RECIPES:
        data = load_config(recipe).data
        for source in data.parts:
            pairs = source.pairs or data.pairs
            for group in list_training_files(needs(source.train), pairs, data.part):
                shown = group if source.pairs else group[-1:]  # an image and its guide differ
                listed.update(dict.fromkeys(path.resolve() for path in shown))
    return list(listed)


@pytest.mark.slow
@pytest.mark.rotates(turn=1)
def test_no_recipe_trains_on_a_test_image():
    """But for Set12's starfish, which is cut from BSDS500: everyone who trains on that, or on
    Train400, has seen it."""
    assert found(training_files()) == {"Set12/04.png": {"12003.jpg"}}


@pytest.mark.slow
def test_whole_images_would_be_found():
    """BSDS500's val folder holds all of BSD68, recoded; its other files are other scenes."""
    inside = {Path(line).name for line in needs("train/EXCLUDE_BSD68.txt").read_text().split()}
    files = image_folder("train/BSDS500/val")
    hits = found([path for path in files if path.name in inside])
    assert sum(name.startswith("BSD68/") for name in hits) == len(hits) == 68
    assert all(len(where) == 1 for where in hits.values())
    assert found([path for path in files if path.name not in inside]) == {}


def test_crops_would_be_found(tmp_path):
    """A square of 180 pixels of every image, at a random place, brightened and recoded, in a folder
    to train on: nine of ten, the others having little structure, and none taken for another."""
    random = np.random.default_rng(0)
    expected = {}
    for path in (*image_folder("test/BSD68"), *image_folder("test/Kodak24")):
        with Image.open(path) as image:
            left, top = (int(random.integers(size - 180 + 1)) for size in image.size)
            crop = image.crop((left, top, left + 180, top + 180)).point(lambda v: v * 0.8 + 20)
        name = f"{path.parent.name}_{path.stem}.jpg"
        crop.convert("RGB").save(tmp_path / name, quality=85)
        expected[f"{path.parent.name}/{path.name}"] = {name}
    listed = [group[-1] for group in list_training_files(tmp_path, [], [0.0, 1.0])]
    hits = found(listed)
    assert hits.items() <= expected.items()
    assert len(hits) >= 0.9 * len(expected)


def test_cbsd68_is_bsd68_in_colour():
    """So that it needs no search of its own."""
    pairs = zip(image_folder("test/BSD68"), image_folder("test/CBSD68"), strict=True)
    for ours, other in pairs:
        difference = (gray(ours) - gray(other)).abs().mean()
        assert difference < 2, (ours.name, other.name)
