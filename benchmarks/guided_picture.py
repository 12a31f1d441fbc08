"""The pictures of docs/guided.md: `python benchmarks/guided_picture.py -o docs`.

depth: disparity of a stereo pair with its holes, noise on it, and both ways to treat the holes
(scene "Motorcycle" of Scharstein et al., "High-resolution stereo datasets with subpixel-accurate
ground truth", GCPR 2014; the authors permit to use and publish the images and disparity maps).
enlarged: disparity of an eighth of its size (scene "Aloe" of Hirschmueller and Scharstein,
"Evaluation of cost functions for stereo matching", CVPR 2007; the same permission).
thermal: an infrared picture with noise (TNO Image Fusion Dataset by A. Toet, TNO, Soesterberg, The
Netherlands, doi 10.6084/m9.figshare.1008029; it may be used in publications with this credit).

The data are below multimodal in $DENOISE_EXT_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from denoise_ext import denoise
from denoise_ext.io import read_image
from denoise_ext.restore import upscale
from guided import SETS, decibels, pairs_of, with_noise
from harness.panels import side_by_side

MOTORCYCLE = "multimodal/rgbd_middlebury/motorcycle"
SIGMA = 25.0
SCALE = 8
ALOE, JEEP = 0, 9  # places in their sets
SHOWN = (370, 424)  # pixels of each picture, at most
ENGINE, HOUSE = (60, 310), (60, 200)  # what is shown of larger ones: top, left
Panel = tuple[str, Image.Image, str]


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Of an image with white 1."""
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def panel(name: str, image: np.ndarray, text: str, corner: tuple[int, int] = (0, 0)) -> Panel:
    """Of gray or RGB, 8 bits; the part that begins at a corner."""
    rows, columns = (slice(first, first + size) for first, size in zip(corner, SHOWN, strict=True))
    return name, Image.fromarray(image[rows, columns]).convert("RGB"), text


def depth(data: Path) -> list[Panel]:
    """A stereo camera's disparity with noise, guided by its photograph; holes kept and filled."""
    photo = read_image(data / MOTORCYCLE / "motorcycle_left.png")
    with np.load(data / MOTORCYCLE / "motorcycle_disp.npz") as stored:
        disparity = stored[stored.files[0]]
    known = np.isfinite(disparity)
    top = float(disparity[known].max())
    clean = eight_bits(np.where(known, disparity / top, 0.0)).clip(1)
    noisy = eight_bits(with_noise(clean, SIGMA)).clip(1)
    noisy[~known] = 0
    kept, full = (denoise(noisy, sigma=SIGMA, guide=photo, holes=how) for how in ("keep", "fill"))

    def figures(made: np.ndarray) -> str:
        error = (made[known].astype(float) - clean[known]) / 255
        return f"PSNR {-10 * np.log10(np.mean(error**2)):.2f} dB where the depth is known"

    return [
        panel("photograph: the guide", photo, "left picture of a stereo pair", ENGINE),
        panel(f"depth, noise of sigma {SIGMA:g}", noisy, figures(noisy), ENGINE),
        panel("--holes keep", kept, figures(kept), ENGINE),
        panel("--holes fill", full, figures(full), ENGINE),
    ]


def enlarged(data: Path) -> list[Panel]:
    """Disparity of an eighth of its size."""
    image, photo = pairs_of(data, SETS["Middlebury"])[ALOE]
    rows, columns = (side // SCALE * SCALE for side in image.shape)
    clean, photo = image[:rows, :columns], photo[:rows, :columns]
    small = Image.fromarray(clean).resize((columns // SCALE, rows // SCALE), Image.BICUBIC)
    bicubic = np.asarray(small.resize((columns, rows), Image.BICUBIC))
    made = upscale(np.asarray(small), guide=photo)

    def figures(pixels: np.ndarray) -> str:
        error = pixels.astype(float) - clean
        return f"RMSE {np.sqrt(np.mean(error**2)):.2f} of 255 levels"

    return [
        panel("photograph: the guide", photo, f"{columns} x {rows} pixels"),
        panel(
            f"depth of {small.width} x {small.height} pixels, bicubic", bicubic, figures(bicubic)
        ),
        panel("upscale --guide", made, figures(made)),
        panel("true depth", clean, f"{columns} x {rows} pixels"),
    ]


def thermal(data: Path) -> list[Panel]:
    """An infrared picture with noise, alone and guided by visible light."""
    clean, visible = pairs_of(data, SETS["TNO"])[JEEP]
    noisy = with_noise(clean, SIGMA)
    alone, made = denoise(noisy, "dxnet_s_gray", SIGMA), denoise(noisy, sigma=SIGMA, guide=visible)
    panels = [panel("visible light: the guide", visible, "", HOUSE)]
    for name, pixels in (
        (f"infrared, noise of sigma {SIGMA:g}", noisy),
        ("dxnet_s_gray, without the guide", alone),
        ("with the guide", made),
    ):
        text = f"PSNR {decibels(pixels, clean):.2f} dB"
        panels.append(panel(name, eight_bits(pixels), text, HOUSE))
    return panels


PICTURES = {"guided_depth": depth, "guided_upscale": enlarged, "guided_thermal": thermal}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES))
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", "../shared/data"))
    for name in args.only:
        picture = side_by_side(PICTURES[name](data))
        picture.save(args.output / f"{name}.jpg", quality=85, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
