"""Quality of deblurring: Set3C with Levin's kernels, against the best Wiener filter.

    python benchmarks/deblurring.py                              # benchmarks/results/deblurring.md
    python benchmarks/deblurring.py --kernels 2 4 --sigmas 2.55  # a part, added to the same file
    python benchmarks/deblurring.py --kernels                    # kernels from pairs alone

Blur is circular convolution, noise is white (NumPy, seed 0 anew for every image, not clipped), as
in Zhang et al., "Plug-and-play image restoration with deep denoiser prior" (2021).  Wiener's filter
gets the kernel and, for each image, the best of 12 regularisers, chosen with the clean image.  Free
borders get the same measurements, cut to those that the edge does not reach, and are compared where
a pixel is at least one side of the kernel away from the edge.  Kernels from pairs: the noise of the
other figures, then the mean of 60 draws.  Least squares see noise by its projection on the source's
patches alone, whose covariance is their Gram matrix, so draws need no images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from denoise_ext.cli._demo_picture import Result, compose
from denoise_ext.cli.demo import read_photograph
from denoise_ext.io import read_image, write_image
from denoise_ext.metrics import psnr as torch_psnr
from denoise_ext.metrics import ssim
from denoise_ext.restore import (
    Blur,
    Restorer,
    deblur,
    fit_inverse_kernel,
    fit_kernel,
    motion_kernel,
)
from denoise_ext.restore.fit import nonnegative, normal_equations, pixels_of

HERE = Path(__file__).resolve().parent
WEIGHTS = np.logspace(-4, -0.5, 12)
DRAWS = 60
Fit = tuple[str, float, float, float]
"""A pair; relative errors: of the fit, means over draws of the noise, these told the zeros."""
COLUMNS = {
    "blurred": "blurred",
    "wiener": "best Wiener",
    "inverse": "`fit_inverse_kernel`",
    "circular": "`deblur`",
    "circular_inside": "inside",
    "free_inside": "free borders, inside",
    "worst": "worst gain over Wiener",
}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.clip(0, 1) - b) ** 2)))


def measured(clean: np.ndarray, kernel: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W, 3) blurred and noisy, float32."""
    blurred = ndimage.convolve(clean, kernel[..., None], mode="wrap")
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    return (blurred + noise).astype(np.float32)


