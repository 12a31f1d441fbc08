"""How good `Denoiser(uncertainty=16)` is: expected PSNR, 90 % intervals, posterior samples.

    python benchmarks/uncertainty.py                  # BSD68 and Kodak24: results/uncertainty.md
    python benchmarks/uncertainty.py --networks dxnet_s_gray --levels 50   # added to that file
    python benchmarks/uncertainty.py --every 8        # some images, to the screen alone
    python benchmarks/uncertainty.py --fit            # the factors of models/pretrained

Noise is white, of a known level, not clipped (NumPy, the seed is the image's place in its set).
Factors are fitted for each level on the middle 256 x 256 pixels of images that no network was
trained on and no figure uses: the 8 that training held out (recipes/*.toml), and the 40 photographs
of recipes/photos_half_held_out.txt.  Their seeds begin at 100 and at 200.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from denoise_ext import Denoiser
from denoise_ext.io import read_image
from denoise_ext.io.channels import to_gray
from denoise_ext.models import pretrained_info
from denoise_ext.models.registry import Factors
from denoise_ext.tasks.uncertainty import deviations_of, probe
from denoise_ext.training.validate import split_held_out

HERE = Path(__file__).resolve().parent
NETWORKS = {"dxnet_s_gray": "test/BSD68", "dxnet_s_color": "test/Kodak24"}
LEVELS = (15.0, 25.0, 50.0)
PART = 192  # side of the middle of an image, where samples are drawn
FITTED = 256  # and where factors are fitted
NARROWEST = 10  # of so many pixels, the one of least uncertainty tells what was removed unseen
HELD_OUT = 8
PHOTOGRAPHS = HERE.parent / "recipes/photos_half_held_out.txt"
PROBES = 16


def images(folder: Path, gray: bool, every: int) -> Iterator[tuple[str, np.ndarray]]:
    """Clean images in [0, 1]."""
    for file in sorted(folder.glob("*.png"))[::every]:
        yield file.name, shown(file, gray)


def shown(file: Path, gray: bool) -> np.ndarray:
    pixels = read_image(file)
    return (to_gray(pixels) if gray and pixels.ndim == 3 else pixels) / 255.0


def middle(clean: np.ndarray, side: int = PART) -> np.ndarray:
    top, left = (max(0, n - side) // 2 for n in clean.shape[:2])
    return clean[top : top + side, left : left + side]


def noisy(clean: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.RandomState(seed).normal(0, sigma / 255, clean.shape)
    return (clean + noise).astype(np.float32)


def planes(image: np.ndarray) -> torch.Tensor:
    """(H, W) or (H, W, C) as (1, C, H, W)."""
    image = image[..., None] if image.ndim == 2 else image
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def fit(name: str, data: Path, levels: Sequence[float]) -> dict[float, dict]:
    """The factors of a network at each level, from images that are held out."""
    files = (data / "train/CBSD432.txt").read_text().split()
    _, chosen = split_held_out(len(files), HELD_OUT)
    photographs = [line for line in PHOTOGRAPHS.read_text().splitlines() if line[:1] not in "#"]
    groups = (
        (100, [data / "train" / files[i] for i in chosen]),
        (200, [data / "train/photos_half" / line for line in photographs]),
    )
    clean = [
        (first + i, middle(shown(file, name.endswith("gray")), FITTED))
        for first, group in groups
        for i, file in enumerate(group)
    ]
    return {sigma: factors(name, clean, sigma) for sigma in levels}


def factors(name: str, clean: list[tuple[int, np.ndarray]], sigma: float) -> dict:
    """What `models.registry.Factors` holds, from (seed, image) pairs."""
    denoiser = Denoiser(name)

    def denoise(y: torch.Tensor, level: float) -> torch.Tensor:
        return denoiser(y, level)

    found, squares = [], []
    for seed, x in clean:
        y = planes(noisy(x, sigma, seed))
        found.append(probe(denoise, y, sigma, PROBES))
        error = (denoise(y, sigma).double() - planes(x)) / (sigma / 255)
        squares.append(error.square())
    ratios = torch.stack([
        f.places.errors(e) / f.places.diagonal for f, e in zip(found, squares, strict=True)
    ]).log()  # fmt: skip
    means, spreads = [], []
    for column in ratios.T:
        known = column[column.isfinite()]
        means.append(known.mean().exp().item())
        spreads.append(known.std().item())
    both = ratios[ratios.isfinite().all(dim=1)]
    fitted = Factors(
        tuple(round(v, 4) for v in means), tuple(round(v, 4) for v in spreads),
        round(float(torch.corrcoef(both.T)[0, 1]), 4), 0.0,
    )  # fmt: skip
    deviations = torch.cat([deviations_of(f, fitted).flatten() for f in found])
    errors = torch.cat([e.flatten() for e in squares])
    unseen = errors - deviations.square()
    removed = max(0.0, float(unseen[deviations.argsort()[: len(unseen) // NARROWEST]].mean()))
    fitted = replace(fitted, removed=round(removed, 5))
    variances = deviations.square() + fitted.removed
    ordered = (errors / variances).sqrt().sort().values
    place = min(len(ordered) - 1, math.ceil(0.9 * (len(ordered) + 1)) - 1)
    interval = round(float(ordered[place]), 4)
    return {"images": len(found)} | asdict(replace(fitted, interval_90=interval))


def measure(name: str, folder: Path, sigma: float, every: int, draws: int) -> dict:
    """Figures of a network on a set at a level."""
    rows, relative, widths, reasons, samples = [], [], [], [], []
    denoiser = Denoiser(name, sigma=sigma, uncertainty=PROBES)
    for i, (file, clean) in enumerate(images(folder, name.endswith("gray"), every)):
        # One draw for all images would give all the same error: that of the noise's energy.
        result = denoiser.run(noisy(clean, sigma, seed=i))
        if result.uncertainty is None:
            reasons.append((file, result.uncertainty_reason))
            continue
        rows.append((result.expected_psnr - psnr(result.image, clean), result.expected_psnr_error))
        error = 255 * np.abs(result.image - clean)
        relative.append((error / result.uncertainty).ravel())
        widths.append(result.uncertainty.ravel())
        if i < draws:
            part = middle(clean)
            samples.append(drawn(denoiser.run(noisy(part, sigma)), part))
    gaps, stated = np.array(rows).T
    inside = np.concatenate(relative) <= pretrained_info(name).calibration.at(sigma).interval_90
    order = np.argsort(np.concatenate(widths))
    deciles = [100 * float(part.mean()) for part in np.array_split(inside[order], 10)]
    figures = {
        "images": len(rows), "without": reasons,
        "mean": float(np.abs(gaps).mean()), "bias": float(gaps.mean()),
        "worst": float(np.abs(gaps).max()), "stated": float(np.sqrt((stated**2).mean())),
        "coverage": 100 * float(inside.mean()), "deciles": deciles,
    }  # fmt: skip
    if samples:
        spread, loss = np.mean(samples, axis=0)
        figures |= {"spread": float(spread), "loss": float(loss)}
    return figures


def drawn(result, clean: np.ndarray, count: int = 16) -> tuple[float, float]:
    """Spread of samples over the error of the result, and dB that their mean loses."""
    made = np.stack(result.samples(count))
    spread = np.sqrt(made.var(axis=0, ddof=1).mean())
    error = np.sqrt(np.mean((result.image - clean) ** 2))
    return spread / error, psnr(result.image, clean) - psnr(made.mean(axis=0), clean)


HEADER = (
    "| network, set | sigma | images | expected - true PSNR: mean of amounts | bias | worst |"
    " stated error | intervals of 90 %: coverage | by decile | samples: spread / error |"
    " mean of 16, loss |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def row(name: str, sigma: float, f: dict) -> str:
    deciles = f"{min(f['deciles']):.0f}-{max(f['deciles']):.0f}"
    samples = f"{f['spread']:.2f} | {f['loss']:.2f}" if "spread" in f else " | "
    skipped = f" ({len(f['without'])} without)" if f["without"] else ""
    return (
        f"| {name}, {Path(NETWORKS[name]).name} | {sigma:g} | {f['images']}{skipped} |"
        f" {f['mean']:.2f} | {f['bias']:+.2f} | {f['worst']:.2f} | {f['stated']:.2f} |"
        f" {f['coverage']:.1f} | {deciles} | {samples} |\n"
    )


def write(folder: Path, key: str, found: dict) -> None:
    """Add the figures of a network at a level to what was measured before."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "uncertainty.json"
    figures = json.loads(file.read_text()) if file.is_file() else {}
    figures[key] = found
    keys = [f"{name} {sigma:g}" for name in NETWORKS for sigma in LEVELS]
    figures = {key: figures[key] for key in keys if key in figures}
    rows = (row(key.split()[0], float(key.split()[1]), found) for key, found in figures.items())
    (folder / "uncertainty.md").write_text(f"# Uncertainty\n\n{HEADER}{''.join(rows)}")
    file.write_text(json.dumps(figures, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="print the factors alone")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, choices=LEVELS)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth image alone")
    parser.add_argument("--samples", type=int, default=2, metavar="N", help="images with samples")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    args = parser.parse_args(argv)
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    needed = [NETWORKS[name] for name in args.networks]
    if args.fit:
        needed = ["train/CBSD432.txt", "train/photos_half"]
    if missing := [name for name in needed if not (data / name).exists()]:
        print(f"skipped: needs {', '.join(missing)} in DENOISE_EXT_DATA ({data})")
        return 0
    if args.fit:
        for name in args.networks:
            for sigma, found in fit(name, data, args.levels).items():
                print(name, f"{sigma:g}", found, flush=True)
        return 0
    print(HEADER, end="")
    for name in args.networks:
        for sigma in args.levels:
            found = measure(name, data / NETWORKS[name], sigma, args.every, args.samples)
            print(row(name, sigma, found), end="", flush=True)
            for file, reason in found["without"]:
                print(f"{name} {sigma:g}: {file}: {reason}")
            if args.every == 1:
                write(args.output, f"{name} {sigma:g}", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
