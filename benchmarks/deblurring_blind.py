"""Blind deblurring: Set12 with Levin's 8 kernels, against the true kernel.

    python benchmarks/deblurring_blind.py               # benchmarks/results/deblurring_blind.md
    python benchmarks/deblurring_blind.py --images 1 2  # a part, added to the same file

The middle 256 x 256 pixels of each image are blurred, and cut to what the edge does not reach.
Noise is white (NumPy, seed 0 anew for every image, not clipped).  `estimate_kernel` gets the size
alone, `deblur` the level of noise.  The error ratio is the squared error with the estimated kernel,
divided by that with the true one.  A shifted kernel and a shifted image give the same blur: each
result is shifted to where it fits best, by quarters of a pixel.  Compared is what is at least a
side of the largest kernel away from the edge.  Pairs that an earlier run has measured are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from scipy import ndimage
from torch import Tensor

from denoise_ext.io import read_image, write_image
from denoise_ext.restore import deblur, estimate_kernel

HERE = Path(__file__).resolve().parent
SIDE, INSIDE, REACH = 256, 31, 6  # pixels; the last one: shifts that are tried
SETTINGS = ("model", "sigma", "size")
QUARTERS = np.arange(-2, 3) / 4


def middle(image: np.ndarray) -> np.ndarray:
    top, left = ((n - SIDE) // 2 for n in image.shape)
    return image[top : top + SIDE, left : left + SIDE] / 255.0


def measured(clean: np.ndarray, kernel: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """What the edge does not reach: blurred and noisy, float32, and clean."""
    cut = tuple(slice(n // 2, -(n // 2)) for n in kernel.shape)
    blurred = ndimage.convolve(clean, kernel)[cut]
    noise = np.random.RandomState(0).normal(0, sigma / 255, blurred.shape)
    return (blurred + noise).astype(np.float32), clean[cut]


def squared_error(a: np.ndarray, clean: np.ndarray) -> float:
    """The least one of all shifts."""
    inside = (slice(INSIDE, -INSIDE),) * 2
    smooth = ndimage.spline_filter(a)

    def error(moved: np.ndarray) -> float:
        return float(np.mean((moved[inside].clip(0, 1) - clean[inside]) ** 2))

    whole = product(range(-REACH, REACH + 1), repeat=2)
    best = min(whole, key=lambda shift: error(np.roll(a, shift, (0, 1))))
    near = [np.add(best, part) for part in product(QUARTERS, repeat=2) if any(part)]
    between = (error(ndimage.shift(smooth, shift, prefilter=False)) for shift in near)
    return min(error(np.roll(a, best, (0, 1))), *between)


def db(error: float) -> float:
    return float(-10 * np.log10(error))


def measure(clean: np.ndarray, kernel: np.ndarray, args: argparse.Namespace) -> tuple[dict, Tensor]:
    """Figures of one pair, and the kernel that was found."""
    y, x = measured(clean, kernel, args.sigma)
    start = time.process_time()
    found = estimate_kernel(y, args.size)
    seconds = time.process_time() - start
    errors = {
        name: squared_error(deblur(y, k, args.sigma, model=args.model), x)
        for name, k in (("true", kernel), ("blind", found))
    }
    row = {
        "blurred": db(squared_error(y, x)), "true": db(errors["true"]),
        "blind": db(errors["blind"]), "ratio": errors["blind"] / errors["true"],
        "cpu_seconds": round(seconds, 2),
    }  # fmt: skip
    return row, found


def table(rows: dict[str, dict]) -> str:
    """Figures of each kernel, and of all."""
    head = (
        "| kernel | pairs | error ratio: quartile | median | quartile | below 2 | below 3"
        " | below 5 | blurred | blind | true kernel |"
    )
    lines = [head, "|---" * 11 + "|"]
    for name in [*sorted({key.split()[1] for key in rows}), "all"]:
        some = [row for key, row in rows.items() if name in ("all", key.split()[1])]
        ratios = np.array([row["ratio"] for row in some])
        quartiles = " | ".join(f"{q:.2f}" for q in np.percentile(ratios, [25, 50, 75]))
        shares = " | ".join(f"{100 * np.mean(ratios < most):.0f} %" for most in (2, 3, 5))
        means = " | ".join(
            f"{np.mean([row[column] for row in some]):.2f}"
            for column in ("blurred", "blind", "true")
        )
        lines.append(f"| {name} | {len(some)} | {quartiles} | {shares} | {means} |")
    return "\n".join(lines) + "\n"


def known(args: argparse.Namespace) -> dict[str, dict]:
    """Pairs that were measured with the same settings."""
    file = args.output / "deblurring_blind.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    same = all(before.get(name) == getattr(args, name) for name in SETTINGS)
    return before["pairs"] if same else {}


def write(args: argparse.Namespace, rows: dict[str, dict]) -> None:
    rows = dict(sorted(rows.items()))
    text = (
        f"# Blind deblurring\n\nSet12, Levin's kernels, noise {args.sigma}, kernels of {args.size}"
        f" x {args.size} pixels estimated, `{args.model}`; {len(rows)} of 96 pairs. PSNR in dB is"
        f" the mean.\n\n{table(rows)}"
    )
    (args.output / "deblurring_blind.md").write_text(text)
    facts = {name: getattr(args, name) for name in SETTINGS} | {"pairs": rows}
    (args.output / "deblurring_blind.json").write_text(json.dumps(facts, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dxnet_s_gray")
    parser.add_argument("--sigma", type=float, default=2.55)
    parser.add_argument("--size", type=int, default=31)
    parser.add_argument("--images", nargs="+", type=int, default=range(1, 13), metavar="1..12")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write the kernels")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    levin, images = data / "kernels/levin09.npz", sorted((data / "test/Set12").glob("*.png"))
    if not levin.is_file() or len(images) != 12:
        print(f"skipped: needs kernels/levin09.npz and test/Set12 in DENOISE_EXT_DATA ({data})")
        return 0
    stored = np.load(levin)
    kernels = [np.asarray(stored[name], np.float64) for name in stored.files]
    args.output.mkdir(parents=True, exist_ok=True)
    for (k, kernel), i in product(enumerate(kernels), args.images):
        name = f"{i:02d} {k + 1}"
        if name in known(args):
            continue
        row, found = measure(middle(read_image(images[i - 1])), kernel, args)
        print(name, row, flush=True)
        write(args, known(args) | {name: row})
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            shown = np.kron((found / found.max()).numpy(), np.ones((8, 8))) * 255
            picture = args.pictures / f"image_{i:02d}_kernel_{k + 1}.png"
            write_image(picture, shown.round().astype(np.uint8), overwrite=True)
    print((args.output / "deblurring_blind.md").read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
