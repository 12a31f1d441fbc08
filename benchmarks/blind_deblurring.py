"""Blind deblurring: Set12 with Levin's 8 kernels, the kernel found by `estimate_kernel`.

    python benchmarks/blind_deblurring.py                          # results/blind_deblurring.md
    python benchmarks/blind_deblurring.py --images 0 3 --kernels 2  # a part, to the screen alone

Blur is circular, noise is white of level 2.55 (NumPy, seed 0 anew for every image).  The error
ratio is that of Levin, Weiss, Durand and Freeman, "Understanding and evaluating blind deconvolution
algorithms" (CVPR 2009): the squared error with the kernel that was found, over that with the true
one, by the same method (`deblur`).  A kernel's place is not determined, so the result is shifted
by whole pixels to the smallest error, and 30 pixels at the edge are left out.  `estimate_kernel` is
given the size of the true kernel.  What it finds is not exact, so `deblur` takes a level of 15.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from denoise_ext.io import read_image
from denoise_ext.restore import deblur, estimate_kernel

HERE = Path(__file__).resolve().parent
SIGMA = 2.55
SIGMA_OF_FOUND = 15.0
EDGE = 30
SHIFT = 6  # pixels that a result is moved at most


def measured(clean: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(H, W) blurred and noisy, float32."""
    noise = np.random.RandomState(0).normal(0, SIGMA / 255, clean.shape)
    return (ndimage.convolve(clean, kernel, mode="wrap") + noise).astype(np.float32)


def least_error(restored: np.ndarray, clean: np.ndarray) -> float:
    """Mean squared error at the best shift."""
    middle = slice(EDGE, -EDGE)
    shifts = range(-SHIFT, SHIFT + 1)
    return min(
        float(np.mean((np.roll(restored, (down, right), (0, 1)) - clean)[middle, middle] ** 2))
        for down in shifts
        for right in shifts
    )


def likeness(found: np.ndarray, kernel: np.ndarray) -> float:
    """Largest normalised correlation of two kernels over all shifts."""
    side = 2 * max(*found.shape, *kernel.shape)
    product = np.fft.fft2(found, (side, side)) * np.fft.fft2(kernel, (side, side)).conj()
    norm = np.linalg.norm(found) * np.linalg.norm(kernel)
    return float(np.fft.ifft2(product).real.max() / norm)


def measure(clean: np.ndarray, kernel: np.ndarray) -> dict[str, float]:
    y = measured(clean, kernel)
    found = estimate_kernel(y, kernel.shape[0], "circular")
    errors = [
        least_error(deblur(y, k, sigma, "circular"), clean)
        for k, sigma in ((found, SIGMA_OF_FOUND), (kernel, SIGMA))
    ]
    return {
        "likeness": likeness(found, kernel),
        "psnr": -10 * np.log10(errors[0]),
        "psnr_told": -10 * np.log10(errors[1]),
        "ratio": errors[0] / errors[1],
    }


def row(name: str, found: list[dict[str, float]]) -> str:
    ratios = np.array([one["ratio"] for one in found])
    mean = {key: np.mean([one[key] for one in found]) for key in ("likeness", "psnr", "psnr_told")}
    return (
        f"| {name} | {mean['likeness']:.2f} | {mean['psnr']:.2f} | {mean['psnr_told']:.2f} |"
        f" {np.median(ratios):.2f} | {100 * np.mean(ratios < 2):.0f} % |"
        f" {100 * np.mean(ratios < 3):.0f} % |\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", type=int, default=list(range(12)), metavar="0..11")
    parser.add_argument("--kernels", nargs="+", type=int, default=list(range(8)), metavar="0..7")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    levin, files = data / "kernels/levin09.npz", sorted((data / "test/Set12").glob("*.png"))
    if not levin.is_file() or not files:
        print(f"skipped: needs kernels/levin09.npz and test/Set12 in DENOISE_EXT_DATA ({data})")
        return 0
    stored = np.load(levin)
    kernels = [np.asarray(stored[name], np.float64) for name in stored.files]
    results: dict[str, list[dict[str, float]]] = {}
    for i in args.kernels:
        name = f"{i + 1} ({kernels[i].shape[0]} x {kernels[i].shape[1]})"
        results[name] = [measure(read_image(files[j]) / 255.0, kernels[i]) for j in args.images]
        print(row(name, results[name]), end="", flush=True)
    text = (
        "Set12, Levin's kernels, sigma 2.55, `deblur` with the kernel of `estimate_kernel`; means"
        " of the images.\n\n| kernel | likeness | PSNR, dB | told the kernel | median error ratio |"
        " ratio below 2 | below 3 |\n|---|---|---|---|---|---|---|\n"
        + "".join(row(name, found) for name, found in results.items())
        + row("all", [one for found in results.values() for one in found])
    )
    print(text, end="")
    if (len(args.images), len(args.kernels)) == (12, 8):
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "blind_deblurring.md").write_text(text)
        (args.output / "blind_deblurring.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