def best_wiener(y: np.ndarray, clean: np.ndarray, kernel: np.ndarray) -> float:
    """PSNR with the best weight of the noise."""
    placed = np.zeros(y.shape[:2])
    placed[: kernel.shape[0], : kernel.shape[1]] = kernel
    placed = np.roll(placed, [-(n // 2) for n in kernel.shape], (0, 1))
    otf = np.fft.fft2(placed)[..., None]
    spectrum = np.fft.fft2(y.astype(np.float64), axes=(0, 1))
    inverses = (otf.conj() / (np.abs(otf) ** 2 + weight) for weight in WEIGHTS)
    return max(
        psnr(np.fft.ifft2(spectrum * inverse, axes=(0, 1)).real, clean) for inverse in inverses
    )


def learned_inverse(y: np.ndarray, others: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Filtered with the inverse kernel that other images give."""
    layer = fit_inverse_kernel(others, 15)
    with torch.no_grad():
        batch = torch.from_numpy(y).permute(2, 0, 1)[None]
        return layer(batch)[0].permute(1, 2, 0).numpy()


def measure(
    clean: list[np.ndarray], kernel: np.ndarray, sigma: float, model: str, steps: int
) -> list[dict[str, float]]:
    """Figures of each image."""
    circular = Restorer(Blur(kernel, "circular"), model, sigma=sigma, steps=steps)
    free = Restorer(Blur(kernel), model, sigma=sigma, steps=steps)
    rows = []
    noisy = [measured(x, kernel, sigma) for x in clean]
    cut = tuple(slice(n // 2, -(n // 2)) for n in kernel.shape)
    away = tuple(slice(max(kernel.shape), -max(kernel.shape)) for _ in kernel.shape)
    for i, (x, y) in enumerate(zip(clean, noisy, strict=True)):
        wiener, whole = best_wiener(y, x, kernel), circular(y)
        others = [(b, a) for j, (a, b) in enumerate(zip(clean, noisy)) if j != i]
        inside = free(np.ascontiguousarray(y[cut]))[away]
        rows.append({
            "blurred": psnr(y, x), "wiener": wiener, "circular": psnr(whole, x),
            "inverse": psnr(learned_inverse(y, others), x),
            "circular_inside": psnr(whole[cut][away], x[cut][away]),
            "free_inside": psnr(inside, x[cut][away]),
            "worst": psnr(whole, x) - wiener,
        })  # fmt: skip
    return rows


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means, and the smallest gain."""
    figures = {name: float(np.mean([row[name] for row in rows])) for name in COLUMNS}
    return figures | {"worst": min(row["worst"] for row in rows)}


def found_kernels(data: Path, kernel: np.ndarray, sigma: float = 2.55) -> list[Fit]:
    """`fit_kernel` from one pair: a calibration target, and photographs."""
    cells = np.random.RandomState(0).randint(0, 2, (128, 128)) * 0.8 + 0.1
    pictures = {
        "random target, cells of 2 x 2, 256 x 256": np.kron(cells, np.ones((2, 2)))[..., None]
    }
    kodak = sorted((data / "test/Kodak24").glob("*.png"))[:24:6]
    pictures |= {f"Kodak24 {file.stem}": read_image(file) / 255.0 for file in kodak}
    rows = []
    for name, x in pictures.items():
        y = measured(x, kernel, sigma)
        found = torch.from_numpy(fit_kernel(x, y, kernel.shape[0]))
        draws, told = drawn_fits(x, y, torch.from_numpy(kernel), sigma / 255)
        rows.append((name, relative_error(found, torch.from_numpy(kernel)), draws, told))
    return rows


def drawn_fits(
    x: np.ndarray, y: np.ndarray, kernel: torch.Tensor, level: float
) -> tuple[float, float]:
    """Mean errors of `fit_kernel` and of the same told which numbers are 0."""
    pair = pixels_of("x", x), pixels_of("y", y.astype(np.float64))
    gram, _ = normal_equations([pair], kernel.shape[0])
    root, k = torch.linalg.cholesky(gram), kernel.flatten()
    somewhere = k > 0
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(DRAWS):
        noise = torch.randn(len(k), generator=generator, dtype=torch.float64)
        right = gram @ k + level * (root @ noise)
        told = torch.zeros_like(k)
        told[somewhere] = nonnegative(gram[somewhere][:, somewhere], right[somewhere])
        errors.append([relative_error(nonnegative(gram, right), k), relative_error(told, k)])
    plain, told = np.mean(errors, axis=0)
    return float(plain), float(told)


def relative_error(found: torch.Tensor, kernel: torch.Tensor) -> float:
    return float((found / found.sum() - kernel).norm() / kernel.norm())


def draw(file: Path) -> None:
    """The bundled photograph, blurred by a motion, and restored; the edge is not circular."""
    photograph = read_photograph()
    whole = photograph / 255.0
    kernel = motion_kernel(15, 30).numpy()
    noise = np.random.RandomState(0).normal(0, 2.55 / 255, whole.shape)
    blurred = ndimage.convolve(whole, kernel[..., None]) + noise
    cut = (slice(16, -16), slice(16, -16))
    clean, y = photograph[cut], (blurred[cut].clip(0, 1) * 255).round().astype(np.uint8)
    layer = learned_inverse((y / 255.0).astype(np.float32), [(blurred, whole)])
    panels = []
    for title, pixels in (
        ("motion:15,30, sigma 2.55", y),
        ("fit_inverse_kernel", (layer.clip(0, 1) * 255).round().astype(np.uint8)),
        ("deblur", deblur(y, "motion:15,30")),
    ):
        a, b = (torch.from_numpy(v).permute(2, 0, 1)[None] / 255.0 for v in (pixels, clean))
        panels.append(Result(title, pixels, torch_psnr(a, b).item(), ssim(a, b).item()))
    write_image(file, compose(panels, clean), overwrite=True)


def table(results: dict[str, dict]) -> str:
    lines = ["| sigma | kernel | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for sigma, kernels in results.items():
        for name, rows in [*kernels.items(), ("mean", list(chain(*kernels.values())))]:
            figures = summary(rows)
            values = " | ".join(f"{figures[column]:.2f}" for column in COLUMNS)
            lines.append(f"| {sigma} | {name} | {values} |")
    return "\n".join(lines) + "\n"


def known(folder: Path, model: str, steps: int) -> dict[str, dict]:
    """What an earlier run has measured with the same network and steps."""
    file = folder / "deblurring.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    return before["sets"] if (before.get("model"), before.get("steps")) == (model, steps) else {}


def write(args: argparse.Namespace, results: dict, fits: list[Fit]) -> None:
    """What there is so far, as JSON and as Markdown."""
    results = {sigma: dict(sorted(results[sigma].items())) for sigma in sorted(results, key=float)}
    text = (
        f"# Deblurring\n\nSet3C, Levin's kernels, `{args.model}`, {args.steps} steps; PSNR in dB,"
        f" means of 3 images.\n\n{table(results)}"
    )
    if fits:
        lines = [
            f"| {name} | {' | '.join(f'{100 * error:.2f} %' for error in errors)} |"
            for name, *errors in fits
        ]
        header = f"| pair | error | mean of {DRAWS} draws of the noise | told which numbers are 0 |"
        fitted = "\n".join([header, "|---|---|---|---|", *lines])
        text += f"\nKernel 3 by `fit_kernel` from one pair, sigma 2.55:\n\n{fitted}\n"
    (args.output / "deblurring.md").write_text(text)
    facts = {"model": args.model, "steps": args.steps, "sets": results, "fit_kernel": fits}
    (args.output / "deblurring.json").write_text(json.dumps(facts, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dxnet_s_color")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--sigmas", nargs="+", type=float, default=[2.55, 7.65])
    parser.add_argument("--kernels", nargs="*", type=int, default=list(range(8)), metavar="0..7")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw docs/deblurring.jpg alone"
    )
    args = parser.parse_args(argv)
    if args.picture:
        draw(args.picture)
        return 0
    data = Path(os.environ.get("DENOISE_EXT_DATA", HERE.parents[1] / "shared/data"))
    levin, images = data / "kernels/levin09.npz", sorted((data / "test/Set3C").glob("*.png"))
    if not levin.is_file() or not images:
        print(f"skipped: needs kernels/levin09.npz and test/Set3C in DENOISE_EXT_DATA ({data})")
        return 0
    stored = np.load(levin)
    kernels = [np.asarray(stored[name], np.float64) for name in stored.files]
    clean = [read_image(file) / 255.0 for file in images]
    args.output.mkdir(parents=True, exist_ok=True)
    for sigma in args.sigmas:
        for i in args.kernels:
            side = f"{i + 1} ({kernels[i].shape[0]} x {kernels[i].shape[1]})"
            rows = measure(clean, kernels[i], sigma, args.model, args.steps)
            results = known(args.output, args.model, args.steps)
            results.setdefault(str(sigma), {})[side] = rows
            print(sigma, side, {k: round(v, 2) for k, v in summary(rows).items()}, flush=True)
            write(args, results, [])
    fits = found_kernels(data, kernels[2])
    write(args, known(args.output, args.model, args.steps), fits)
    print((args.output / "deblurring.md").read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
