"""Classical deblurring of Set3C by scikit-image: Richardson-Lucy and Wiener, beside `deblur`.

    python benchmarks/deblurring_baselines.py     # benchmarks/results/deblurring_baselines.md

Measurements are those of benchmarks/deblurring.py: circular blur by Levin's kernels, white noise.
Both methods get the kernel and the truth: the best number of iterations, and the best balance, for
each image.  scikit-image's convolutions see zeros or mirrored pixels beyond the edge, so the image
is continued there by what wraps around, and cut afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from skimage.restoration import richardson_lucy, wiener

from deblurring import measured, psnr
from denoise_ext.io import read_image

HERE = Path(__file__).resolve().parent
ITERATIONS = (5, 10, 20, 40)
BALANCES = np.logspace(-3, 1, 9)
METHODS = ("Richardson-Lucy", "Wiener")


def best(y: np.ndarray, clean: np.ndarray, kernel: np.ndarray) -> dict[str, float]:
    """PSNR of each method with the best setting."""
    reach = 2 * max(kernel.shape)
    wide = np.pad(y, ((reach, reach), (reach, reach), (0, 0)), mode="wrap").astype(np.float64)

    def cut(planes: Iterable[np.ndarray]) -> np.ndarray:
        return np.stack(list(planes), -1)[reach:-reach, reach:-reach]

    channels = [wide[..., c] for c in range(wide.shape[2])]
    return {
        "Richardson-Lucy": max(
            psnr(cut(richardson_lucy(c.clip(0, 1), kernel, count) for c in channels), clean)
            for count in ITERATIONS
        ),
        "Wiener": max(
            psnr(cut(wiener(c, kernel, balance, clip=False) for c in channels), clean)
            for balance in BALANCES
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sigmas", nargs="+", type=float, default=[2.55, 7.65])
    parser.add_argument("--kernels", nargs="+", type=int, default=list(range(8)), metavar="0..7")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    levin, images = data / "kernels/levin09.npz", sorted((data / "test/Set3C").glob("*.png"))
    if not levin.is_file() or not images:
        print(f"skipped: needs kernels/levin09.npz and test/Set3C in DENOISE_EXT_DATA ({data})")
        return 0
    stored = np.load(levin)
    kernels = [np.asarray(stored[name], np.float64) for name in stored.files]
    clean = [read_image(file) / 255.0 for file in images]
    results: dict[str, dict[str, dict[str, float]]] = {}
    for sigma in args.sigmas:
        for i in args.kernels:
            found = [best(measured(x, kernels[i], sigma), x, kernels[i]) for x in clean]
            means = {name: float(np.mean([one[name] for one in found])) for name in METHODS}
            results.setdefault(str(sigma), {})[str(i + 1)] = means
            print(sigma, i + 1, {k: round(v, 2) for k, v in means.items()}, flush=True)
    lines = ["| sigma | kernels | " + " | ".join(METHODS) + " |", "|---|---|---|---|"]
    for sigma, rows in results.items():
        means = [np.mean([row[name] for row in rows.values()]) for name in METHODS]
        lines.append(f"| {sigma} | {len(rows)} | " + " | ".join(f"{v:.2f}" for v in means) + " |")
    text = (
        "Set3C, Levin's kernels, circular, scikit-image with the best setting for each image; PSNR"
        " in dB.\n\n" + "\n".join(lines) + "\n"
    )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "deblurring_baselines.md").write_text(text)
    (args.output / "deblurring_baselines.json").write_text(json.dumps(results, indent=1) + "\n")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
